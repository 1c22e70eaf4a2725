"""Masks and decoders of tokens of several fields."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Mask, Model, Part, Step, Tokens, scatter, split, take
from anymask.parts.decoders import mask_token
from anymask.parts.layers import Block, CrossBlock, LayerNorm, Linear, init_weights
from anymask.parts.masks import Scored
from anymask.parts.several import of_field, spread
from anymask.recipe import RecipeError


def ranks(tokens: Tokens, draw: Tensor) -> Tensor:
    """(B, N) the rank of each token among the valid ones of its field, by `draw` (B, N) from the lowest."""
    if tokens.valid is not None:
        draw = draw.masked_fill(~tokens.valid, torch.inf)
    return torch.cat([of_field(draw, tokens, name).argsort(1).argsort(1) for name in tokens.x], 1)


def valid_counts(tokens: Tokens) -> Tensor:
    """(B, F) valid tokens of each field."""
    b, n = tokens.shape
    valid = torch.ones(b, n, device=tokens.pos.device) if tokens.valid is None else tokens.valid.float()
    return torch.stack([of_field(valid, tokens, name).sum(1) for name in tokens.x], 1)


def field_of(tokens: Tokens) -> Tensor:
    """(N,) number of the field of each token."""
    sizes = [x.shape[1] for x in tokens.x.values()]
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).to(tokens.pos.device)


class Dirichlet(Scored):
    """One number of visible tokens for all fields together, divided between them by shares from a symmetric Dirichlet
    distribution, within a field at random (MultiMAE, arXiv:2204.01678, section 3.2). So a field may be hidden wholly.
    Where a field has too few tokens for its share, the others have the rest.

    Args:
        ratio, ask: see `Scored`; the paper shows a sixth of the tokens.
        alpha: concentration, a whole number: 1 = every division is as likely as any other; many = nearly equal shares.
    """

    def __init__(self, model: Model, *, ratio: float = 5 / 6, alpha: int = 1, ask: float | None = 1.0):
        super().__init__(model, ratio=ratio, ask=ask)
        if not isinstance(alpha, int) or alpha < 1:
            raise RecipeError(f"mask.alpha is a whole number from 1 on, not {alpha}")
        self.alpha = alpha

    def visible(self, tokens: Tokens) -> int | Tensor:
        if tokens.valid is None:
            return max(1, int(tokens.shape[1] * (1.0 - self.ratio) + 1e-4))
        count = tokens.valid.sum(1)
        return (count * (1.0 - self.ratio) + 1e-4).long().clamp(min=1).minimum(count)

    def score(self, step: Step, model: Model) -> Tensor:
        tokens, key = step.tokens, step.sample["key"]
        fields = len(tokens.x)
        draw = keyed.uniform(key, fields * self.alpha, salt=31).unflatten(1, (fields, self.alpha))
        gamma = -torch.log1p(-draw).sum(2)  # B F; normalised they would be the shares
        rank = ranks(tokens, keyed.uniform(key, tokens.shape[1], salt=32))
        return (rank + 0.5) / gamma.clamp(min=1e-6)[:, field_of(tokens)]


class ByField(Scored):
    """A share of its own of each field's tokens is hidden (M3AE, arXiv:2205.14204, section 3.1). Short fields round at
    random, so that the share is met in the mean; at least one token of a sample stays visible.

    Args:
        ratio: of fields that `ratios` does not name.
        ratios: kind or name of a field -> hidden share.
        ask: see `Scored`.
    """

    def __init__(
        self,
        model: Model,
        *,
        ratio: float = 0.75,
        ratios: Mapping[str, float] | None = None,
        ask: float | None = 1.0,
    ):
        super().__init__(model, ratio=ratio, ask=ask)
        fields = {name: model.schema.fields[name].kind for name in model.tokenizer.fields}
        wrong = [name for name in ratios or {} if name not in (*fields, *fields.values())]
        if wrong:
            raise RecipeError(f"mask.ratios names {wrong[0]!r}, which is no field and no kind of one: {fields}")
        shares = [(ratios or {}).get(name, (ratios or {}).get(kind, ratio)) for name, kind in fields.items()]
        if not all(0.0 < share < 1.0 for share in shares):
            raise RecipeError(f"mask.ratios are hidden shares, above 0 and below 1, not {ratios}")
        self.shares = shares

    def forward(self, step: Step, model: Model) -> Mask:
        tokens, key = step.tokens, step.sample["key"]
        count = valid_counts(tokens)  # B F
        shown = count * (1.0 - torch.tensor(self.shares, device=count.device))
        shown = (shown + keyed.uniform(key, count.shape[1], salt=33)).floor().minimum(count)
        none = shown.sum(1) == 0
        largest = F.one_hot(count.argmax(1), count.shape[1]) * (count > 0)
        shown = torch.where(none[:, None], largest.float(), shown)
        rank = ranks(tokens, keyed.uniform(key, tokens.shape[1], salt=34))
        hidden = rank >= shown[:, field_of(tokens)]
        score = hidden + 0.5 * keyed.uniform(key, tokens.shape[1], salt=35)
        return split(score, shown.sum(1).long(), keep=model.corruption.keep, ask=self.ask, valid=tokens.valid)


class FieldDecoder(nn.Module):
    """Rebuilds one field: its tokens, codes where the encoder saw them and a mask token elsewhere, read the codes of
    all fields in one layer of cross-attention, then each other in `depth` layers."""

    def __init__(self, model: Model, heads: dict[str, int], *, width: int, depth: int, attention: int):
        super().__init__()
        self.embed = Linear(model.encoder.width, width)
        self.token = mask_token(width)
        self.context = LayerNorm(width)
        self.cross = CrossBlock(width, attention, context_width=width)
        self.blocks = nn.ModuleList(Block(width, attention) for _ in range(depth))
        self.norm = LayerNorm(width)
        self.heads = nn.ModuleDict({name: Linear(width, size) for name, size in heads.items()})
        for module in (self.embed, self.cross, self.blocks, self.heads):
            init_weights(module)

    def forward(self, step: Step, place: Tensor, field: str) -> dict[str, Tensor]:
        """(Q, N of the field, width of a head); `place` (B|1, N, W) are the positions of all tokens."""
        latent, mask, tokens = step.latent, step.mask, step.tokens
        codes = self.embed(latent.x)  # R K W
        context = codes + take(place, mask.keep, mask.keep_of).to(codes.dtype)
        ok = latent.ok
        if latent.prefix is not None:
            context = torch.cat([self.embed(latent.prefix), context], 1)
            ok = ok if ok is None else F.pad(ok, (latent.prefix.shape[1], 0), value=True)
        x = scatter(codes, mask, self.token) + take(place, None, mask.keep_of).to(codes.dtype)  # R N W
        x = of_field(x, tokens, field)
        real = None if tokens.valid is None else of_field(take(tokens.valid, None, mask.keep_of), tokens, field)
        if mask.via is not None:
            x, context = x[mask.via], context[mask.via]
            ok, real = None if ok is None else ok[mask.via], None if real is None else real[mask.via]
        x = self.cross(x, self.context(context), ok)
        for block in self.blocks:
            x = block(x, real)
        x = self.norm(x)
        return {name: head(x) for name, head in self.heads.items()}

    def groups(self) -> dict[str, dict[str, float]]:
        return {"token": {"weight_decay": 0.0}}


class Decoders(Part):
    """A decoder for each field, see `FieldDecoder` (MultiMAE, arXiv:2204.01678, section 3.3).

    Args:
        width, depth, heads: None = the decoder's of the size; `depth` counts the layers after the cross-attention.
    """

    def __init__(self, model: Model, *, width: int | None = None, depth: int | None = None, heads: int | None = None):
        super().__init__(model)
        size = model.size
        width, depth, heads = width or size.decoder_width, depth or size.decoder_depth, heads or size.decoder_heads
        self.fields = list(model.tokenizer.fields)
        self.positions = model.positions(width)
        names = model.target.names
        sizes = [{name: model.target.heads[name].width for name in of.values()} for of in names]
        self.each = nn.ModuleList(
            FieldDecoder(model, one, width=width, depth=depth, attention=heads) for one in sizes
        )

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        place = self.positions(step.tokens)
        found: dict[str, Tensor] = {}
        for name, decoder in zip(self.fields, self.each):
            made = decoder(step, place, name)
            found |= {head: spread(pred, step.tokens, name, step.mask) for head, pred in made.items()}
        return found
