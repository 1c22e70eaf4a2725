"""Rows made of several samples: each sample shows a part of its tokens, and is rebuilt from these (MixedAE,
arXiv:2303.17152)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anymask import keyed
from anymask.engine import Latent, Mask, Model, Part, Step, take
from anymask.parts.decoders import Transformer
from anymask.parts.encoders import ViT, with_prefix
from anymask.parts.layers import Attention, merge_heads, split_heads
from anymask.recipe import RecipeError


class Mixing(Part):
    """Groups of samples that follow each other in the batch fill one encoder row: at every place one of them shows its
    token, each at as many places, drawn at random. What a sample does not show is asked for (section 3.1).

    A group that the batch does not fill takes samples from its start once more, which are asked for in their first
    group only.

    Args:
        samples: of a group.
    """

    def __init__(self, model: Model, *, samples: int = 2):
        super().__init__(model)
        if samples < 2:
            raise RecipeError(f"mask.samples is how many samples a row mixes, from 2 on, not {samples}")
        self.samples = samples

    def forward(self, step: Step, model: Model) -> Mask:
        (b, n), key, r = step.tokens.shape, step.sample["key"], self.samples
        if b < 2:
            raise RecipeError("mixing needs batches of two samples or more; raise --batch-size")
        rows = -(-b // r)
        turn = keyed.uniform(key[::r], n).argsort(1).argsort(1) % r  # R N: which of its group shows a place
        of = (r * torch.arange(rows, device=key.device)[:, None] + turn) % b  # R N
        via = torch.arange(b, device=key.device) // r
        lacks = of[via] != torch.arange(b, device=key.device)[:, None]  # B N
        ask = lacks.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : n - n // r]
        place = torch.arange(n, device=key.device).expand(rows, -1)
        ask_ok, keep_ok, valid = lacks.gather(1, ask), None, step.tokens.valid
        if valid is not None:
            ask_ok, keep_ok = ask_ok & valid.gather(1, ask), valid[of, place]
        visible = torch.ones(rows, n, dtype=torch.bool, device=key.device)
        return Mask(visible, keep=place, keep_ok=keep_ok, keep_of=of, ask=ask, ask_ok=ask_ok, via=via)


def own_tokens(mask: Mask) -> tuple[Tensor, Tensor]:
    """(B, K) places that each sample shows in its row, and which of them are real."""
    assert mask.via is not None and mask.keep_of is not None
    shows = mask.keep_of[mask.via] == torch.arange(len(mask.via), device=mask.via.device)[:, None]  # B N
    most = mask.keep_of.shape[1] - (mask.ask.shape[1] if mask.ask is not None else 0)
    width = min(mask.keep_of.shape[1], most + 1)  # places that do not divide evenly
    index = shows.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    ok = shows.gather(1, index)
    return index, ok if mask.keep_ok is None else ok & mask.keep_ok[mask.via].gather(1, index)


def top_attention(attention: Attention, x: Tensor, share: float, ok: Tensor | None = None) -> Tensor:
    """Self-attention of which each query reads the keys with the highest scores only, `share` of the tokens, of those
    that are `ok` (B, N): x (B, N, D) -> (B, N, D) (section 3.3)."""
    q, k, v = split_heads(attention.qkv(x), 3, attention.heads)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # B H N N
    if ok is not None:
        scores = scores.masked_fill(~ok[:, None, None], -1e9)
    least = scores.topk(max(1, int(scores.shape[-1] * share + 1e-4)), -1).values[..., -1:]
    probs = scores.masked_fill(scores < least, -torch.inf).softmax(-1)
    return attention.proj(merge_heads(probs @ v))


class MixedViT(ViT):
    """A ViT that, in rows made of several samples, lets each token read only as many tokens as its sample has there,
    those most like it (section 3.3). Whole samples are encoded as by any ViT.

    Args:
        top: share of a row that a token reads; None = one over the samples of a group, 1 = all.
        depth, heads, mlp_ratio, cls: see `ViT`.
    """

    def __init__(
        self,
        model: Model,
        *,
        top: float | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        cls: bool = True,
    ):
        super().__init__(model, depth=depth, heads=heads, mlp_ratio=mlp_ratio, cls=cls)
        if top is not None and not 0.0 < top <= 1.0:
            raise RecipeError(f"encoder.top is a share of the tokens, above 0 to 1, not {top}")
        self.top = top if top is not None else 1.0 / getattr(model.mask, "samples", 1)

    def forward(self, step: Step, model: Model) -> Latent:
        mixed = step.mask.keep_of is not None and step.mask.keep_of.ndim == 2
        if not mixed or self.top == 1.0:
            return self.encode(step.seen)
        seen = step.seen
        x, ok = with_prefix(seen, self.prefix, None)
        t = x.shape[1] - seen.x.shape[1]
        blocks: list[Any] = list(self.blocks)
        for block in blocks:
            x = x + top_attention(block.attn, block.norm1(x), self.top, ok)
            x = x + block.mlp(block.norm2(x))
        x = self.norm(x)
        return Latent(x[:, t:], seen.pos, seen.ok, seen.kind, x[:, :t] if t else None)


class Unmixed(Transformer):
    """The decoder of MAE for each sample by itself: its own codes, and mask tokens where it showed nothing (section
    3.1)."""

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask = step.latent, step.mask
        if mask.via is None:
            raise RecipeError("this decoder takes rows of several samples apart: use mask=P(Mixing)")
        index, ok = own_tokens(mask)
        codes = latent.x[mask.via].gather(1, index[..., None].expand(-1, -1, latent.x.shape[-1]))
        prefix = None if latent.prefix is None else latent.prefix[mask.via]
        alone = Latent(codes, take(step.tokens.pos, index), ok, prefix=prefix)
        apart = mask._replace(keep=index, keep_ok=ok, keep_of=None, via=None)
        return super().forward(step._replace(latent=alone, mask=apart), model)


class SameSource(Part):
    """Codes of one sample are drawn together, against those of the others in its row: the contrastive loss of the codes
    themselves, a token's positives being the other tokens of its sample (section 3.3).

    Args:
        weight: of the loss.
        temperature: of the similarities.
    """

    def __init__(self, model: Model, *, weight: float = 0.1, temperature: float = 0.25):
        super().__init__(model)
        if weight <= 0 or temperature <= 0:
            raise RecipeError(f"weight and temperature are above 0, not {weight} and {temperature}")
        self.weight, self.temperature = weight, temperature

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        of = step.mask.keep_of
        if of is None or of.ndim != 2:
            raise RecipeError("codes of one sample are told from others in rows of several: use mask=P(Mixing)")
        z = torch.nn.functional.normalize(step.latent.x.float(), dim=-1)
        similar = z @ z.transpose(1, 2) / self.temperature  # R N N
        itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        apart = itself if step.latent.ok is None else itself | ~step.latent.ok[:, None]
        logp = similar.masked_fill(apart, -1e9).log_softmax(-1)
        same = (of[:, :, None] == of[:, None]) & ~itself
        if step.latent.ok is not None:
            same = same & step.latent.ok[:, None] & step.latent.ok[:, :, None]
        loss = -torch.where(same, logp, 0.0).sum(-1) / same.sum(-1).clamp(min=1)
        return {"homologous": self.weight * loss.mean()}
