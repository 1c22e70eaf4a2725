"""The renderer of sounds: log-mel spectrograms with axes in seconds and, on the mel scale, in Hz."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from anymask.data.kinds._mel import mel
from anymask.engine import Model

from .renderer import Drawing, Panel
from .tables import figure

WIDTH, LEFT, HEIGHT, AXIS, GAP = 372, 40, 96, 16, 8  # of a drawing, of frequencies, of a sound, of its times, between
GREY = 150  # what is hidden
OVER = 0.65  # how much a token's value covers the spectrogram
PITCHES = (50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000)  # Hz that are written, where they are apart
APART = 14  # pixels from one word to the next


class Spectrograms:
    """Sounds; see `Renderer`. A sound below the other, low bands at the bottom, all on one scale of decibels and of
    time; hidden patches are grey, and what lies behind the end of a sound is left empty."""

    layout = "blocks"
    samples = 3
    noun, unit = "sounds", "patches"

    def __init__(self, model: Model) -> None:
        self.tokenizer = model.tokenizer

    def draw(self, panels: Sequence[Panel]) -> list[Drawing]:
        x = self.decibels(panels[0].content)
        low, high = np.nanquantile(x, 0.01), np.nanquantile(x, 0.995)
        return [self._drawing(panel, float(low), max(float(high), float(low) + 1.0)) for panel in panels]

    def decibels(self, content: Tensor) -> np.ndarray:
        """Standardised patches (B, N, D) as spectrograms (B, bands, frames), low bands first."""
        tokenizer = self.tokenizer
        whole = tokenizer.whole(content.float(), self._grid(content))
        return (whole * tokenizer.std.cpu() + tokenizer.mean.cpu())[:, 0].numpy()

    def _grid(self, content: Tensor) -> tuple[int, int]:
        bands = self.tokenizer.grid[0]
        return bands, content.shape[1] // bands

    def _drawing(self, panel: Panel, low: float, high: float) -> Drawing:
        from matplotlib import colormaps

        content = panel.content.cpu()
        x = self.decibels(content)
        pixels = colormaps["magma"](np.clip((np.nan_to_num(x, nan=low) - low) / (high - low), 0, 1))[..., :3]
        if panel.values is not None:
            values = self._spread(panel.values.cpu(), content)
            scaled = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
            pixels = OVER * colormaps["viridis"](scaled)[..., :3] + (1 - OVER) * pixels.mean(-1, keepdims=True)
        pixels = (255 * pixels).round().astype(np.uint8)
        if panel.shown is not None:
            pixels[~self._spread(panel.shown.cpu(), content)] = GREY
        there = ~content.isnan().any(-1)
        alpha = 255 * self._spread(there, content)[..., None].astype(np.uint8)
        pictures = np.concatenate([pixels, alpha], -1)[:, ::-1]  # B bands frames 4, low bands at the bottom
        parts, y = [], GAP
        for picture in pictures:
            parts += [_picture(picture, y), self._frequencies(y), self._times(y, picture.shape[1])]
            y += HEIGHT + AXIS + GAP
        scale = f"{figure(low)} dB dark to {figure(high)} dB bright"
        parts.append(f'<text x="{WIDTH}" y="{y + 6}" text-anchor="end" fill="var(--muted)">{scale}</text>')
        alt = _words(panel, len(x), there.numpy())
        body = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {y + 12}">'
        return Drawing(panel.name, alt, svg=f'{body}<g font-size="12">{"".join(parts)}</g></svg>')

    def _spread(self, values: Tensor, content: Tensor) -> np.ndarray:
        """(B, N) by token -> (B, bands, frames)."""
        sides = self.tokenizer.sides
        whole = values.unflatten(1, self._grid(content))
        return whole.repeat_interleave(sides[0], 1).repeat_interleave(sides[1], 2).numpy()

    def _frequencies(self, top: int) -> str:
        front = self.tokenizer.front
        start, end = mel(front.low), mel(front.high)
        parts, last = [], float("inf")
        for pitch in PITCHES:
            y = top + HEIGHT * (1 - (mel(pitch) - start) / (end - start))
            if top <= y <= top + HEIGHT and last - y >= APART:
                word = f"{pitch // 1000} kHz" if pitch >= 1000 else f"{pitch} Hz"
                parts.append(f'<line x1="{LEFT - 4}" x2="{LEFT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--axis)"/>')
                parts.append(_text(LEFT - 6, min(y + 4, top + HEIGHT), word, "end", 10))
                last = y
        return "".join(parts)

    def _times(self, top: int, frames: int) -> str:
        front = self.tokenizer.front
        seconds = frames * front.hop / front.rate
        step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 1e9) if seconds / s <= 6)
        parts, y = [], top + HEIGHT
        for n in range(int(seconds / step + 1e-9) + 1):
            x = LEFT + (WIDTH - LEFT) * n * step / seconds
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 4}" stroke="var(--axis)"/>')
            anchor = "end" if x > WIDTH - 12 else "middle"
            parts.append(_text(x, y + 14, f"{n * step:g}" + " s" * (n == 0), anchor, 10))
        return "".join(parts)


def _picture(pixels: np.ndarray, top: int) -> str:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "png", optimize=True)
    data = base64.b64encode(out.getvalue()).decode()
    place = f'x="{LEFT}" y="{top}" width="{WIDTH - LEFT}" height="{HEIGHT}"'
    return (f'<image {place} preserveAspectRatio="none" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{data}"/>'
            f'<rect {place} fill="none" stroke="var(--line)"/>')  # fmt: skip


def _text(x: float, y: float, words: str, anchor: str, size: int) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="var(--muted)">{words}</text>'


def _words(panel: Panel, count: int, there: np.ndarray) -> str:
    words = [f"{panel.name}: spectrogram{'s' * (count != 1)} of {count} sound{'s' * (count != 1)}"]
    if panel.shown is not None and not panel.shown.cpu().numpy()[there].all():
        words.append(f"{1 - panel.shown.cpu().numpy()[there].mean():.0%} of the patches hidden")
    if panel.predicted is not None and panel.predicted.any():
        words.append(f"{int(panel.predicted.sum())} patches predicted")
    if panel.values is not None:
        words.append(f"each patch by its value, from {panel.values.min():.3g} to {panel.values.max():.3g}")
    return ", ".join(words)
