"""The renderer of crops of volumes: three orthogonal slices through the middle of each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anymask.engine import Model

from .images import GAP, GREY, LINE, OVER, PERIOD
from .renderer import Drawing, Panel

SIDE = 64  # pixels of the longest side of a slice, at least
VIEWS = ("sagittal", "coronal", "axial")


class Slices:
    """Crops (M, X, Y, Z) of volumes, axes to the right, anterior and superior; see `Renderer`. Of each crop a sagittal,
    a coronal and an axial slice through its middle, of each modality, as a person is looked at: superior (axial:
    anterior) is up. Hidden patches are hatched; what lies beside a scan is black."""

    layout = "columns"
    samples = 4
    noun, unit = "crops", "patches"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        first = self.voxels(panels[0].content)
        flat = first.transpose(0, 1).flatten(1)
        low, high = flat.nanquantile(0.005, dim=1), flat.nanquantile(0.995, dim=1)
        return [self._drawing(panel, low, torch.maximum(high, low + 1e-6)) for panel in panels]

    def voxels(self, content: Tensor) -> Tensor:
        """Standardised patches (B, N, D) to (B, M, X, Y, Z) in the units of the data."""
        return self.tokenizer.raw(self.tokenizer.whole(content.float(), self.tokenizer.grid))

    def _drawing(self, panel: Panel, low: Tensor, high: Tensor) -> Drawing:
        shape = (1, -1, 1, 1, 1)
        grey = ((self.voxels(panel.content) - low.view(shape)) / (high - low).view(shape)).clamp(0, 1)
        shown = torch.ones(panel.content.shape[:2], dtype=torch.bool) if panel.shown is None else panel.shown
        missing = panel.content[..., 0].isnan()
        hidden = self._spread((~shown & ~missing).float()) > 0.5  # B M X Y Z
        values = None if panel.values is None else self._spread(_unit(panel.values))
        rows = []
        for b in range(len(grey)):
            for channel, volume in enumerate(grey[b]):
                over = None if values is None else values[b, channel]
                tiles = [self._tile(volume, hidden[b, channel], over, view) for view in range(3)]
                rows.append(_beside(tiles))
        sheet = _below(rows)
        out = io.BytesIO()
        sheet.save(out, "png", optimize=True)
        return Drawing(panel.name, _words(panel, shown, missing), png=out.getvalue())

    def _spread(self, values: Tensor) -> Tensor:
        """(B, N) a value a patch, for every voxel (B, M, X, Y, Z)."""
        return spread(self.tokenizer, values)

    def _tile(self, volume: Tensor, hidden: Tensor, values: Tensor | None, view: int) -> Image.Image:
        grey = _slice(volume.nan_to_num(), view)
        hole = _slice(hidden.float(), view) > 0.5
        zoom = max(1, -(-SIDE // max(grey.shape)))
        grey, hole = (a.repeat(zoom, 0).repeat(zoom, 1) for a in (grey, hole))
        pixels = np.repeat((255 * grey).round().astype(np.uint8)[..., None], 3, 2)
        if values is not None:
            from matplotlib import colormaps

            colour = colormaps["viridis"](_slice(values, view).repeat(zoom, 0).repeat(zoom, 1))[..., :3] * 255
            pixels = (OVER * colour + (1 - OVER) * pixels).astype(np.uint8)
        row, column = np.indices(hole.shape)
        hatch = np.where((row + column) % PERIOD == 0, LINE, GREY)[..., None].astype(np.uint8)
        return Image.fromarray(np.where(hole[..., None], hatch, pixels))


def spread(tokenizer: Any, values: Tensor) -> Tensor:
    """(B, N) a value a patch, for every value of a grid (B, C, *space): patches of all channels, or of sets of them."""
    groups = getattr(tokenizer, "members", [list(range(tokenizer.channels))])
    each = values.unflatten(1, (len(groups), *tokenizer.grid))  # B S n..
    for axis, side in enumerate(tokenizer.sides):
        each = each.repeat_interleave(side, axis + 2)
    of = {channel: number for number, group in enumerate(groups) for channel in group}
    return each[:, [of[channel] for channel in range(tokenizer.channels)]]


def _slice(volume: Tensor, view: int) -> np.ndarray:
    """The middle slice (rows, columns) across an axis: superior or anterior up, right (of sagittal ones anterior) to
    the right."""
    middle = volume.shape[view] // 2
    return volume.select(view, middle).numpy().T[::-1]


def _unit(values: Tensor) -> Tensor:
    low, high = values.amin(), values.amax()
    return (values - low) / (high - low).clamp(min=1e-12)


def _beside(tiles: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGBA", (sum(t.width for t in tiles) + 2 * (len(tiles) - 1), max(t.height for t in tiles)))
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width + 2
    return sheet


def _below(rows: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGBA", (max(r.width for r in rows), sum(r.height for r in rows) + GAP * (len(rows) - 1)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    return sheet


def _words(panel: Panel, shown: Tensor, missing: Tensor) -> str:
    words = f"{panel.name}: {', '.join(VIEWS[:2])} and {VIEWS[2]} slices of {len(shown)} crops"
    hidden = (~shown & ~missing).float().sum() / (~missing).float().sum().clamp(min=1)
    if hidden:
        words += f", {hidden:.0%} of the patches hidden"
    if panel.values is not None:
        words += f", each patch coloured by its value, from {panel.values.min():.3g} to {panel.values.max():.3g}"
    return words
