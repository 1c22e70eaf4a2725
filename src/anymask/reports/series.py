"""The renderer of time series: a line a variable, what is hidden shaded, predictions drawn over the truth."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from torch import Tensor

from anymask.engine import Model

from .renderer import Drawing, Panel
from .tables import figure, shortened

WIDTH, STRIP, TITLE, GAP = 372, 46, 16, 8  # of a drawing, of a line's strip, of the words above it, between strips
MOST = 9  # strips of a drawing
DEEPEST = 0.55  # opacity of the highest value of a patch


class Lines:
    """Time series; see `Renderer`. A strip is a variable of a sample, scaled to that variable's range in the first
    panel. Hidden patches are shaded; missing values leave a gap in the line; a prediction is drawn over the truth,
    which is dashed. Of many variables the first ones are drawn."""

    layout = "blocks"
    samples = 3
    noun, unit = "series", "patches"
    rest = "and {} more variables"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer
        self.about = model.schema.fields[model.tokenizer.field]

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        truth = self.values(panels[0].content)
        low, high = self.scale(truth)
        margin = 0.06 * np.maximum(high - low, 1e-6)
        return [self._drawing(panel, truth, low - margin, high + margin) for panel in panels]

    def scale(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest value of each variable of (B, C, T), 0 where all are missing."""
        known = np.isfinite(truth)
        low = np.where(known, truth, np.inf).min((0, 2))
        high = np.where(known, truth, -np.inf).max((0, 2))
        low, high = (np.where(np.isfinite(v), v, 0.0) for v in (low, high))
        return low, high

    def chosen(self, truth: np.ndarray, samples: int) -> Sequence[int]:
        """The variables of a sample (C, T) that are drawn, where a drawing holds so many samples."""
        return range(min(len(truth), max(1, MOST // samples)))

    def values(self, content: Tensor) -> np.ndarray:
        """Patches (B, C * N, D) as series (B, C, T): in the units of the data, or of each window's own mean and spread
        where the tokenizer takes these away."""
        x = self.tokenizer.values(content.float().cpu())
        if not self.tokenizer.instance:
            x = x * self.tokenizer.std.cpu() + self.tokenizer.mean.cpu()
        return x.numpy()

    def _drawing(self, panel: Panel, truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> Drawing:
        x = self.values(panel.content)
        b, c, length = x.shape
        per = lambda flags: flags.cpu().numpy().reshape(b, c, -1)
        patches = panel.content.shape[1] // c
        shown = np.ones((b, c, patches), dtype=bool) if panel.shown is None else per(panel.shown)
        made = np.zeros((b, c, patches), dtype=bool) if panel.predicted is None else per(panel.predicted)
        values = None if panel.values is None else per(panel.values)
        parts, y, left = [], 0, 0
        for sample in range(b):
            chosen = self.chosen(truth[min(sample, len(truth) - 1)], b)
            left = c - len(chosen)
            for variable in chosen:
                at = (sample, variable)
                parts.append(self._words(y, variable, low, high))
                top = y + TITLE
                parts.append(_shades(top, shown[at] | made[at], made[at]))
                if values is not None:
                    parts.append(_tint(top, (values[at] - values.min()) / max(float(np.ptp(values)), 1e-12)))
                seen = np.repeat(shown[at] | made[at], length // patches)
                scale = (low[variable], high[variable], top)
                if made[at].any() and sample < len(truth):
                    guess = np.repeat(made[at], length // patches)
                    dashed = 'stroke="var(--c1)" stroke-dasharray="3 2"'
                    parts.append(_line(np.where(guess, truth[at], np.nan), scale, dashed))
                    parts.append(_line(np.where(guess, x[at], np.nan), scale, 'stroke="var(--c2)"'))
                    seen &= ~guess
                parts.append(_line(np.where(seen, x[at], np.nan), scale, 'stroke="var(--c1)"'))
                y += TITLE + STRIP + GAP
        if left:
            parts.append(f'<text x="0" y="{y + 12}" fill="var(--muted)">{self.rest.format(left)}</text>')
            y += TITLE
        alt = _alt(panel, x, shown, made, truth)
        body = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {y}">'
        return Drawing(panel.name, alt, svg=f'{body}<g font-size="12">{"".join(parts)}</g></svg>')

    def _words(self, y: int, variable: int, low: np.ndarray, high: np.ndarray) -> str:
        name = self.about.columns[variable] if self.about.columns else f"variable {variable}"
        unit = self.about.units[variable] if self.about.units else ""
        unit = "of its own spread" if self.tokenizer.instance else unit
        span = f"{figure(float(low[variable]))} to {figure(float(high[variable]))} {unit}".strip()
        left = f'<text x="0" y="{y + 12}" fill="var(--ink)">{escape(shortened(name, 24))}</text>'
        right = f'<text x="{WIDTH}" y="{y + 12}" text-anchor="end" fill="var(--muted)">{escape(span)}</text>'
        return left + right


def _shades(top: int, there: np.ndarray, made: np.ndarray) -> str:
    """Behind a strip: hidden patches dark, predicted ones pale."""
    out = [f'<rect x="0" y="{top}" width="{WIDTH}" height="{STRIP}" fill="none" stroke="var(--line)"/>']
    for n in range(len(there)):
        if not there[n]:
            out.append(_box(n, len(there), top, 'fill="var(--axis)" fill-opacity="0.45"'))
        elif made[n]:
            out.append(_box(n, len(there), top, 'fill="var(--line)"'))
    return "".join(out)


def _tint(top: int, shade: np.ndarray) -> str:
    """Patches by a value from 0 to 1."""
    paint = lambda v: f'fill="var(--c2)" fill-opacity="{DEEPEST * v:.2f}"'
    return "".join(_box(n, len(shade), top, paint(v)) for n, v in enumerate(shade))


def _box(n: int, of: int, top: int, paint: str) -> str:
    wide = WIDTH / of
    return f'<rect x="{n * wide:.1f}" y="{top}" width="{wide:.1f}" height="{STRIP}" {paint}/>'


def _line(x: np.ndarray, scale: tuple[float, float, int], stroke: str) -> str:
    """A path through what is not NaN; a single moment between gaps is a dot."""
    low, high, top = scale
    across = (np.arange(len(x)) + 0.5) * WIDTH / len(x)
    down = top + STRIP * (1 - np.clip((x - low) / max(high - low, 1e-12), 0, 1))
    path, open_ = [], False
    for n in range(len(x)):
        if np.isnan(x[n]):
            open_ = False
            continue
        path.append(f"{'L' if open_ else 'M'}{across[n]:.1f} {down[n]:.1f}")
        if not open_ and (n + 1 == len(x) or np.isnan(x[n + 1])):
            path.append("h.1")
        open_ = True
    drawn = 'fill="none" stroke-width="1.4" stroke-linejoin="round" stroke-linecap="round"'
    return f'<path d="{"".join(path)}" {drawn} {stroke}/>' if path else ""


def _alt(panel: Panel, x: np.ndarray, shown: np.ndarray, made: np.ndarray, truth: np.ndarray) -> str:
    b, c, length = x.shape
    words = [f"{panel.name}: {b} series of {c} variable{'s' * (c != 1)} and {length} moments"]
    if np.isnan(truth).any():
        words.append(f"{np.isnan(truth).mean():.0%} of the values missing")
    if not (shown | made).all():
        words.append(f"{(~(shown | made)).mean():.0%} of the patches hidden")
    if made.any() and truth.shape == x.shape:
        gap = np.abs(x - truth)[np.repeat(made, length // made.shape[2], 2)]
        if np.isfinite(gap).any():
            words.append(f"{made.sum()} patches predicted, off by {figure(float(np.nanmedian(gap)))} in the median")
    if panel.values is not None:
        words.append(f"each patch by its value, from {panel.values.min():.3g} to {panel.values.max():.3g}")
    return ", ".join(words)
