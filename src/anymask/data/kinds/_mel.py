"""Log-mel spectrograms: power in bands of the mel scale, in decibels, a frame every few milliseconds."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

WINDOW, HOP = 0.025, 0.010  # seconds, the custom for speech and sounds (AST, arXiv:2104.01778, section 3.1)
LOW = 20.0  # Hz: nothing below is heard
FLOOR = 1e-10  # of power: about the noise of rounding to 16 bits, so digital silence is -100 dB


class FrontEnd(NamedTuple):
    """How a spectrogram is made of a waveform: lengths in samples, frequencies in Hz."""

    rate: int
    window: int
    hop: int
    mels: int
    low: float
    high: float

    @property
    def fft(self) -> int:
        """A power of two that holds a window, and so fine that no band is empty."""
        size = 1 << max(0, self.window - 1).bit_length()
        while not (triangles(self, size) > 0).any(1).all():
            size *= 2
        return size


def front_end(rate: int, *, window: float | None = None, hop: float | None = None, mels: int | None = None,
              low: float | None = None, high: float | None = None) -> FrontEnd:
    """The front end for a sampling rate: windows of 25 ms every 10 ms, and from 20 Hz to half the rate 128 bands, or
    64 below 16 kHz and 32 below 8 kHz. `window` and `hop` are in seconds."""
    length = lambda seconds: max(1, round(seconds * rate))
    bands = mels or (128 if rate >= 16_000 else 64 if rate >= 8_000 else 32)
    return FrontEnd(rate, max(2, length(window or WINDOW)), length(hop or HOP), bands,
                    min(LOW, rate / 4) if low is None else low, rate / 2 if high is None else high)


def mel(hertz: float) -> float:
    """O'Shaughnessy 1987, as in HTK and Kaldi."""
    return 2595.0 * math.log10(1.0 + hertz / 700.0)


def hertz(mels: Tensor) -> Tensor:
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


def centres(front: FrontEnd) -> Tensor:
    """(mels + 2,) float64 the frequencies at which bands begin, peak and end, evenly apart in mel."""
    return hertz(torch.linspace(mel(front.low), mel(front.high), front.mels + 2, dtype=torch.float64))


@functools.lru_cache(maxsize=64)
def triangles(front: FrontEnd, fft: int) -> Tensor:
    """(mels, fft // 2 + 1) float64 triangles of height 1, in frequency."""
    edges = centres(front)[:, None]
    bins = torch.arange(fft // 2 + 1, dtype=torch.float64) * (front.rate / fft)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0.0)


@functools.lru_cache(maxsize=64)
def filters(front: FrontEnd) -> Tensor:
    """(mels, fft // 2 + 1) float32 weights of each band; they sum to 1, so that a band holds the mean power in it
    whatever its width."""
    weights = triangles(front, front.fft)
    return (weights / weights.sum(1, keepdim=True)).float()


def frames_of(samples: int, front: FrontEnd) -> int:
    """Frames of a waveform: one for each hop that begins in it."""
    return -(-samples // front.hop)


def log_mel(wave: Tensor, front: FrontEnd, frames: int | None = None, weights: Tensor | None = None) -> Tensor:
    """(B, T) waveforms -> (B, mels, frames) decibels; noise of variance 1 has 0 dB in every band.

    Frame i is centred on sample (i + 1/2) * hop, seen through a Hann window; before and after the waveform is silence.

    Args:
        frames: None = one for each hop that begins in the waveform.
        weights: `filters(front)` on the waveform's device, where the caller holds it.
    """
    fft, hop = front.fft, front.hop
    count = frames_of(wave.shape[1], front) if frames is None else frames
    before = fft // 2 - hop // 2
    after = max(0, (count - 1) * hop + fft - before - wave.shape[1])
    with torch.autocast(wave.device.type, enabled=False):  # decibels need more digits than bfloat16 has
        window = torch.hann_window(front.window, device=wave.device)
        padded = torch.nn.functional.pad(wave.float(), (before, after))
        spectrum = torch.stft(padded, fft, hop, front.window, window, center=False, return_complex=True)
        power = spectrum[..., :count].abs().square() / window.square().sum()
        bands = (filters(front).to(wave.device) if weights is None else weights) @ power  # B mels frames
        return 10.0 * bands.clamp(min=FLOOR).log10()
