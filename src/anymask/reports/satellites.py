"""The renderer of satellite scenes: true colour and false colour composites of each."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anymask.engine import Model

from .images import OVER, _tile
from .renderer import Drawing, Panel
from .volumes import _below, _beside, _unit, spread

TRUE, FALSE = ("B04", "B03", "B02"), ("B08", "B04", "B03")  # of Sentinel-2: red, green, blue; near infrared, red, green
DATES = 3  # of a scene that are drawn, at most


class Composites:
    """Scenes (C, H, W) or (C, T, H, W); see `Renderer`. Two composites of each scene (of the first, a middle and the
    last date): true and false colour where the bands are those of Sentinel-2 by name, else three bands that are far
    apart, and three others. Every band is stretched to its own range. A pixel is hatched where one of the three bands
    is hidden.
    """

    layout = "columns"
    samples = 3
    noun, unit = "scenes", "patches"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer
        about = model.schema.fields[self.tokenizer.field]
        self.composites = composites(about.columns or [str(n) for n in range(about.shape[0])])

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        flat = self.pixels(panels[0].content).transpose(0, 1).flatten(1)
        low, high = flat.nanquantile(0.02, dim=1), flat.nanquantile(0.98, dim=1)
        return [self._drawing(panel, low, torch.maximum(high, low + 1e-6)) for panel in panels]

    def pixels(self, content: Tensor) -> Tensor:
        """Standardised patches (B, N, D) to (B, C, *space) in the units of the data."""
        return self.tokenizer.raw(self.tokenizer.whole(content.float(), self.tokenizer.grid))

    def _drawing(self, panel: Panel, low: Tensor, high: Tensor) -> Drawing:
        x = self.pixels(panel.content)
        shape = (1, -1, *[1] * (x.ndim - 2))
        x = ((x - low.view(shape)) / (high - low).view(shape)).clamp(0, 1)
        shown = torch.ones(panel.content.shape[:2], dtype=torch.bool) if panel.shown is None else panel.shown
        hidden = spread(self.tokenizer, (~shown).float()) > 0.5
        values = None if panel.values is None else spread(self.tokenizer, _unit(panel.values))
        x, hidden = _dated(x), _dated(hidden)  # B C T H W
        values = None if values is None else _dated(values)
        rows = []
        for b in range(len(x)):
            for bands in self.composites:
                tiles = []
                for t in sorted({0, x.shape[2] // 2, x.shape[2] - 1})[:DATES]:
                    colour = (255 * x[b, bands, t].nan_to_num()).byte().permute(1, 2, 0).numpy()
                    if values is not None:
                        colour = _over(colour, values[b, bands, t].mean(0))
                    tiles.append(_tile(colour, hidden[b, bands, t].any(0).numpy()))
                rows.append(_beside(tiles))
        out = io.BytesIO()
        _below(rows).save(out, "png", optimize=True)
        return Drawing(panel.name, _words(panel, shown), png=out.getvalue())


def composites(names: Sequence[str]) -> list[list[int]]:
    """Three channels each for red, green and blue, by number."""
    place = {name: n for n, name in enumerate(names)}
    if all(name in place for name in (*TRUE, *FALSE)):
        return [[place[name] for name in bands] for bands in (TRUE, FALSE)]
    last = len(names) - 1
    apart = [round(last * share) for share in (1.0, 0.5, 0.0)]
    others = [round(last * share) for share in (0.85, 0.65, 0.3)]
    return [apart, others] if last > 2 else [apart]


def _dated(x: Tensor) -> Tensor:
    """(B, C, T, H, W), T = 1 where there is no axis of dates."""
    return x if x.ndim == 5 else x[:, :, None]


def _over(colour: np.ndarray, values: Tensor) -> np.ndarray:
    from matplotlib import colormaps

    grey = colour.mean(-1, keepdims=True)
    return (OVER * colormaps["viridis"](values.numpy())[..., :3] * 255 + (1 - OVER) * grey).astype(np.uint8)


def _words(panel: Panel, shown: Tensor) -> str:
    words = f"{panel.name}: composites of {len(shown)} scenes"
    if not shown.all():
        words += f", {1 - shown.float().mean():.0%} of the patches hidden"
    if panel.values is not None:
        words += f", each patch coloured by its value, from {panel.values.min():.3g} to {panel.values.max():.3g}"
    return words
