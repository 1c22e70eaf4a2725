"""The renderer of health records: stays as heat maps, a line for each code and a column for each stretch of time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from anymask.engine import Model

from .renderer import Drawing, Panel
from .tables import DEEPEST, figure, shortened

WIDTH, NAMES, LINE, HEAD = 372, 84, 13, 16  # of a drawing, of the codes' names, of a line, of a stay's title
MOST = 22  # codes of a stay that are drawn
SMALLEST = 5.0  # width of a measurement


class Stays:
    """Stays; see `Renderer`. A line is a code and time runs to the right; a measurement is shaded by where its value
    lies among all of its code in training, from the lowest (pale) to the highest. Hidden ones are grey; predicted ones
    have the shade of the predicted value above that of the true one; ones without a value are outlined."""

    layout = "blocks"
    samples = 2
    noun, unit = "stays", "measurements"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer
        self.names = model.schema.fields[model.tokenizer.field].columns

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        truth = panels[0].content.float().cpu().numpy()
        order = [self._lines(stay) for stay in truth]
        return [self._drawing(panel, truth, order) for panel in panels]

    def _lines(self, stay: np.ndarray) -> dict[int, int]:
        """Code -> line, the most frequent codes of a stay, in the order of their names."""
        codes = stay[~np.isnan(stay[:, 0]), 0].round().astype(int)
        found, counts = np.unique(codes, return_counts=True)
        kept = sorted(found[np.argsort(-counts, kind="stable")[:MOST]], key=lambda code: self.names[code].lower())
        return {int(code): line for line, code in enumerate(kept)}

    def _drawing(self, panel: Panel, truth: np.ndarray, order: list[dict[int, int]]) -> Drawing:
        content = panel.content.float().cpu().numpy()
        parts, words, y = [], [], 0.0
        for row, stay in enumerate(content):
            lines = order[min(row, len(order) - 1)]
            own = truth[min(row, len(truth) - 1)]
            made = np.zeros(len(stay), dtype=bool) if panel.predicted is None else panel.predicted[row].cpu().numpy()
            shown = np.ones(len(stay), dtype=bool) if panel.shown is None else panel.shown[row].cpu().numpy()
            marks = None if panel.values is None else panel.values[row].float().cpu().numpy()
            parts += self._stay(y, stay, own, lines, shown, made, marks)
            words.append(self._words(stay, own, shown, made))
            y += HEAD + LINE * len(lines) + 6
        alt = f"{panel.name}: " + "; ".join(words)
        svg = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {max(y, LINE):.0f}"><g font-size="10">'
        return Drawing(panel.name, alt, svg=f"{svg}{''.join(parts)}</g></svg>")

    def _stay(self, top: float, stay: np.ndarray, own: np.ndarray, lines: dict[int, int], shown: np.ndarray,
              made: np.ndarray, marks: np.ndarray | None) -> list[str]:  # fmt: skip
        there = ~np.isnan(own[:, 0])
        last = max(float(own[there, 2].max(initial=0.0)), 1e-6)
        along = lambda hour: NAMES + (WIDTH - NAMES - SMALLEST) * hour / last
        parts = [f'<text x="{NAMES}" y="{top + 11:.1f}" fill="var(--muted)">0 to {figure(last)} hours</text>']
        for code, line in lines.items():
            y = top + HEAD + line * LINE
            name = escape(shortened(self.names[code], 14))
            parts.append(f'<text x="0" y="{y + 9.5:.1f}" fill="var(--muted)">{name}</text>')
            parts.append(f'<path d="M{NAMES} {y + LINE - 1:.1f}H{WIDTH}" stroke="var(--line)"/>')
        spread = None if marks is None else (marks - marks.min()) / max(float(np.ptp(marks)), 1e-12)
        for n in np.flatnonzero(there):
            place = lines.get(round(float(own[n, 0])))
            if place is not None:
                box = (along(float(own[n, 2])), top + HEAD + place * LINE + 1)
                shade = float(stay[n, 1]) if spread is None else float(spread[n])
                parts.append(_mark(box, shade, bool(shown[n]), float(own[n, 1]) if made[n] else None))
        return parts

    def _words(self, stay: np.ndarray, own: np.ndarray, shown: np.ndarray, made: np.ndarray) -> str:
        there = ~np.isnan(own[:, 0])
        text = f"a stay of {there.sum()} measurements of {len(np.unique(own[there, 0].round()))} codes"
        hidden = there & ~shown & ~made
        text += f", {hidden.sum()} hidden" if hidden.any() else ""
        known = made & there & (own[:, 1] > -0.5)
        if known.any():
            gap = np.abs(stay[known, 1] - own[known, 1])
            text += f", {known.sum()} rebuilt, off by {np.median(gap):.2f} of the code's distribution in the median"
        return text


def _mark(box: tuple[float, float], shade: float, shown: bool, truth: float | None) -> str:
    x, y = box
    rect = lambda top, height: f'<rect x="{x:.1f}" y="{y + top:.1f}" width="{SMALLEST}" height="{height:.1f}"'
    opacity = lambda value: 2 * DEEPEST * (0.08 + 0.92 * min(max(value, 0.0), 1.0))
    fill = lambda value: f'fill="var(--c1)" fill-opacity="{opacity(value):.2f}"'
    if truth is not None:  # what was made above what is true
        half = (LINE - 3) / 2
        below = f"{rect(half, half)} {fill(truth)}/>" if truth > -0.5 else ""
        return f'{rect(0, half)} {fill(shade)}/>{below}{rect(0, LINE - 3)} fill="none" stroke="var(--c2)"/>'
    if not shown:
        return f'{rect(0, LINE - 3)} fill="var(--axis)"/>'
    if shade < -0.5:
        return f'{rect(0, LINE - 3)} fill="none" stroke="var(--axis)"/>'
    return f"{rect(0, LINE - 3)} {fill(shade)}/>"
