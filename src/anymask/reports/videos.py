"""The renderer of videos: a row of frames for each clip, in the order of time."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anymask.engine import Model

from .images import GAP, _over, _tile, rgb, value_range
from .renderer import Drawing, Panel

FRAMES = 8  # of a clip that are drawn, evenly spaced
APART = 2  # pixels between frames


class Clips:
    """Clips (C, T, H, W); see `Renderer`. A row is a clip, from left to right in time. Of many frames some are drawn,
    evenly spaced; behind the end of a short video there is nothing."""

    layout = "blocks"
    samples = 3
    noun, unit = "clips", "patches"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        low, high = value_range(self.pixels(panels[0].content).flatten(2, 3))
        return [self._drawing(panel, low, high) for panel in panels]

    def pixels(self, content: Tensor) -> Tensor:
        """Standardised patches (B, N, D) to (B, C, T, H, W) in the units of the data, the frames that are drawn."""
        return self.tokenizer.raw(self.tokenizer.whole(content.float(), self.tokenizer.grid))[:, :, self.numbers()]

    def numbers(self) -> Tensor:
        """The frames that are drawn."""
        frames = self.tokenizer.crop[0]
        return torch.linspace(0, frames - 1, min(frames, FRAMES)).round().long()

    def _drawing(self, panel: Panel, low: Tensor, high: Tensor) -> Drawing:
        content = panel.content
        there = ~content[..., :1].isnan()
        shown = there if panel.shown is None else panel.shown[..., None] & there
        x = self.pixels(torch.where(shown, content, torch.nan))  # B C t H W
        real = ~self.pixels(content)[:, 0, :, 0, 0].isnan()  # B t
        spread = None if panel.values is None else self._spread(panel.values)
        rows = []
        for sample, clip in enumerate(x):
            frames = (clip.transpose(0, 1) - low) / (high - low)  # t C H W
            tiles = rgb(frames)
            if spread is not None:
                tiles = _over(tiles, spread[sample])
            hidden = frames.isnan()[:, 0].cpu().numpy()
            rows.append(_row([_tile(t, h) if ok else None for t, h, ok in zip(tiles, hidden, real[sample])]))
        sheet = Image.new("RGBA", (rows[0].width, sum(row.height + GAP for row in rows) - GAP))
        for number, row in enumerate(rows):
            sheet.paste(row, (0, number * (row.height + GAP)))
        out = io.BytesIO()
        sheet.save(out, "png", optimize=True)
        return Drawing(panel.name, _words(panel, there), png=out.getvalue())

    def _spread(self, values: Tensor) -> np.ndarray:
        """(B, N) values scaled to 0..1 over all, for every pixel of the frames that are drawn (B, t, H, W)."""
        low, high = values.nan_to_num(nan=torch.inf).amin(), values.nan_to_num(nan=-torch.inf).amax()
        scaled = ((values - low) / (high - low).clamp(min=1e-12)).nan_to_num().unflatten(1, self.tokenizer.grid)
        for axis, side in enumerate(self.tokenizer.sides, 1):
            scaled = scaled.repeat_interleave(side, axis)
        return scaled[:, self.numbers()].cpu().numpy()


def _row(tiles: list[Image.Image | None]) -> Image.Image:
    """Side by side, transparent between."""
    width, height = next(tile.size for tile in tiles if tile is not None)
    sheet = Image.new("RGBA", (len(tiles) * (width + APART) - APART, height))
    for number, tile in enumerate(tiles):
        if tile is not None:
            sheet.paste(tile, (number * (width + APART), 0))
    return sheet


def _words(panel: Panel, there: Tensor) -> str:
    words = f"{panel.name}: {len(there)} clip{'s' * (len(there) != 1)}, frames from left to right"
    if panel.shown is not None and not bool((panel.shown | ~there[..., 0]).all()):
        hidden = (~panel.shown & there[..., 0]).sum() / there.sum()
        words += f", {float(hidden):.0%} of the patches hidden"
    if panel.values is not None:
        low, high = (float(f(panel.values[there[..., 0]])) for f in (torch.min, torch.max))
        words += f", each patch coloured by its value, from {low:.3g} to {high:.3g}"
    return words
