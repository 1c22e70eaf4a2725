"""Learned codebooks: an autoencoder whose codes are numbers, and targets that are these numbers (VQ-KD and BEiT v2,
arXiv:2208.06366)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask.engine import Head, Model, Part, Sample, Step, Tokens, everything, scored, take
from anymask.parts.decoders import Heads
from anymask.parts.layers import Block, LayerNorm, Linear, init_weights
from anymask.parts.losses import mean_of
from anymask.parts.teachers import opened
from anymask.parts.tokenizers import Patches, grid_index
from anymask.recipe import RecipeError


class Codebook(nn.Module):
    """Vectors of length 1 that stand for what is nearest to them (VQ-VAE, arXiv:1711.00937, section 3.1). They follow
    the mean of what they stand for (section A.1 there); those that stand for nothing for long begin anew at one of the
    vectors that came last.

    Args:
        count, width: of the vectors.
        decay: share of a vector that stays in a step.
        least: a vector that stands for less than this share of its part of the tokens begins anew.
    """

    def __init__(self, count: int, width: int, *, decay: float = 0.99, least: float = 0.05) -> None:
        super().__init__()
        self.decay, self.least = decay, least
        self.register_buffer("codes", F.normalize(torch.randn(count, width), dim=-1))
        # Running count, 1 = an equal share of the tokens: from 0, all codes begin at tokens of the first batch.
        self.register_buffer("use", torch.zeros(count))
        for name, value in (("sums", torch.zeros(count, width)), ("counts", torch.zeros(count))):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("recent", torch.zeros(count, width), persistent=False)

    codes: Tensor
    use: Tensor
    sums: Tensor
    counts: Tensor
    recent: Tensor

    def nearest(self, z: Tensor) -> Tensor:
        """Numbers (...) int64 of the codes nearest to z (..., width) of length 1."""
        return (z.float() @ self.codes.T).argmax(-1)

    def forward(self, z: Tensor, ok: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, N, width) of length 1 -> the codes in its place, through which gradients pass as if they were z, and
        their numbers (B, N). Tokens that are not `ok` count for nothing."""
        number = self.nearest(z)
        code = self.codes[number]
        if self.training:
            with torch.no_grad():
                flat, index = z.float().flatten(0, 1), number.flatten()
                weight = torch.ones_like(flat[:, 0]) if ok is None else ok.flatten().float()
                self.sums.zero_().index_add_(0, index, flat * weight[:, None])
                self.counts.zero_().index_add_(0, index, weight)
                self.recent.copy_(flat[torch.multinomial(weight, len(self.codes), replacement=True)])
        return z + (code - z).detach(), number

    @torch.no_grad()
    def follow(self) -> None:
        """After a step: the codes move towards the means of the last batch."""
        used = self.counts > 0
        mean = F.normalize(self.sums / self.counts.clamp(min=1)[:, None], dim=-1)
        moved = F.normalize(self.codes.lerp(mean, 1 - self.decay), dim=-1)
        self.codes.copy_(torch.where(used[:, None], moved, self.codes))
        share = self.counts * len(self.counts) / self.counts.sum().clamp(min=1)
        self.use.lerp_(share, 1 - self.decay)
        idle = self.use < self.least
        self.codes.copy_(torch.where(idle[:, None], self.recent, self.codes))
        self.use.masked_fill_(idle, 1.0)


class Quantised(Part):
    """Codes are projected to a few dimensions, each replaced by the nearest vector of a codebook, and a small
    transformer predicts the target of every token from these (VQ-KD, section 3.1). The distance of a code to its vector
    is added as `commitment`.

    Args:
        codes, dimensions: of the codebook.
        depth: blocks; None = the decoder's of the size.
        commitment: weight of that loss.
        decay: see `Codebook`.
    """

    def __init__(
        self,
        model: Model,
        *,
        codes: int = 8192,
        dimensions: int = 32,
        depth: int | None = None,
        commitment: float = 1.0,
        decay: float = 0.99,
    ):
        super().__init__(model)
        if codes < 2 or dimensions < 2:
            raise RecipeError(f"a codebook has 2 codes of 2 dimensions or more, not {codes} of {dimensions}")
        size = model.size
        self.weight = commitment
        self.project = nn.Sequential(
            Linear(model.encoder.width, model.encoder.width), nn.Tanh(), Linear(model.encoder.width, dimensions)
        )
        self.book = Codebook(codes, dimensions, decay=decay)
        self.embed, self.positions = Linear(dimensions, size.decoder_width), model.positions(size.decoder_width)
        self.blocks = nn.ModuleList(
            Block(size.decoder_width, size.decoder_heads) for _ in range(depth or size.decoder_depth)
        )
        self.norm = LayerNorm(size.decoder_width)
        for part in (self.project, self.embed, self.blocks):
            init_weights(part)
        self.heads = Heads(model, size.decoder_width)

    def short(self, x: Tensor) -> Tensor:
        """Codes of the encoder (..., D) as vectors of length 1 (..., dimensions)."""
        return F.normalize(self.project(x).float(), dim=-1)

    def numbers(self, x: Tensor) -> Tensor:
        """(...) int64: the visual words of codes (..., D)."""
        return self.book.nearest(self.short(x))

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        ok = step.latent.ok
        z = self.short(step.latent.x)
        code, number = self.book(z, ok)
        gap = (z - self.book.codes[number]).square().sum(-1)
        step.aux["commitment"] = self.weight * mean_of(gap, ok)
        return self.heads(take(self.rebuilt(code, step.tokens, ok), step.mask.ask))

    def rebuilt(self, code: Tensor, tokens: Tokens, ok: Tensor | None = None) -> Tensor:
        """Vectors (B, N, dimensions) at the places of tokens to what the heads read, (B, N, W)."""
        x = self.embed(code)
        x = x + self.positions(tokens).to(x.dtype)
        for block in self.blocks:
            x = block(x, ok)
        return self.norm(x)

    def after_step(self, model: Model, progress: float) -> None:
        self.book.follow()

    def groups(self) -> dict[str, dict[str, float]]:
        return {"positions": {"weight_decay": 0.0}}


def _codebook(words: Model | str, tokenizer: Any) -> Model:
    """The model of a run of `Quantised`, given as it is or as a folder, on tokens of the form of the tokenizer's."""
    words = opened(words, tokenizer)
    if not isinstance(words.decoder, Quantised):
        raise RecipeError("words= names a run whose decoder has a codebook (parts.codebooks.Quantised)")
    return words


class WordPatches(Patches):
    """Images to the numbers of their patches in a learned codebook: (B, N) int64, on the grid of the patches (MAGE,
    arXiv:2211.09117, section 3.1). The codebook's autoencoder stays as it is.

    Args:
        words: the model of an earlier stage that has rebuilt pixels by `Quantised`, or the folder of such a run.
        patch, kind, field: see `Patches`; as of that run.
    """

    shares = "an autoencoder makes each number from the whole image"

    def __init__(
        self,
        model: Model,
        *,
        words: Model | str,
        patch: int | Sequence[int] | None = None,
        kind: str | None = None,
        field: str | None = None,
    ):
        super().__init__(model, patch=patch, kind=kind, field=field)
        words = _codebook(words, self)
        if list(words.target.heads) != ["pixels"] or getattr(words.target, "normalise", True):
            raise RecipeError(
                "a codebook to see and draw images by rebuilds pixels as they are (target.normalise=false)"
            )
        self.words = nn.ModuleDict(
            {name: copy.deepcopy(getattr(words, name)) for name in ("stem", "encoder", "decoder")}
        )
        self.words.requires_grad_(False).eval()
        self.count = len(words.decoder.book.codes)
        self.streams = {self.field: -self.count}
        self.renderer = None  # type: ignore[assignment]  # a number is no content that can be drawn

    def train(self, mode: bool = True) -> WordPatches:
        super().train(mode)
        self.words.eval()
        return self

    @torch.no_grad()
    def forward(self, sample: Sample) -> Tokens:
        tokens = super().forward(sample)
        step = Step(sample, tokens, everything(tokens), aux={})
        step = step._replace(seen=self.words["stem"](step))
        number = self.words["decoder"].numbers(self.words["encoder"](step, None).x)  # type: ignore[operator]
        return tokens._replace(x={self.field: number})

    @torch.no_grad()
    def pixels(self, number: Tensor) -> Tensor:
        """(B, N) numbers to images (B, C, H, W) in the units of the data."""
        decoder: Any = self.words["decoder"]
        patches = decoder.heads(decoder.rebuilt(decoder.book.codes[number], self.placed(number)))["pixels"]
        return self.raw(self.whole(patches.float(), self.grid))

    def placed(self, number: Tensor) -> Tokens:
        """Numbers (B, N) as the tokens of images of the size of training."""
        pos = (grid_index(self.grid, number.device) + 0.5) * torch.tensor(self.pitch, device=number.device)
        return Tokens({self.field: number}, pos[None], grid=self.grid)


class VisualWords(Part):
    """The number that the asked tokens have in the codebook of a run of `Quantised`: (Q, M) int64.

    Args:
        words: the model of an earlier stage, or the folder of a run on data of the same form; it stays as it is.
    """

    def __init__(self, model: Model, *, words: Model | str):
        super().__init__(model)
        words = _codebook(words, model.tokenizer)
        self.stem, self.encoder, self.decoder = (copy.deepcopy(p) for p in (words.stem, words.encoder, words.decoder))
        self.requires_grad_(False)
        self.eval()
        self.heads = {"codes": Head(len(words.decoder.book.codes))}

    def train(self, mode: bool = True) -> VisualWords:
        return super().train(False)

    @torch.no_grad()
    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        whole = step._replace(mask=everything(step.tokens))
        latent = self.encoder(whole._replace(seen=self.stem(whole)), model)
        return {"codes": take(self.decoder.numbers(latent.x)[..., None], step.mask.ask, step.mask.ask_of).squeeze(-1)}


class Aggregation(Part):
    """The CLS token has to hold what is common to a sample: a shallow transformer predicts the asked tokens once more,
    from it and the codes of an earlier block, by the decoder's own head. The loss is added as `aggregation` (BEiT v2,
    section 3.3).

    Args:
        layer: share of the encoder's blocks after which codes are taken.
        depth: blocks.
    """

    def __init__(self, model: Model, *, layer: float = 0.75, depth: int = 2):
        super().__init__(model)
        if not getattr(model.encoder, "layers", False) or getattr(model.encoder, "prefix", None) is None:
            raise RecipeError("aggregation needs the encoder's layers and CLS token: --set encoder.layers=true")
        if not 0.0 < layer < 1.0 or depth < 1:
            raise RecipeError(f"layer is a share of the blocks, between 0 and 1, depth 1 or more; not {layer}, {depth}")
        blocks = len(model.encoder.blocks)
        self.layer = min(blocks - 1, max(1, math.floor(layer * blocks)))
        self.blocks = nn.ModuleList(Block(model.encoder.width, model.encoder.heads) for _ in range(depth))
        self.norm = LayerNorm(model.encoder.width)
        init_weights(self.blocks)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask = step.latent, step.mask
        assert latent.prefix is not None
        n = latent.x.shape[1]
        x = torch.cat([latent.prefix[:, :1], latent.layers[self.layer][:, -n:]], 1)
        ok = None if latent.ok is None else F.pad(latent.ok, (1, 0), value=True)
        for block in self.blocks:
            x = block(x, ok)
        total = torch.zeros((), device=x.device)
        for name, pred in model.decoder.heads(take(self.norm(x[:, 1:]), mask.ask)).items():
            with torch.autocast(x.device.type, enabled=False):
                error = model.losses[name](pred.float(), step.goal[name])
            total = total + mean_of(error, scored(step, model.target.heads[name]))
        return {"aggregation": total}
