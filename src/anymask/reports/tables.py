"""The renderer of tables: rows of a table as columns of a small heat map, with the figures in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape

import numpy as np
from torch import Tensor

from anymask.data.kinds.table import levels_of
from anymask.engine import Model

from .renderer import Drawing, Panel

WIDTH, NAMES, LINE, SPACE = 372, 112, 19, 2  # of a drawing, of the column names, of a line, between cells
MOST = 24  # columns of a table that are drawn
READABLE = 40  # units a cell needs for a figure
DEEPEST = 0.42  # opacity of the highest value: text on it stays legible in both colour schemes
HATCH = 6  # units between the lines of what is hidden


class Rows:
    """Rows of a table; see `Renderer`. A line is a column of the table, shaded by where its value lies between the
    column's lowest (pale) and highest in training; categories are named, and shaded by their alphabet. Hidden cells
    are hatched, missing ones (NaN) crossed, predicted ones framed, with the true value of the first panel in
    brackets."""

    layout = "blocks"
    samples = 3  # so that a prediction and its true value fit a cell
    noun, unit = "rows", "cells"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer
        field = model.schema.fields[model.tokenizer.field]
        self.names = field.columns or tuple(f"column {n}" for n in range(field.shape[0]))
        self.low = np.asarray(field.lows, dtype=float)
        self.range = np.maximum(np.asarray(field.highs, dtype=float) - self.low, 1e-12)
        levels = levels_of(field)
        self.levels = [levels.get(name) for name in self.names]  # of the lines; None = numbers

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        truth = self.cells(panels[0].content)
        return [self._drawing(panel, truth) for panel in panels]

    def cells(self, content: Tensor) -> np.ndarray:
        """Scaled cells (B, F, 1) to (B, F) in the units of the data; NaN stays NaN."""
        return self.tokenizer.raw(content.float().cpu()).numpy()

    def _said(self, line: int, value: float) -> str:
        """A value of a line as text."""
        levels = self.levels[line]
        return figure(value) if levels is None else levels[min(max(round(value), 0), len(levels) - 1)]

    def _drawing(self, panel: Panel, truth: np.ndarray) -> Drawing:
        cells = self.cells(panel.content)
        shown = np.ones(cells.shape, dtype=bool) if panel.shown is None else panel.shown.cpu().numpy()
        made = np.zeros(cells.shape, dtype=bool) if panel.predicted is None else panel.predicted.cpu().numpy()
        shade = (cells - self.low) / self.range
        if panel.values is not None:
            values = panel.values.cpu().numpy()
            cells, shade = values, (values - values.min()) / max(float(np.ptp(values)), 1e-12)
        lines = min(len(self.names), MOST)
        width = (WIDTH - NAMES) / len(cells)
        parts = []
        for line in range(lines):
            y = line * LINE
            parts.append(f'<text x="0" y="{y + 13.5}" fill="var(--muted)">{escape(shortened(self.names[line]))}</text>')
            for row in range(len(cells)):
                value, own = cells[row, line], truth[row, line] if made[row, line] and row < len(truth) else np.nan
                say = figure if panel.values is not None else partial(self._said, line)
                text = "" if np.isnan(value) else say(value) + ("" if np.isnan(own) else f" ({say(own)})")
                box = (NAMES + row * width, y, width - SPACE, LINE - SPACE)
                shade_ = np.nan if np.isnan(value) else float(shade[row, line])
                parts.append(_cell(box, shade_, shown[row, line], text, framed=bool(made[row, line])))
        left = len(self.names) - lines
        if left:
            words = f"and {left} more columns"
            parts.append(f'<text x="0" y="{lines * LINE + 13.5}" fill="var(--muted)">{words}</text>')
        alt = _words(panel, cells, shown, made, truth, np.array([levels is None for levels in self.levels]))
        body = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {(lines + bool(left)) * LINE}">'
        return Drawing(panel.name, alt, svg=f'{body}<g font-size="12">{"".join(parts)}</g></svg>')


def _cell(box: tuple[float, ...], shade: float, shown: bool, text: str, *, framed: bool) -> str:
    """`shade` from 0 to 1, NaN for a missing cell."""
    x, y, width, height = box
    rect = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"'
    if np.isnan(shade):  # not in the data: crossed out
        cross = f"M{x:.1f} {y:.1f}l{width:.1f} {height:.1f}m0 {-height:.1f}l{-width:.1f} {height:.1f}"
        frame = 'fill="none" stroke="var(--axis)" stroke-dasharray="2 2"'
        return f'{rect} {frame}/><path d="{cross}" stroke="var(--axis)"/>'
    if not shown:
        return f'{rect} fill="var(--line)"/><path d="{_hatch(box)}" stroke="var(--axis)" stroke-width="1"/>'
    frame = ' stroke="var(--c2)" stroke-width="1.6"' if framed else ""
    opacity = DEEPEST * (0.06 + 0.94 * min(max(shade, 0.0), 1.0))
    drawn = f'{rect} fill="var(--c1)" fill-opacity="{opacity:.2f}"{frame}/>'
    if width < READABLE:
        return drawn
    text = shortened(text, max(4, int(width / 5.6)))
    size = "" if len(text) * 6.4 < width else ' font-size="10.5"'
    at = f'x="{x + width / 2:.1f}" y="{y + 12.5:.1f}"'
    return f'{drawn}<text {at} text-anchor="middle" fill="var(--ink)"{size}>{escape(text)}</text>'


def _hatch(box: tuple[float, ...]) -> str:
    """Diagonal lines within a box."""
    x, y, width, height = box
    path = []
    for start in np.arange(-height + HATCH / 2, width, HATCH):
        left, right, foot = max(start, 0.0), min(start + height, width), y + height + start
        path.append(f"M{x + left:.1f} {foot - left:.1f}L{x + right:.1f} {foot - right:.1f}")
    return "".join(path)


def figure(value: float) -> str:
    """A value in at most six characters or so: three digits that say something, never an exponent below a million."""
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shortened(name: str, most: int = 17) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _words(
    panel: Panel, cells: np.ndarray, shown: np.ndarray, made: np.ndarray, truth: np.ndarray, numbers: np.ndarray
) -> str:
    missing = np.isnan(cells)
    words = [f"{panel.name}: {len(cells)} row{'s' * (len(cells) != 1)} of {cells.shape[1]} columns"]
    if missing.any():
        words.append(f"{missing.sum()} cells missing")
    if not (shown | missing).all():
        words.append(f"{(~shown & ~missing).sum()} cells hidden")
    of_numbers, of_categories = made & numbers, made & ~numbers
    if truth.shape == cells.shape and of_numbers.any():
        off = figure(float(np.nanmedian(np.abs(cells - truth)[of_numbers])))
        words.append(f"{of_numbers.sum()} cells predicted, off by {off} in the median")
    if truth.shape == cells.shape and of_categories.any():
        right = (cells == truth)[of_categories].sum()
        words.append(f"{of_categories.sum()} categories predicted, {right} of them right")
    if panel.values is not None:
        words.append(f"each cell by its value, from {cells.min():.3g} to {cells.max():.3g}")
    return ", ".join(words)
