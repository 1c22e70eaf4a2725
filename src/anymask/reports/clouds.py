"""Renderers of point clouds, seen from two sides, and of lidar windows, seen from above."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anymask.engine import Model

from .renderer import Drawing, Panel

SIDE, GAP, FINER = 112, 4, 2  # pixels of a view, between views, and how much finer it is drawn
# Middle tones, which show on light and on dark ground: what is there, what is predicted, what is hidden.
THERE, MADE, HIDDEN = (58, 124, 196), (214, 96, 20), (136, 142, 150)
FAINT = 90  # opacity of what is hidden, of 255
TURN, TILT = math.radians(35), math.radians(20)  # of the first view of a cloud; the second is from the side
SQUARE = 0.85  # of its voxel, that a hidden voxel is drawn as


class Clouds:
    """Point clouds; see `Renderer`. Each sample is seen at an angle and, below, from its side; nearer points are
    darker. Points of hidden groups are grey, predicted ones orange."""

    layout = "columns"
    samples = 4
    noun, unit = "clouds", "groups"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        return [self._drawing(panel) for panel in panels]

    def _drawing(self, panel: Panel) -> Drawing:
        points = self.tokenizer.raw(panel.content.float().cpu()).numpy()  # B G K 3
        looks = _looks(panel)
        tiles = []
        for sample, look in zip(points, looks):
            colour = look[:, None].repeat(sample.shape[1], 1).reshape(-1, 4)
            xyz = sample.reshape(-1, 3)
            real = np.isfinite(xyz).all(1)
            for view in (_angle(xyz[real]), xyz[real][:, [1, 2, 0]]):
                tiles.append(_scatter(view, colour[real]))
        return Drawing(panel.name, _words(panel, self.noun, self.unit), png=_png(tiles))


class BirdsEye:
    """Windows of lidar sweeps from above, forward being up; see `Renderer`. Higher points are darker. Hidden voxels are
    grey squares, predicted points orange."""

    layout = "columns"
    samples = 4
    noun, unit = "windows", "voxels"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        return [self._drawing(panel) for panel in panels]

    def _drawing(self, panel: Panel) -> Drawing:
        content = panel.content.float().cpu()
        points, centres = self.tokenizer.raw(content).numpy(), self.tokenizer.packing.centre(content).numpy()
        level, spread = self.tokenizer.level, 2.0  # metres
        tiles = []
        for sample, centre, look in zip(points, centres[..., :2], _looks(panel)):
            middle, half = _span(centre)
            hidden = (look[:, 3] == FAINT) & np.isfinite(centre).all(1)
            xyz = sample[~hidden].reshape(-1, 3)
            colour = look[~hidden][:, None].repeat(sample.shape[1], 1).reshape(-1, 4)
            real = np.isfinite(xyz).all(1)
            above = _from_above(xyz[real, :2], middle, half)
            view = np.column_stack([above, np.clip((xyz[real, 2] - level) / spread, -1, 1)])
            side = self.tokenizer.pitch[0] * SQUARE / half * SIDE * FINER / 2
            tiles.append(_scatter(view, colour[real], under=_from_above(centre[hidden], middle, half), square=side))
        return Drawing(panel.name, _words(panel, self.noun, self.unit), png=_png(tiles))


def _span(xy: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle and half the side of the square that holds the voxels of a window."""
    there = xy[np.isfinite(xy).all(1)]
    if not len(there):
        return np.zeros(2), 1.0
    low, high = there.min(0), there.max(0)
    return (low + high) / 2, max(float((high - low).max()) / 2, 1e-6) * 1.05


def _from_above(xy: np.ndarray, middle: np.ndarray, half: float) -> np.ndarray:
    """Places on the picture (n, 2): the sensor's left to the left, forward up."""
    return np.column_stack([middle[1] - xy[:, 1], xy[:, 0] - middle[0]]) / half


def _angle(xyz: np.ndarray) -> np.ndarray:
    """Turned about the upright axis and tilted: right, up, nearness."""
    right = math.cos(TURN) * xyz[:, 1] - math.sin(TURN) * xyz[:, 0]
    near = math.sin(TURN) * xyz[:, 1] + math.cos(TURN) * xyz[:, 0]
    up = math.cos(TILT) * xyz[:, 2] - math.sin(TILT) * near
    return np.column_stack([right, up, math.cos(TILT) * near + math.sin(TILT) * xyz[:, 2]])


def _looks(panel: Panel) -> np.ndarray:
    """(B, N, 4) colour and opacity of each token."""
    b, n = panel.content.shape[:2]
    look = np.tile(np.array([*THERE, 255], dtype=np.float32), (b, n, 1))
    if panel.values is not None:
        from matplotlib import colormaps

        values = panel.values.float().cpu().numpy()
        low, high = np.nanmin(values), np.nanmax(values)
        look[..., :3] = colormaps["viridis"]((values - low) / max(float(high - low), 1e-12))[..., :3] * 255
    if panel.shown is not None:
        look[~panel.shown.cpu().numpy()] = (*HIDDEN, FAINT)
    if panel.predicted is not None:
        look[panel.predicted.cpu().numpy()] = (*MADE, 255)
    return look


def _scatter(view: np.ndarray, colour: np.ndarray, *, under: np.ndarray | None = None, square: float = 0.0
             ) -> np.ndarray:  # fmt: skip
    """(SIDE, SIDE, 4) uint8 of points (n, 3), right, up and nearness in -1..1, near ones over far ones; squares of
    `square` fine pixels at `under` (m, 2) behind them."""
    size = SIDE * FINER
    canvas = np.zeros((size, size, 4), dtype=np.float32)
    if under is not None and len(under):
        reach = max(1, round(square / 2))
        grey = np.array([[*HIDDEN, FAINT]], dtype=np.float32).repeat(len(under), 0)
        _stamp(canvas, under, grey, reach, round_=False)
    order = np.argsort(view[:, 2], kind="stable")
    view, colour = view[order], colour[order].copy()
    # Lighter and a little transparent where far: legible on any ground.
    near = np.clip((view[:, 2] + 1) / 2, 0, 1)[:, None]
    colour[:, :3] = colour[:, :3] * (0.55 + 0.45 * near) + 200 * (0.45 - 0.45 * near)
    faint = colour[:, 3] < 255
    for part in (faint, ~faint):  # what is hidden lies under what is seen
        _stamp(canvas, view[part, :2], colour[part], 1 if len(view) > 600 else 2)
    fine = canvas.reshape(SIDE, FINER, SIDE, FINER, 4)
    alpha = fine[..., 3:].mean((1, 3))
    tone = (fine[..., :3] * fine[..., 3:]).mean((1, 3)) / np.maximum(alpha, 1e-6)
    return np.concatenate([tone, alpha], -1).round().astype(np.uint8)


def _stamp(canvas: np.ndarray, at: np.ndarray, colour: np.ndarray, reach: int, *, round_: bool = True) -> None:
    """Discs (or squares) of `reach` pixels about each of `at` (n, 2) in -1..1, later ones over earlier ones."""
    size = len(canvas)
    column = np.round((at[:, 0] * 0.96 + 1) / 2 * (size - 1)).astype(int)
    row = np.round((1 - at[:, 1] * 0.96) / 2 * (size - 1)).astype(int)
    around = range(-reach, reach + 1)
    spread = [(a, b) for a in around for b in around if not round_ or a * a + b * b <= reach * reach + 0.5]
    rows = np.concatenate([(row + a)[:, None] for a, _ in spread], 1).ravel()
    columns = np.concatenate([(column + b)[:, None] for _, b in spread], 1).ravel()
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    canvas[rows[inside], columns[inside]] = colour.repeat(len(spread), 0)[inside]


def _png(tiles: list[np.ndarray]) -> bytes:
    """One below another, transparent between."""
    sheet = Image.new("RGBA", (SIDE, len(tiles) * (SIDE + GAP) - GAP))
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile, "RGBA"), (0, number * (SIDE + GAP)))
    out = io.BytesIO()
    sheet.save(out, "png", optimize=True)
    return out.getvalue()


def _words(panel: Panel, noun: str, unit: str) -> str:
    count = len(panel.content)
    words = [f"{panel.name}: {count} {noun if count != 1 else noun[:-1]}"]
    real = ~panel.content[..., 0].isnan()
    if panel.shown is not None and bool((~panel.shown & real).any()):
        words.append(f"{float((~panel.shown & real).sum() / real.sum()):.0%} of the {unit} hidden")
    if panel.predicted is not None and bool(panel.predicted.any()):
        words.append(f"{int(panel.predicted.sum())} {unit} predicted")
    if panel.values is not None:
        low, high = _range(panel.values)
        words.append(f"each coloured by its value, from {low:.3g} to {high:.3g}")
    return ", ".join(words)


def _range(values: Tensor) -> tuple[float, float]:
    known = values[~torch.isnan(values)]
    return float(known.min()), float(known.max())
