"""The renderer of trajectories: agents from above."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from anymask.engine import Model

from .renderer import Drawing, Panel

WIDTH, TALL, TITLE = 372, 200, 16  # of a drawing, of a sample's box, of the words above it
MARGIN = 0.08
DOT = 1.6  # radius of a position


class Paths:
    """Trajectories; see `Renderer`. A sample is seen from above, turned so that the agent that it is about heads to the
    right; every step is a dot, pasts are joined by a full and futures by a dashed line. What is hidden is grey, what is
    predicted in the second colour."""

    layout = "blocks"
    samples = 3
    noun, unit = "scenes", "pasts and futures"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        truth = self._paths(panels[0])
        frames = [_frame(one) for one in truth]
        return [self._drawing(panel, frames) for panel in panels]

    def _paths(self, panel: Panel) -> np.ndarray:
        """(B, N, T, 2) metres."""
        return self.tokenizer.paths(panel.content.float().cpu()).numpy()

    def _drawing(self, panel: Panel, frames: Sequence[tuple[np.ndarray, float]]) -> Drawing:
        paths = self._paths(panel)
        b, n = paths.shape[:2]
        flags = lambda given, none: none if given is None else given.cpu().numpy()
        shown = flags(panel.shown, np.ones((b, n), dtype=bool))
        made = flags(panel.predicted, np.zeros((b, n), dtype=bool))
        values = flags(panel.values, None)
        parts = []
        for row in range(b):
            (middle, metre), top = frames[min(row, len(frames) - 1)], row * (TITLE + TALL)
            parts.append(f'<rect x="0.5" y="{top + TITLE}" width="{WIDTH - 1}" height="{TALL - 4}" fill="none" '
                         'stroke="var(--line)"/>')  # fmt: skip
            parts.append(f'<path d="M8 {top + TITLE + TALL - 12}h{metre:.1f}" stroke="var(--muted)"/><text x="8" y='
                         f'"{top + 11}" fill="var(--muted)">line: 1 m</text>')  # fmt: skip
            at = (paths[row] - middle) * metre * [1, -1] + [WIDTH / 2, top + TITLE + TALL / 2]
            for token in range(n):
                colour = "var(--c2)" if made[row, token] else "var(--c1)" if shown[row, token] else "var(--axis)"
                shade = None if values is None else (values[row, token] - values.min()) / max(np.ptp(values), 1e-12)
                parts.append(_path(at[token], colour, token >= n // 2, token % (n // 2) == 0, shade))
        alt = _alt(panel, paths, shown, made)
        body = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {b * (TITLE + TALL)}">'
        return Drawing(panel.name, alt, svg=f'{body}<g font-size="11">{"".join(parts)}</g></svg>')


def _frame(paths: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle (2,) of what is drawn of a sample (N, T, 2), and pixels of a metre."""
    known = paths[np.isfinite(paths).all(-1)]
    if not len(known):
        return np.zeros(2), 1.0
    low, high = known.min(0), known.max(0)
    room = np.array([WIDTH, TALL]) * (1 - 2 * MARGIN)
    return (low + high) / 2, float((room / np.maximum(high - low, 1.0)).min())


def _path(at: np.ndarray, colour: str, future: bool, first: bool, shade: float | None) -> str:
    at = at[np.isfinite(at).all(1)]
    if not len(at):
        return ""
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    dashed = ' stroke-dasharray="4 3"' if future else ""
    out = f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="{2 if first else 1}"{dashed}/>'
    if shade is not None:
        x, y = at[-1]
        out += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="var(--c2)" fill-opacity="{0.75 * shade:.2f}"/>'
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT}"/>' for x, y in at)
    return f'{out}<g fill="{colour}">{dots}</g>'


def _alt(panel: Panel, paths: np.ndarray, shown: np.ndarray, made: np.ndarray) -> str:
    there = np.isfinite(paths).all(-1).any(2)
    scenes = f"{len(paths)} scene{'s' * (len(paths) != 1)} from above"
    words = [f"{panel.name}: {scenes}, {int(there.sum())} pasts and futures"]
    hidden = ~(shown | made) & there
    if hidden.any():
        words.append(f"{hidden.sum() / there.sum():.0%} hidden")
    if made.any():
        words.append(f"{int((made & there).sum())} predicted")
    if panel.values is not None:
        words.append(f"each by its value, from {panel.values.min():.3g} to {panel.values.max():.3g}")
    return ", ".join(words)
