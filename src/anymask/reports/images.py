"""The renderer of images on a grid of patches."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anymask.engine import Model

from .renderer import Drawing, Panel

SIDE, LARGEST = 64, 128  # pixels: smaller images are enlarged by a whole number, larger ones averaged down
GAP = 4  # pixels between samples, transparent
GREY, LINE, PERIOD = 150, 105, 6  # what is hidden is grey with dark diagonal lines, so many pixels apart
OVER = 0.65  # how much a token's value covers the image


class Images:
    """Images (C, H, W); see `Renderer`. Of other numbers of channels than 1 and 3 the first ones are drawn, each
    stretched to its own range."""

    layout = "columns"
    samples = 4
    noun, unit = "images", "patches"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        low, high = value_range(self.pixels(panels[0].content))
        return [self._drawing(panel, low, high) for panel in panels]

    def pixels(self, content: Tensor) -> Tensor:
        """Standardised patches (B, N, D) to (B, C, H, W) in the units of the data."""
        return self.tokenizer.raw(self.tokenizer.whole(content.float(), self.tokenizer.grid))

    def masked(self, content: Tensor, shown: Tensor) -> Tensor:
        """As `pixels`, NaN where not shown (B, N)."""
        return self.pixels(torch.where(shown[..., None], content, torch.nan))

    def _drawing(self, panel: Panel, low: Tensor, high: Tensor) -> Drawing:
        shown = torch.ones(panel.content.shape[:2], dtype=torch.bool) if panel.shown is None else panel.shown
        scaled = (self.pixels(panel.content) - low) / (high - low)
        tiles = rgb(scaled)  # B H W 3
        hidden = self.masked(panel.content, shown).isnan()[:, 0].numpy()  # B H W
        if panel.values is not None:
            tiles = _over(tiles, self._spread(panel.values))
        column = _column([_tile(tile, hole) for tile, hole in zip(tiles, hidden)])
        out = io.BytesIO()
        column.save(out, "png", optimize=True)
        return Drawing(panel.name, _words(panel, shown), png=out.getvalue())

    def _spread(self, values: Tensor) -> np.ndarray:
        """(B, N) values scaled to 0..1 over all, for every pixel (B, H, W)."""
        low, high = values.amin(), values.amax()
        scaled = ((values - low) / (high - low).clamp(min=1e-12)).unflatten(1, self.tokenizer.grid)
        patch = self.tokenizer.patch
        return scaled.repeat_interleave(patch, 1).repeat_interleave(patch, 2).numpy()


def value_range(images: Tensor) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) low and high, NaN left aside: one range for grey and RGB, one each for other channels."""
    flat = images.transpose(0, 1).flatten(1)
    low, high = flat.nanquantile(0.005, dim=1), flat.nanquantile(0.995, dim=1)
    if images.shape[1] in (1, 3):
        low, high = low.min().expand_as(low), high.max().expand_as(high)
    return low[:, None, None], torch.maximum(high, low + 1e-6)[:, None, None]


def rgb(images: Tensor, hidden: float = 0.5) -> np.ndarray:
    """(B, C, H, W) in 0..1, NaN where hidden, to (B, H, W, 3) uint8."""
    shown = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
    shown = torch.nan_to_num(shown.clamp(0, 1), nan=hidden)
    return (shown * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _over(tiles: np.ndarray, values: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    colour = colormaps["viridis"](values)[..., :3] * 255
    grey = tiles.mean(-1, keepdims=True)
    return (OVER * colour + (1 - OVER) * grey).astype(np.uint8)


def _tile(pixels: np.ndarray, hidden: np.ndarray) -> Image.Image:
    """One image, hidden pixels (H, W) hatched, at a size to be looked at."""
    height, width = hidden.shape
    if min(height, width) > LARGEST:
        scale = LARGEST / min(height, width)
        size = (round(width * scale), round(height * scale))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
        hidden = np.asarray(Image.fromarray(hidden).resize(size, Image.Resampling.NEAREST))
    zoom = max(1, -(-SIDE // min(hidden.shape)))
    pixels, hidden = (v.repeat(zoom, 0).repeat(zoom, 1) for v in (pixels, hidden))
    row, column = np.indices(hidden.shape)
    hatch = np.where((row + column) % PERIOD == 0, LINE, GREY)[..., None].astype(np.uint8)
    return Image.fromarray(np.where(hidden[..., None], hatch, pixels))


def _column(tiles: list[Image.Image]) -> Image.Image:
    """One below another, transparent between."""
    width, height = tiles[0].size
    sheet = Image.new("RGBA", (width, len(tiles) * (height + GAP) - GAP))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (0, number * (height + GAP)))
    return sheet


def _words(panel: Panel, shown: Tensor) -> str:
    words = f"{panel.name}: {len(shown)} image{'s' * (len(shown) != 1)}"
    if not shown.all():
        words += f", {1 - shown.float().mean():.0%} of the patches hidden"
    if panel.values is not None:
        words += f", each patch coloured by its value, from {panel.values.min():.3g} to {panel.values.max():.3g}"
    return words
