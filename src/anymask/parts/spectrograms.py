"""Parts of sounds: log-mel spectrograms as tokens, and decoders that look at windows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anymask.data.kind import kind_of
from anymask.data.kinds import _mel
from anymask.data.kinds.audio import front_of
from anymask.engine import Model, Part, Sample, Step, Tokens, scatter, take
from anymask.parts.decoders import Heads, mask_token
from anymask.parts.layers import Block, LayerNorm, Linear, init_weights
from anymask.parts.tokenizers import Patches, _by, grid_index
from anymask.parts.windows import layout
from anymask.recipe import RecipeError


class LogMel(Patches):
    """Waveforms to patches of their log-mel spectrograms (AST, arXiv:2104.01778, section 3.1).

    (B, T) samples, NaN behind the end of a sound -> stream `audio` (B, N, bands * frames), decibels standardised by
    band with the schema's mean and spread; within a patch frames are fastest. The grid is (bands, frames) in patches,
    low bands first; `pos` is the centre of a patch, in bands and in samples. Patches that begin behind the end of a
    sound are not valid; the last one of a sound may end in silence.

    Args:
        patch: bands and frames; 0 = all bands; one number for both; None = the default of the kind of data.
        mels: bands. window, hop: seconds. low, high: Hz. None = the default for the sampling rate, see `front_end`.
        field: of the schema.
    """

    takes = "audio"
    shares = "neighbouring frames overlap: each is seen through a window that is longer than the hop"

    @staticmethod
    def serves(kind: str, arguments: Mapping[str, Any]) -> bool:
        return kind == "audio"

    def __init__(
        self,
        model: Model,
        *,
        patch: int | Sequence[int] | None = None,
        mels: int | None = None,
        window: float | None = None,
        hop: float | None = None,
        low: float | None = None,
        high: float | None = None,
        field: str = "audio",
    ):
        Part.__init__(self, model)
        about = model.schema.fields[field]
        rate = int(about.more["rate"])
        self.field, self.channels, self.length = field, 1, about.shape[0]
        self.front = front = _mel.front_end(rate, window=window, hop=hop, mels=mels, low=low, high=high)
        if not 0 <= front.low < front.high <= rate / 2:
            raise RecipeError(
                f"bands from {front.low:g} to {front.high:g} Hz do not lie within 0 and {rate / 2:g} Hz, half the rate"
            )
        sides = kind_of(about.kind).patch(about) if patch is None else (patch,) * 2 if isinstance(patch, int) else patch
        self.sides = (sides[0] or front.mels, sides[-1])
        frames = _mel.frames_of(self.length, front)
        if len(sides) != 2 or min(self.sides) < 1 or front.mels % self.sides[0]:
            raise RecipeError(
                f"patches of {_by(self.sides)} do not fit {front.mels} bands: give bands that divide it, and frames "
                "(--set tokenizer.patch=[16,16])"
            )
        self.grid = (front.mels // self.sides[0], -(-frames // self.sides[1]))
        if self.grid[0] * self.grid[1] < 2:
            raise RecipeError(
                f"sounds of {frames} frames are too short for patches of {_by(self.sides)} (--set tokenizer.patch=...)"
            )
        self.streams = {field: self.sides[0] * self.sides[1]}
        self.step = self.sides[1] * front.hop  # samples of a patch
        self.pitch = (float(self.sides[0]), float(self.step))
        self.renderer = kind_of(about.kind).renderer
        measured = _mel.centres(front_of(about))[1:-1].numpy()
        for name, values in (("mean", about.mean), ("std", about.std)):
            own = np.interp(_mel.centres(front)[1:-1].numpy(), measured, values)
            self.register_buffer(name, torch.tensor(own, dtype=torch.float32)[:, None], persistent=False)
        self.register_buffer("filters", _mel.filters(front), persistent=False)

    filters: Tensor

    @property
    def crop(self) -> tuple[int, ...]:
        """Samples of a training sound: whatever it has."""
        return (self.length,)

    def forward(self, sample: Sample) -> Tokens:
        wave = sample[self.field]
        count = -(-wave.shape[1] // self.step)
        there = ~wave.isnan()
        x = _mel.log_mel(torch.where(there, wave, 0.0), self.front, count * self.sides[1], self.filters)
        x = self.patches(((x - self.mean) / self.std)[:, None])
        grid = (self.grid[0], count)
        corner = grid_index(grid, x.device) * x.new_tensor(self.pitch)
        valid = None
        if not there.all():
            valid = corner[:, 1] < there.sum(1, keepdim=True)  # B N
        return Tokens({self.field: x}, (corner + 0.5 * x.new_tensor(self.pitch))[None], valid, grid=grid)


# Decoding in windows.


class Windows(Part):
    """A transformer over every place of a two-dimensional grid in which a token attends to its window only; in every
    second block the windows are shifted, so that what is near is never always apart (Audio-MAE, arXiv:2207.06405,
    section 3; Swin, arXiv:2103.14030, section 3.2, without its relative positions). There is a mask token where the
    encoder kept none; CLS tokens are left out.

    Args:
        window: tokens along both axes; None = the whole grid: global attention.
        shift: of the windows of every second block, along both axes (Audio-MAE's code: along time only).
        width, heads: None = the decoder's of the size.
        depth: None = twice the decoder's of the size (Audio-MAE: 16).
    """

    def __init__(
        self,
        model: Model,
        *,
        window: int | Sequence[int] | None = 4,
        shift: Sequence[int] = (0, 2),
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
    ):
        super().__init__(model)
        size = model.size
        width, depth, heads = width or size.decoder_width, depth or 2 * size.decoder_depth, heads or size.decoder_heads
        self.window = None if window is None else (window,) * 2 if isinstance(window, int) else tuple(window)
        if self.window is not None and (len(self.window) != 2 or min(self.window) < 1):
            raise RecipeError(f"decoder.window counts tokens along the two axes of a grid, from 1 on, not {window}")
        self.shift = tuple(shift)
        self.embed = Linear(model.encoder.width, width)
        self.token = mask_token(width)
        self.positions = model.positions(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = LayerNorm(width)
        init_weights(self.embed)
        init_weights(self.blocks)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        mask, grid, valid = step.mask, step.tokens.grid, step.tokens.valid
        if grid is None or len(grid) != 2:
            raise ValueError("a decoder of windows needs tokens on a grid of two axes")
        x = scatter(self.embed(step.latent.x), mask, self.token)  # R N W
        x = x + take(self.positions(step.tokens), None, mask.keep_of).to(x.dtype)
        ok = None if valid is None else take(valid, None, mask.keep_of)
        if mask.via is not None:
            x, ok = x[mask.via], None if ok is None else ok[mask.via]
        return self.heads(self.norm(take(self.attended(x, ok, grid), mask.ask)))

    def attended(self, x: Tensor, ok: Tensor | None, grid: tuple[int, ...]) -> Tensor:
        """(Q, N, W) through the blocks; `ok` (Q, N) = real tokens."""
        if self.window is None:
            for block in self.blocks:
                x = block(x, ok)
            return x
        rows, n = x.shape[:2]
        real = torch.ones(rows, n, dtype=torch.bool, device=x.device) if ok is None else ok
        layouts = [layout(n, grid, self.window, shift, x.device) for shift in ((0, 0), self.shift)]
        inside = [way.split(real) for way in layouts]
        for number, block in enumerate(self.blocks):
            way = layouts[number % 2]
            x = way.join(block(way.split(x), inside[number % 2]), rows)
        return x

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}, "positions": {"weight_decay": 0.0}}
