"""Renderers of depth maps and class maps on a grid of patches."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anymask.engine import Model

from .images import _column, _tile, _words
from .renderer import Drawing, Panel

UNKNOWN = (16, 16, 24)  # what has no depth or class
CLASSES = "tab20"


class Maps(ABC):
    """Maps of one number a pixel, in colours; see `Renderer`. Hidden patches are hatched, unknown pixels dark."""

    layout = "columns"
    samples = 4
    noun, unit = "maps", "patches"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    @abstractmethod
    def values(self, content: Tensor) -> np.ndarray:
        """Tokens (B, N, D) to (B, H, W), NaN where unknown."""

    @abstractmethod
    def colours(self, values: np.ndarray, first: np.ndarray) -> np.ndarray:
        """(B, H, W, 3) uint8 of values, on the scale of the first panel's."""

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        first = self.values(panels[0].content.float().cpu())
        return [self._drawing(panel, first) for panel in panels]

    def _drawing(self, panel: Panel, first: np.ndarray) -> Drawing:
        values = self.values(panel.content.float().cpu())
        tiles = np.where(np.isnan(values)[..., None], np.array(UNKNOWN, np.uint8), self.colours(values, first))
        shown = torch.ones(panel.content.shape[:2], dtype=torch.bool) if panel.shown is None else panel.shown.cpu()
        if panel.values is not None:
            tiles = self._over(panel.values.cpu(), tiles)
        hidden = ~self._spread(shown)
        column = _column([_tile(tile, hole) for tile, hole in zip(tiles, hidden)])
        out = io.BytesIO()
        column.save(out, "png", optimize=True)
        return Drawing(panel.name, _words(panel, shown).replace("image", "map"), png=out.getvalue())

    def _spread(self, x: Tensor) -> np.ndarray:
        """(B, N) for every pixel (B, H, W)."""
        rows, columns = self.tokenizer.sides
        return x.unflatten(1, self.tokenizer.grid).repeat_interleave(rows, 1).repeat_interleave(columns, 2).numpy()

    def _over(self, values: Tensor, tiles: np.ndarray) -> np.ndarray:
        from matplotlib import colormaps

        scaled = (values - values.amin()) / (values.amax() - values.amin()).clamp(min=1e-12)
        colour = colormaps["viridis"](self._spread(scaled))[..., :3] * 255
        return (0.65 * colour + 0.35 * tiles.mean(-1, keepdims=True)).astype(np.uint8)


class Depths(Maps):
    """Near is bright."""

    def values(self, content: Tensor) -> np.ndarray:
        return self.tokenizer.raw(self.tokenizer.whole(content, self.tokenizer.grid))[:, 0].numpy()

    def colours(self, values: np.ndarray, first: np.ndarray) -> np.ndarray:
        from matplotlib import colormaps

        known = first[np.isfinite(first)]
        low, high = (np.quantile(known, 0.01), np.quantile(known, 0.99)) if len(known) else (0.0, 1.0)
        scaled = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1)
        return (colormaps["magma_r"](np.nan_to_num(scaled))[..., :3] * 255).astype(np.uint8)


class ClassMaps(Maps):
    """A colour for each class."""

    def values(self, content: Tensor) -> np.ndarray:
        numbers = self.tokenizer.numbers(content, self.tokenizer.grid)[:, 0].numpy()
        return np.where(numbers < 0, np.nan, numbers)

    def colours(self, values: np.ndarray, first: np.ndarray) -> np.ndarray:
        from matplotlib import colormaps

        table = (np.array(colormaps[CLASSES].colors) * 255).astype(np.uint8)  # type: ignore[attr-defined]
        return table[np.nan_to_num(values).astype(np.int64) % len(table)]
