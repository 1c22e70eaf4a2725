"""Decoders: codes to predictions of the asked tokens, one head for each target."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anymask.engine import Latent, Model, Part, Step, scatter, take
from anymask.parts.layers import Block, CrossBlock, LayerNorm, Linear, init_weights, linear
from anymask.recipe import RecipeError


class Heads(nn.Module):
    """(Q, M, width) -> {head: (Q, M, head width)}."""

    def __init__(self, model: Model, width: int):
        super().__init__()
        self.heads = nn.ModuleDict({name: Linear(width, head.width) for name, head in model.target.heads.items()})
        init_weights(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: head(x) for name, head in self.heads.items()}


def mask_token(width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(width).normal_(std=0.02))


def asked_codes(step: Step) -> Tensor:
    """(Q, M, D) the encoder's codes at the asked tokens, where the encoder kept them all."""
    latent, mask = step.latent, step.mask
    if mask.keep is not None:
        raise ValueError("this decoder reads the codes of the asked tokens, so the corruption has to keep them all")
    x = latent.x if mask.via is None else latent.x[mask.via]
    return take(x, mask.ask)


class LinearHead(Part):
    """One linear layer on the codes of the asked tokens (SimMIM, arXiv:2111.09886, section 3.3)."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.heads = Heads(model, model.encoder.width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return self.heads(asked_codes(step))


class Vocabulary(Part):
    """One layer on the codes of the asked tokens, GELU and normalisation, then the stem's own table of embeddings and a
    bias for each class (BERT's head for masked words, arXiv:1810.04805; tied as arXiv:1608.05859).

    The bias starts at how often each class occurs, where the target knows that. From zero, the tied table learns the
    frequencies before the bias does, and frequency is then what all embeddings have in common.

    Args:
        stream: of integers; None = the tokenizer's only one.
        mask: whether the mask token can be predicted; it never is the truth (MDLM, arXiv:2406.07524, section 3.2.3).
    """

    def __init__(self, model: Model, *, stream: str | None = None, mask: bool = True):
        super().__init__(model)
        self.stream, width = stream or next(iter(model.tokenizer.streams)), model.encoder.width
        self.never = None if mask else model.tokenizer.mask_id
        (self.head,) = model.target.heads
        self.dense = Linear(width, width)
        self.norm = LayerNorm(width, eps=1e-12)
        known = getattr(model.target, "constants", {}).get(self.head)
        start = torch.zeros(-model.tokenizer.streams[self.stream]) if known is None else known - known.mean()
        self.bias = nn.Parameter(start.clone())
        init_weights(self.dense)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return {self.head: self.scores(asked_codes(step), model)}

    def scores(self, x: Tensor, model: Model) -> Tensor:
        """(..., D) codes -> (..., classes)."""
        x = self.norm(nn.functional.gelu(self.dense(x)))
        bias: Tensor = self.bias
        if self.never is not None:
            bias = bias.index_fill(0, torch.tensor(self.never, device=bias.device), -1e9)
        return linear(x, model.stem.embed[self.stream].weight, bias)


class DenseHead(Part):
    """One layer with GELU on the codes of the asked tokens, then one linear layer (ELECTRA's discriminator,
    arXiv:2003.10555, the authors' code)."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.dense = Linear(model.encoder.width, model.encoder.width)
        init_weights(self.dense)
        self.heads = Heads(model, model.encoder.width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return self.heads(nn.functional.gelu(self.dense(asked_codes(step))))


class MlpHead(Part):
    """Two point-wise layers with GELU, then one linear layer to the target: the light decoder of GMML
    (arXiv:2205.14986, section 3.1), whose transposed convolution of one patch is that linear layer."""

    def __init__(self, model: Model):
        super().__init__(model)
        width = model.encoder.width
        self.mlp = nn.Sequential(Linear(width, width), nn.GELU(), Linear(width, width), nn.GELU())
        init_weights(self.mlp)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return self.heads(self.mlp(asked_codes(step)))


class Transformer(Part):
    """A small transformer over the codes and one mask token for each asked token (MAE, arXiv:2111.06377, section 3).
    Where the encoder kept all tokens, over their codes alone (table 1c there).

    The last block computes only the asked tokens.

    Args:
        width, depth, heads: None = the decoder's of the size.
    """

    def __init__(self, model: Model, *, width: int | None = None, depth: int | None = None, heads: int | None = None):
        super().__init__(model)
        size = model.size
        width, depth, heads = width or size.decoder_width, depth or size.decoder_depth, heads or size.decoder_heads
        self.embed = Linear(model.encoder.width, width)
        self.token = mask_token(width)
        self.positions = model.positions(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = LayerNorm(width)
        init_weights(self.embed)
        init_weights(self.blocks)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask = step.latent, step.mask
        place = self.positions(step.tokens)  # B|1 N W
        x, ok = latent.x, latent.ok
        if latent.prefix is not None:
            x = torch.cat([latent.prefix, x], 1)
            ok = ok if ok is None else nn.functional.pad(ok, (latent.prefix.shape[1], 0), value=True)
        x = self.embed(x)  # R t+K W
        t = x.shape[1] - latent.x.shape[1]
        here = take(place, mask.keep, mask.keep_of).to(x.dtype)
        x = torch.cat([x[:, :t], x[:, t:] + here], 1)
        if mask.via is not None:
            x, ok = x[mask.via], None if ok is None else ok[mask.via]
        if mask.keep is None:
            for block in self.blocks:
                x = block(x, ok)
            return self.heads(self.norm(take(x[:, t:], mask.ask)))
        asked = (self.token + take(place, mask.ask, mask.ask_of)).to(x.dtype)
        asked = asked.expand(x.shape[0], -1, -1)  # Q M W
        ok = join(ok, mask.ask_ok, x, asked)
        x = torch.cat([x, asked], 1)
        last = slice(x.shape[1] - asked.shape[1], None)
        for block in self.blocks[:-1]:
            x = block(x, ok)
        x = self.blocks[-1](x, ok, queries=last)
        return self.heads(self.norm(x))

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}, "positions": {"weight_decay": 0.0}}


class FromCls(Transformer):
    """As `Transformer`, but over every place, and where the content is hidden stands the code of the CLS token: what is
    common to the sample (MAGE, arXiv:2211.09117, section 3.2)."""

    def __init__(self, model: Model, *, width: int | None = None, depth: int | None = None, heads: int | None = None):
        super().__init__(model, width=width, depth=depth, heads=heads)
        if getattr(model.encoder, "prefix", None) is None:
            raise RecipeError("hidden places are filled with the CLS token's code: --set encoder.cls=true")
        del self.token

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask = step.latent, step.mask
        assert latent.prefix is not None
        first = self.embed(latent.prefix)  # R t W
        x = scatter(self.embed(latent.x), mask, first[:, :1])
        x = torch.where(mask.visible[..., None], x, first[:, :1])
        x = torch.cat([first, x + self.positions(step.tokens).to(x.dtype)], 1)
        ok = step.tokens.valid
        ok = ok if ok is None else nn.functional.pad(ok, (first.shape[1], 0), value=True)
        for block in self.blocks:
            x = block(x, ok)
        return self.heads(self.norm(take(x[:, first.shape[1] :], mask.ask)))

    def groups(self) -> dict[str, dict[str, float]]:
        return {"positions": {"weight_decay": 0.0}}


class Everywhere(Part):
    """A transformer over every place: codes where the encoder kept a token, a mask token elsewhere, also where there
    is nothing to keep, as in a missing cell (ReMasker, arXiv:2309.13793, section 3.2). What is shown is thus predicted
    from its own code.

    Args:
        width, depth, heads: None = the decoder's of the size.
        bounded: predictions between 0 and 1, by a logistic function of twice the last layer; not those that the target
            names as `logits`.
    """

    def __init__(
        self,
        model: Model,
        *,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        bounded: bool = False,
    ):
        super().__init__(model)
        size = model.size
        width, depth, heads = width or size.decoder_width, depth or size.decoder_depth, heads or size.decoder_heads
        self.embed = Linear(model.encoder.width, width)
        self.token = mask_token(width)
        self.positions = model.positions(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = LayerNorm(width)
        logits = getattr(model.target, "logits", ())
        self.bounded = tuple(name for name in model.target.heads if bounded and name not in logits)
        init_weights(self.embed)
        init_weights(self.blocks)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask = step.latent, step.mask
        x = scatter(self.embed(latent.x), mask, self.token)  # R N W
        x = x + self.positions(step.tokens).to(x.dtype)
        t = 0
        if latent.prefix is not None:
            t = latent.prefix.shape[1]
            x = torch.cat([self.embed(latent.prefix), x], 1)
        if mask.via is not None:
            x = x[mask.via]
        for block in self.blocks:
            x = block(x)
        pred = self.heads(self.norm(take(x[:, t:], mask.ask)))
        return {name: torch.sigmoid(2 * y) if name in self.bounded else y for name, y in pred.items()}

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}, "positions": {"weight_decay": 0.0}}


class Cross(Part):
    """Queries at the asked places attend to codes only, not to each other, so any subset of the hidden tokens can be
    decoded; each block reads its own learned mixture of the encoder's layers (CrossMAE, arXiv:2401.14391, sections 3.2
    to 3.4).

    Args:
        width, depth, heads: None = the decoder's of the size.
        mix: read mixtures of all layers (the encoder needs `layers=True`); otherwise the last layer.
    """

    def __init__(
        self,
        model: Model,
        *,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mix: bool = True,
    ):
        super().__init__(model)
        if mix and not getattr(model.encoder, "layers", False):
            raise RecipeError("mixtures of layers need an encoder that returns them: --set encoder.layers=true")
        size, code = model.size, model.encoder.width
        width, depth, heads = width or size.decoder_width, depth or size.decoder_depth, heads or size.decoder_heads
        self.token = mask_token(width)
        self.positions = model.positions(width)
        self.blocks = nn.ModuleList(CrossBlock(width, heads, context_width=code) for _ in range(depth))
        self.norm = LayerNorm(width)
        sources = len(model.encoder.blocks) + 1
        self.mix = nn.Parameter(torch.randn(depth, sources) / sources**0.5) if mix else None
        self.norms = nn.ModuleList(LayerNorm(code) for _ in range(depth)) if mix else None
        init_weights(self.blocks)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask = step.latent, step.mask
        ok = latent.ok
        if ok is not None and latent.prefix is not None:
            ok = nn.functional.pad(ok, (latent.prefix.shape[1], 0), value=True)
        contexts = self.contexts(latent)
        if mask.via is not None:
            contexts, ok = [c[mask.via] for c in contexts], None if ok is None else ok[mask.via]
        x = self.token + take(self.positions(step.tokens), mask.ask, mask.ask_of)
        x = x.to(contexts[0].dtype).expand(contexts[0].shape[0], -1, -1)  # Q M W
        for block, context in zip(self.blocks, contexts):
            x = block(x, context, ok)
        return self.heads(self.norm(x))

    def contexts(self, latent: Latent) -> list[Tensor]:
        """(R, t + K, D) for each block."""
        if self.mix is None or self.norms is None:
            x = latent.x if latent.prefix is None else torch.cat([latent.prefix, latent.x], 1)
            return [x] * len(self.blocks)
        layers = torch.stack(latent.layers, -1)  # R t+K D L
        mixed = layers @ self.mix.to(layers.dtype).T  # R t+K D depth
        return [norm(x) for norm, x in zip(self.norms, mixed.unbind(-1))]

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}, "mix": {"weight_decay": 0.0}, "positions": {"weight_decay": 0.0}}


class Convolutions(Part):
    """A few convolutions over the grid (or the sequence), codes at their places and faint noise at those of hidden
    tokens: cheaper than attention where one sample has many masks (data2vec 2.0, arXiv:2212.07525, section 3.1). Each
    is followed by a normalisation over channels and GELU, and added to its input where that is as wide. CLS and
    registers do not enter.

    Args:
        width: channels; None = the decoder's of the size.
        depth: convolutions.
        kernel: tokens along each axis, odd.
        groups: of channels; as many as fit where the width or the codes' is no multiple of them.
        noise: standard deviation of what stands at hidden places.
    """

    def __init__(
        self,
        model: Model,
        *,
        width: int | None = None,
        depth: int = 6,
        kernel: int = 3,
        groups: int = 16,
        noise: float = 0.01,
    ):
        super().__init__(model)
        axes = len(model.tokenizer.pitch)
        if axes > 3 or kernel % 2 == 0 or depth < 1:
            raise RecipeError(
                f"convolutions run over grids of 1 to 3 axes with an odd decoder.kernel and a decoder.depth from 1 on, "
                f"not {axes} axes, kernel={kernel}, depth={depth}"
            )
        width, code, self.axes = width or model.size.decoder_width, model.encoder.width, axes
        make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.convolutions = nn.ModuleList(
            make(n, width, kernel, padding=kernel // 2, groups=math.gcd(groups, n, width))
            for n in (code, *[width] * (depth - 1))
        )
        self.noise = noise
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        mask, codes = step.mask, step.latent.x
        grid = step.tokens.grid or ((step.tokens.shape[1],) if self.axes == 1 else None)  # sequences have no grid
        if grid is None:
            raise RecipeError("convolutions need tokens on a grid; use decoder=P(Transformer)")
        hole = self.noise * torch.randn(*mask.visible.shape, codes.shape[-1], device=codes.device)
        x = scatter(codes, mask, hole).transpose(1, 2).unflatten(2, grid)  # R D *grid
        for convolution in self.convolutions:
            y = convolution(x).movedim(1, -1)
            y = nn.functional.gelu(nn.functional.layer_norm(y, y.shape[-1:])).movedim(-1, 1)
            x = x + y if x.shape == y.shape else y
        x = x.flatten(2).transpose(1, 2)  # R N W
        x = x if mask.via is None else x[mask.via]
        return self.heads(take(x, mask.ask))


def join(ok: Tensor | None, ask_ok: Tensor | None, x: Tensor, asked: Tensor) -> Tensor | None:
    """(Q, K + M): which tokens are real, of codes (Q, K, .) and asked tokens (Q, M, .) side by side."""
    if ok is None and ask_ok is None:
        return None
    ok = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if ok is None else ok
    ask_ok = torch.ones(asked.shape[:2], dtype=torch.bool, device=x.device) if ask_ok is None else ask_ok
    return torch.cat([ok, ask_ok], 1)
