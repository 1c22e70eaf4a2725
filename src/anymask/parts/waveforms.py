"""Sounds as overlapping windows of their waveform, and the convolutions that embed them (wav2vec 2.0,
arXiv:2006.11477, section 2; data2vec, arXiv:2202.03555, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.engine import Model, Part, Sample, Tokens
from anymask.parts.layers import LayerNorm, Linear, init_weights
from anymask.parts.stems import Embed
from anymask.recipe import RecipeError

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


class WaveWindows(Part):
    """Waveforms to windows of samples.

    (B, T) samples, NaN behind the end of a sound -> stream `audio` (B, N, window), each sound by its own mean and
    spread. `pos` is the centre of a window, in samples. Windows that do not lie within a sound are not valid, but for
    the first one of a sound that is shorter, which ends in silence.

    Args:
        window, hop: in samples; 400 and 320 are those of wav2vec 2.0, 25 and 20 ms of sounds at 16 kHz (open others at
            that rate: --rate 16000).
        field: of the schema.
    """

    takes = "audio"
    shares = "neighbouring windows overlap"
    renderer = None  # windows of samples are not drawn

    @staticmethod
    def serves(kind: str, arguments: Mapping[str, Any]) -> bool:
        return kind == "audio"

    def __init__(self, model: Model, *, window: int = 400, hop: int = 320, field: str = "audio"):
        super().__init__(model)
        if not 0 < hop <= window:
            raise RecipeError(f"tokenizer.hop is at least 1 and at most tokenizer.window, not {hop} of {window}")
        self.field, self.window, self.hop = field, window, hop
        self.length = model.schema.fields[field].shape[0]
        self.grid, self.pitch = (self.count(self.length),), (float(hop),)
        if self.grid[0] < 2:
            raise RecipeError(
                f"sounds of {self.length:,} samples are too short for windows of {window} every {hop}; open them at a "
                "higher rate (--rate 16000), or give shorter windows (tokenizer.window, tokenizer.hop, stem.strides)"
            )
        self.streams = {field: window}

    @property
    def crop(self) -> tuple[int, ...]:
        """Samples of a training sound: whatever it has."""
        return (self.length,)

    def count(self, samples: int) -> int:
        """Windows of so many samples."""
        return 1 + max(0, samples - self.window) // self.hop

    def forward(self, sample: Sample) -> Tokens:
        wave = sample[self.field].float()
        there = ~wave.isnan()
        length = there.sum(1, keepdim=True)  # B 1
        x = torch.where(there, wave, 0.0)
        mean = x.sum(1, keepdim=True) / length.clamp(min=1)
        centred = torch.where(there, x - mean, 0.0)
        spread = (centred.square().sum(1, keepdim=True) / length.clamp(min=1) + 1e-7).sqrt()
        x = F.pad(centred / spread, (0, max(0, self.window - wave.shape[1])))
        x = x.unfold(1, self.window, self.hop)  # B N window
        start = torch.arange(x.shape[1], device=x.device) * float(self.hop)
        valid = None
        if not there.all():
            valid = start + self.window <= length.clamp(min=self.window)
            valid = valid & (length > 0)
        return Tokens({self.field: x}, (start + self.window / 2)[None, :, None], valid, grid=(x.shape[1],))


class Convolved(Embed):
    """Each window by a few convolutions over its samples, each followed by a normalisation over channels and GELU,
    until one vector is left, which is normalised and projected (wav2vec 2.0, section 2). As windows are as long as what
    the last vector sees, this is what the convolutions make of the whole sound, but only for windows that are kept.

    Args:
        kernels, strides: of the convolutions.
        channels: of each; None = two thirds of the width, as the 512 of the base size.
        bias: of the convolutions.
    """

    def __init__(
        self,
        model: Model,
        *,
        kernels: Sequence[int] = KERNELS,
        strides: Sequence[int] = STRIDES,
        channels: int | None = None,
        bias: bool = False,
    ):
        tokenizer = model.tokenizer
        if not isinstance(tokenizer, WaveWindows):
            raise RecipeError("convolutions over samples need windows of them: use tokenizer=P(WaveWindows)")
        if len(kernels) != len(strides) or not kernels:
            raise RecipeError(f"stem.kernels and stem.strides are of the same layers, not {kernels} and {strides}")
        sees, step = 1, 1
        for kernel, stride in zip(kernels, strides):
            sees, step = sees + (kernel - 1) * step, step * stride
        if (sees, step) != (tokenizer.window, tokenizer.hop):
            raise RecipeError(
                f"these convolutions see {sees} samples every {step}, and windows are {tokenizer.window} every "
                f"{tokenizer.hop}: --set tokenizer.window={sees} --set tokenizer.hop={step}"
            )
        super().__init__(model)
        channels = channels or max(8, 2 * self.width // 3)
        self.embed = nn.ModuleDict({tokenizer.field: FeatureEncoder(kernels, strides, channels, bias, self.width)})


class FeatureEncoder(nn.Module):
    """(..., window) samples to (..., width), see `Convolved`."""

    def __init__(self, kernels: Sequence[int], strides: Sequence[int], channels: int, bias: bool, width: int) -> None:
        super().__init__()
        before = [1, *[channels] * (len(kernels) - 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n, channels, kernel, stride, bias=bias) for n, kernel, stride in zip(before, kernels, strides)
        )
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight)  # type: ignore[arg-type]
        self.norms = nn.ModuleList(LayerNorm(channels, eps=1e-5) for _ in kernels)
        self.norm, self.project = LayerNorm(channels, eps=1e-5), Linear(channels, width)
        init_weights(self.project)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[:-1]
        x = x.reshape(-1, 1, x.shape[-1])  # windows, channels, samples
        for convolution, norm in zip(self.convolutions, self.norms):
            x = F.gelu(norm(convolution(x).transpose(1, 2)).transpose(1, 2))
        return self.project(self.norm(x.squeeze(-1))).view(*shape, self.project.out_features)
