"""Encoders: what is seen to codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from anymask.engine import Latent, Model, Part, Seen, Step
from anymask.parts.layers import Block, LayerNorm, PostBlock, init_weights


def within_kind(seen: Seen) -> Tensor:
    """(R, K, K) attention only among tokens of one kind: makes the encoder Siamese over views. Of a whole sample, whose
    tokens have no kind, all are of one."""
    if seen.kind is None:
        return torch.ones(*seen.x.shape[:2], seen.x.shape[1], dtype=torch.bool, device=seen.x.device)
    return seen.kind[:, :, None] == seen.kind[:, None, :]


def earlier(seen: Seen) -> Tensor:
    """(R, K, K) attention to a token itself and those before it, along the first axis: a model from left to right."""
    place = seen.pos[..., 0]  # R|1 K
    return (place[:, :, None] >= place[:, None, :]).expand(seen.x.shape[0], -1, -1)


def with_prefix(
    seen: Seen, prefix: Tensor | None, within: Callable[[Seen], Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    """Prefix tokens (t, D) before what is seen, (R, t + K, D), and which tokens are attended to. Under `within`, prefix
    tokens read all tokens and are read by none, so that nothing passes through them."""
    x, ok, t = seen.x, seen.ok, 0
    if prefix is not None:
        t = prefix.shape[0]
        x = torch.cat([prefix.to(x.dtype).expand(x.shape[0], -1, -1), x], 1)  # R t+K D
        ok = ok if ok is None else nn.functional.pad(ok, (t, 0), value=True)
    if within is not None:
        pairs = nn.functional.pad(within(seen), (t, 0), value=False)
        pairs = nn.functional.pad(pairs, (0, 0, t, 0), value=True)
        ok = pairs if ok is None else pairs & ok[:, None]
    return x, ok


class ViT(Part):
    """Pre-norm transformer (Vision Transformer, arXiv:2010.11929), with a CLS token.

    Args:
        width, depth, heads: None = of the size; width is the stem's.
        mlp_ratio: width of the hidden layer of a block, in widths.
        cls: prepend a learned CLS token.
        registers: further learned tokens without content (arXiv:2309.16588).
        drop_path: stochastic depth of the last block; the others' rise to it linearly.
        layers: also return the input of the first block and the output of each one, the last one normalised.
        within: seen -> (R, K, K) bool, which tokens attend to which, see `with_prefix`; None = all to all.
    """

    def __init__(
        self,
        model: Model,
        *,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        cls: bool = True,
        registers: int = 0,
        drop_path: float = 0.0,
        layers: bool = False,
        within: Callable[[Seen], Tensor] | None = None,
    ):
        super().__init__(model)
        width, depth, heads = model.size.width, depth or model.size.depth, heads or model.size.heads
        self.width, self.heads, self.layers, self.within = width, heads, layers, within
        prefix = int(cls) + registers
        self.prefix = nn.Parameter(torch.empty(prefix, width).normal_(std=0.02)) if prefix else None
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio=mlp_ratio, drop_path=rate) for rate in rates)
        self.norm = LayerNorm(width)
        init_weights(self.blocks)

    def forward(self, step: Step, model: Model) -> Latent:
        return self.encode(step.seen)

    def encode(self, seen: Seen) -> Latent:
        x, ok = with_prefix(seen, self.prefix, self.within)
        t = x.shape[1] - seen.x.shape[1]
        layers = [x]
        for block in self.blocks:
            x = block(x, ok)
            layers.append(x)
        x = self.norm(x)
        layers[-1] = x
        prefix = x[:, :t] if t else None
        return Latent(x[:, t:], seen.pos, seen.ok, seen.kind, prefix, tuple(layers) if self.layers else ())

    def groups(self) -> dict[str, dict[str, float]]:
        return {"prefix": {"weight_decay": 0.0}}


class Bert(Part):
    """Post-norm transformer with a CLS token, its embeddings normalised first (BERT, arXiv:1810.04805).

    Args:
        depth, heads: None = of the size; width is the stem's.
        mlp_ratio: width of the hidden layer of a block, in widths.
        dropout: of embeddings, attention and every branch.
        layers, within: see `ViT`.
    """

    def __init__(
        self,
        model: Model,
        *,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        layers: bool = False,
        within: Callable[[Seen], Tensor] | None = None,
    ):
        super().__init__(model)
        width, depth, heads = model.size.width, depth or model.size.depth, heads or model.size.heads
        self.width, self.heads, self.layers, self.within = width, heads, layers, within
        self.prefix = nn.Parameter(torch.empty(1, width).normal_(std=0.02))
        self.norm = LayerNorm(width, eps=1e-12)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            PostBlock(width, heads, mlp_ratio=mlp_ratio, dropout=dropout) for _ in range(depth)
        )
        init_weights(self.blocks)

    def forward(self, step: Step, model: Model) -> Latent:
        return self.encode(step.seen)

    def encode(self, seen: Seen) -> Latent:
        x, ok = with_prefix(seen, self.prefix, self.within)
        x = self.drop(self.norm(x))
        layers = [x]
        for block in self.blocks:
            x = block(x, ok)
            layers.append(x)
        return Latent(x[:, 1:], seen.pos, seen.ok, seen.kind, x[:, :1], tuple(layers) if self.layers else ())

    def groups(self) -> dict[str, dict[str, float]]:
        return {"prefix": {"weight_decay": 0.0}}
