"""The renderer of skeleton sequences: stick figures over time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from anymask.engine import Model

from .renderer import Drawing, Panel

WIDTH, TALL, TITLE, MOMENTS = 372, 92, 16, 8  # of a drawing, of a figure, of the words above it; figures side by side
MARGIN = 0.08  # of a figure's box
DOT, BONE = 1.7, 1.2  # radius of a joint, thickness of a bone


class Figures:
    """Skeleton sequences; see `Renderer`. A sample is a row of figures, at the middles of segments of time evenly over
    the sequence, each about the middle of its body, seen along the axis that bodies are thinnest in. Joints of hidden
    tokens and bones that end in one are grey, predicted ones in the second colour."""

    layout = "blocks"
    samples = 3
    noun, unit = "sequences", "joints over a segment"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer
        self.across, self.up = model.schema.fields[model.tokenizer.field].more["upright"]
        self.down = self.tokenizer.space == 2  # in pictures, y grows downwards

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        truth = self._places(panels[0])
        middle = np.nan_to_num(_mean(truth, 1))[:, None]  # B 1 S 2
        reach = np.nanmax(np.abs(truth - middle), (1, 2, 3), initial=1e-6)  # B
        return [self._drawing(panel, truth, middle, reach) for panel in panels]

    def _places(self, panel: Panel) -> np.ndarray:
        """(B, J, S, 2) where joints are in the middle of each segment, from left to right and from below."""
        tracks = self.tokenizer.tracks(panel.content.float().cpu()).numpy()  # B J T D
        flat = tracks[..., [self.across, self.up]].reshape(*tracks.shape[:2], -1, self.tokenizer.segment, 2)
        flat = _mean(flat, 3)
        return flat * [1, -1] if self.down else flat

    def _drawing(self, panel: Panel, truth: np.ndarray, middle: np.ndarray, reach: np.ndarray) -> Drawing:
        place = self._places(panel)
        b, joints, segments, _ = place.shape
        flags = lambda given, none: none if given is None else given.cpu().numpy().reshape(b, joints, segments)
        shown = flags(panel.shown, np.ones((b, joints, segments), dtype=bool))
        made = flags(panel.predicted, np.zeros((b, joints, segments), dtype=bool))
        values = flags(panel.values, None)
        parts = []
        for row in range(b):
            there = np.flatnonzero(np.isfinite(truth[min(row, len(truth) - 1)]).all(2).any(0))
            chosen = there[np.linspace(0, len(there) - 1, min(MOMENTS, len(there))).round().astype(int)]
            top = row * (TITLE + TALL)
            for column, s in enumerate(chosen):
                at = (place[row, :, s] - middle[row, 0, s]) / reach[row] * (0.5 - MARGIN)  # J 2, about the middle
                spot = np.stack([(column + 0.5) * WIDTH / MOMENTS + at[:, 0] * TALL,
                                 top + TITLE + (0.5 - at[:, 1]) * TALL], 1)
                frame = int(s * self.tokenizer.segment)
                parts.append(f'<text x="{(column + 0.5) * WIDTH / MOMENTS:.1f}" y="{top + 11}" text-anchor="middle" '
                             f'fill="var(--muted)">{frame}</text>')
                parts += self._bones(spot, shown[row, :, s], made[row, :, s])
                parts += _dots(spot, shown[row, :, s], made[row, :, s], None if values is None else
                               (values[row, :, s] - values.min()) / max(float(np.ptp(values)), 1e-12))  # fmt: skip
        alt = _alt(panel, shown, made, np.isfinite(place).all(3))
        body = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {b * (TITLE + TALL)}">'
        return Drawing(panel.name, alt, svg=f'{body}<g font-size="11">{"".join(parts)}</g></svg>')

    def _bones(self, spot: np.ndarray, shown: np.ndarray, made: np.ndarray) -> list[str]:
        out = []
        for a, b in self.tokenizer.edges:
            if np.isfinite(spot[[a, b]]).all():
                colour = _colour(bool(shown[[a, b]].all()), bool(made[[a, b]].any() and (shown | made)[[a, b]].all()))
                out.append(f'<path d="M{spot[a, 0]:.1f} {spot[a, 1]:.1f}L{spot[b, 0]:.1f} {spot[b, 1]:.1f}" '
                           f'stroke-width="{BONE}" stroke-linecap="round" stroke="{colour}"/>')
        return out


def _dots(spot: np.ndarray, shown: np.ndarray, made: np.ndarray, shade: np.ndarray | None) -> list[str]:
    out = []
    for joint in np.flatnonzero(np.isfinite(spot).all(1)):
        x, y = spot[joint]
        colour = _colour(bool(shown[joint]), bool(made[joint]))
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{DOT}" fill="{colour}"/>')
        if shade is not None:
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{2.4 * DOT:.1f}" fill="var(--c2)" '
                       f'fill-opacity="{0.75 * shade[joint]:.2f}"/>')
    return out


def _colour(shown: bool, made: bool) -> str:
    return "var(--c2)" if made else "var(--c1)" if shown else "var(--line)"


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """Mean over what is there, NaN where nothing is."""
    count = np.isfinite(x).sum(axis)
    return np.where(count > 0, np.nansum(x, axis) / np.maximum(count, 1), np.nan)


def _alt(panel: Panel, shown: np.ndarray, made: np.ndarray, there: np.ndarray) -> str:
    b, joints, segments = shown.shape
    words = [f"{panel.name}: {b} sequence{'s' * (b != 1)} of {joints} joints over {segments} segments of time"]
    hidden = ~(shown | made) & there
    if hidden.any():
        words.append(f"{hidden.sum() / there.sum():.0%} of the joints over a segment hidden")
    if made.any():
        words.append(f"{int((made & there).sum())} predicted")
    if panel.values is not None:
        words.append(f"each by its value, from {panel.values.min():.3g} to {panel.values.max():.3g}")
    return ", ".join(words)
