"""Token sets: channels of a grid (scans of a case, bands of a satellite, stains) whose patches are tokens of their own.

Every set is a stream, and its number is the kind of its tokens. So a channel that a sample lacks is a set of tokens
that are not valid, and a channel that is to be made up is one that is wholly hidden.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anymask import keyed
from anymask.data.kind import kind_of
from anymask.engine import Head, Mask, Model, Part, Sample, Step, Tokens, scatter, split, take
from anymask.parts.decoders import Heads, mask_token
from anymask.parts.layers import Block, CrossBlock, LayerNorm, Linear, init_weights
from anymask.parts.masks import Scored
from anymask.parts.positions import SinCos
from anymask.parts.stems import Embed
from anymask.parts.targets import moments
from anymask.parts.tokenizers import Patches, grid_index
from anymask.recipe import RecipeError


class Sets(Patches):
    """Values on a grid to a set of patches for each group of channels.

    (B, C, *space) in raw units -> a stream (B, N, values * channels) for each group, standardised by channel; `pos` is
    the centre of a patch, the same in all sets, `kind` the number of the group. Patches of NaN only are not valid;
    other NaN become the kind's blank.

    Args:
        patch, kind, field: see `Patches`.
        groups: channels of each set, by number; None = the groups of the kind of data, which are single channels where
            it knows none.
        single: every channel by itself, whatever the groups.
        square: patches have to be squares, as for a loss of their spectrum.
    """

    joint = True  # streams can be put side by side, see `anymask.reports.renderer.joined`

    @staticmethod
    def named(model: Model, field: str) -> list[str]:
        """Names of a field's channels."""
        about = model.schema.fields[field]
        return list(about.columns) or [f"channel {n}" for n in range(about.shape[0])]

    def __init__(
        self,
        model: Model,
        *,
        patch: int | Sequence[int] | None = None,
        kind: str | None = None,
        field: str | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        single: bool = False,
        square: bool = False,
    ):
        super().__init__(model, patch=patch, kind=kind, field=field)
        wide = [side for side in self.sides if side > 1]
        if square and (len(wide) != 2 or wide[0] != wide[1]):
            shape = " x ".join(map(str, self.sides))
            raise RecipeError(f"this recipe needs square patches, not {shape}; use another one (--recipe)")
        about = model.schema.fields[self.field]
        names = self.named(model, self.field)
        if single:
            groups = [[n] for n in range(self.channels)]
        elif groups is None:
            groups = kind_of(about.kind).groups(about)
        if sorted(n for group in groups for n in group) != list(range(self.channels)):
            raise RecipeError(
                f"the sets {list(map(list, groups))} are not the {self.channels} channels of '{self.field}', each once "
                "(--set tokenizer.groups=[[0,1],[2]])"
            )
        self.members = [list(group) for group in groups]
        self.kinds = len(self.members)
        values = math.prod(self.sides)
        # Names of modules hold no dots.
        called = [" ".join(names[n] for n in group).replace(".", "_") for group in self.members]
        self.streams = {name: values * len(group) for name, group in zip(called, self.members)}

    def forward(self, sample: Sample) -> Tokens:
        values = sample[self.field]
        space = values.shape[2:]
        if any(n % side for n, side in zip(space, self.sides)):
            raise ValueError(f"'{self.field}' of {tuple(space)} is not whole patches of {self.sides}")
        values = (values.float() - self.mean) / self.std
        grid = tuple(n // side for n, side in zip(space, self.sides))
        corner = grid_index(grid, values.device) * values.new_tensor(self.sides)
        inside = None if "extent" not in sample else (corner < sample["extent"][:, None]).all(-1)  # B N
        x, valid = {}, []
        for name, group in zip(self.streams, self.members):
            x[name] = self.patches(values[:, group])
            missing = x[name].isnan()
            there = ~missing.all(-1)
            valid.append(there if inside is None else there & inside)
            if len(self.blank):
                blank = self.blank.view(-1, self.channels)[:, group].flatten()
                x[name] = torch.where(missing, blank, x[name])
        every = torch.cat(valid, 1)
        pos = (corner + 0.5 * values.new_tensor(self.sides)).repeat(self.kinds, 1)[None]
        kind = torch.arange(self.kinds, device=pos.device).repeat_interleave(len(corner))
        return Tokens(x, self.placed(pos, sample), None if every.all() else every, kind)

    def placed(self, pos: Tensor, sample: Sample) -> Tensor:
        """Positions of all tokens, from those of their centres."""
        return pos

    def whole(self, x: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Standardised patches of all sets side by side, narrower ones filled up (B, N, widest), back to standardised
        values (B, C, *space)."""
        each = x.unflatten(1, (self.kinds, -1)).unbind(1)  # B n W
        grid = self.grid if grid is None else grid
        out: list[Tensor] = [x] * self.channels
        for one, group, width in zip(each, self.members, self.streams.values()):
            for channel, values in zip(group, super().whole(one[..., :width], grid).unbind(1)):
                out[channel] = values
        return torch.stack(out, 1)


class SharedEmbed(Embed):
    """One linear embedding for all streams, so that a channel is known by nothing but its content (CA-MAE,
    arXiv:2404.10242, section 3.3): any number of channels, in any order."""

    def __init__(self, model: Model, *, positions: bool = True, kinds: bool = False):
        super().__init__(model, positions=positions, kinds=kinds)
        widths = set(model.tokenizer.streams.values())
        if len(widths) > 1:
            raise RecipeError("one embedding for all sets needs sets of one width: --set tokenizer.single=true")
        self.embed = nn.ModuleDict({"shared": self._one(widths.pop(), model.size.width)})

    def embedded(self, name: str, x: Tensor) -> Tensor:
        return self.embed["shared"](x)


class SetPlaces(nn.Module):
    """Sines and cosines of the place in one part of the width and of the number of the set in the other (SatMAE,
    arXiv:2207.08051, sections 3.2 and 3.3). The first `times` coordinates, such as those of a date, have a part of
    their own as well.

    Args:
        share: of the width for the number of the set: a quarter (256 of 1,024 there).
        time: of the width for the times, where there are some: three eighths (384 of 1,024 there).
    """

    def __init__(self, model: Model, *, width: int, share: float = 0.25, time: float = 0.375):
        super().__init__()
        tokenizer = model.tokenizer
        times = getattr(tokenizer, "times", 0)
        axes = len(tokenizer.pitch)
        sets = int(width * share) // 2 * 2 if tokenizer.kinds > 1 else 0
        dated = int(width * time) // (2 * max(1, times)) * 2 * times
        self.place = SinCos(model, width=width - sets - dated, axes=tuple(range(times, axes)))
        self.date = SinCos(model, width=dated, axes=tuple(range(times))) if times else None
        self.rest = sets
        rates = 10000.0 ** (-torch.arange(sets // 2, dtype=torch.float64) / max(1, sets / 2))
        self.register_buffer("rates", rates, persistent=False)

    rates: Tensor

    def forward(self, tokens: Tokens) -> Tensor:
        parts = [self.place(tokens)] + ([] if self.date is None else [self.date(tokens)])
        if self.rest:
            assert tokens.kinds is not None
            angle = tokens.kinds[..., None].double() * self.rates
            parts.append(torch.cat([angle.sin(), angle.cos()], -1).float())
        rows = max(part.shape[0] for part in parts)
        return torch.cat([part.expand(rows, -1, -1) for part in parts], -1)


class SharedOut(Scored):
    """One mask over all sets: how many of the visible tokens each set has is drawn, every way to share them out being
    as likely (a Dirichlet distribution of ones; MultiMAE, arXiv:2204.01678, section 3.2, and BM-MAE,
    arXiv:2505.00568). So some samples show nearly nothing of a set, as if it were missing. What a set has too few
    tokens for is shown of others.

    Args:
        ratio, ask: see `Scored`.
    """

    def score(self, step: Step, model: Model) -> Tensor:
        tokens, key = step.tokens, step.sample["key"]
        b, n = tokens.shape
        assert tokens.kinds is not None
        kind = tokens.kinds.expand(b, n)
        u = keyed.uniform(key, n)
        valid = torch.ones_like(u, dtype=torch.bool) if tokens.valid is None else tokens.valid
        each = torch.zeros(b, model.tokenizer.kinds, device=u.device)
        real, every = each.scatter_add(1, kind, valid.float()), each.scatter_add(1, kind, torch.ones_like(u))
        draw = -torch.log(keyed.uniform(key, each.shape[1], salt=41).clamp(min=1e-7)) * (real > 0)
        shown = (real.sum(1, keepdim=True) * (1.0 - self.ratio) + 1e-4).floor()
        wanted = (shown * draw / draw.sum(1, keepdim=True).clamp(min=1e-7)).round()  # B sets
        # Place of a token among those of its set, invalid ones last.
        order = (kind + 0.5 * u + 0.5 * (~valid)).argsort(1).argsort(1)
        place = order - (every.cumsum(1) - every).gather(1, kind)
        return (place >= wanted.gather(1, kind)).float() + u


class SamePlaces(Scored):
    """The same places are hidden in all sets, and at all times: what SatMAE's independent masks are compared with
    (arXiv:2207.08051, section 3.2, 'consistent masking').

    Args:
        ratio, ask: see `Scored`.
    """

    def score(self, step: Step, model: Model) -> Tensor:
        pos = step.tokens.pos[..., -2:] / step.tokens.pos.new_tensor(model.tokenizer.pitch[-2:])
        cell = pos.floor().long()
        return keyed.uniform(step.sample["key"], cell[..., 0] * 100_003 + cell[..., 1])

    def forward(self, step: Step, model: Model) -> Mask:
        score, valid = self.score(step, model), step.tokens.valid
        ranked = (score if valid is None else score.masked_fill(~valid, torch.inf)).sort(1).values
        whole = score.shape[1] if valid is None else valid.sum(1)
        last = torch.as_tensor(whole * (1.0 - self.ratio) + 1e-4, device=score.device).long().clamp(min=1) - 1
        limit = ranked.gather(1, last.expand(len(score))[:, None])
        # Whole places only: as many tokens as there are up to the last one's place.
        count = (ranked <= limit).sum(1)
        most = whole - 1 if isinstance(whole, int) else (whole - 1).clamp(min=1)
        count = torch.minimum(count, torch.as_tensor(most, device=count.device).expand_as(count))
        return split(score, count, keep=model.corruption.keep, ask=self.ask, valid=valid)


class SetPixels(Part):
    """The content of the asked tokens, whichever set they are of: one head where all sets are as wide, else one for
    each set (Q, M, width). The loss is the mean over sets of each one's mean.

    Args:
        normalise: each token by its own mean and spread, see `Pixels`.
    """

    def __init__(self, model: Model, *, normalise: bool = False):
        super().__init__(model)
        self.normalise = normalise
        self.streams = dict(model.tokenizer.streams)
        widths = list(self.streams.values())
        self.alike = len(set(widths)) == 1
        if self.alike:
            self.heads = {"pixels": Head(widths[0])}
        else:
            share = 1.0 / len(widths)
            self.heads = {name: Head(n, weight=share, kinds=(k,)) for k, (name, n) in enumerate(self.streams.items())}

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        x, mask = step.tokens.x, step.mask
        if self.alike:
            return {"pixels": self._scaled(take(torch.cat(list(x.values()), 1), mask.ask, mask.ask_of))}
        goals, start = {}, 0
        every = torch.arange(mask.visible.shape[1], device=mask.visible.device).expand(mask.visible.shape)
        ask = every if mask.ask is None else mask.ask
        for name, values in x.items():
            inside = (ask - start).clamp(0, values.shape[1] - 1)  # tokens of other sets are not scored
            goals[name] = self._scaled(take(values, inside, mask.ask_of))
            start += values.shape[1]
        return goals

    def _scaled(self, x: Tensor) -> Tensor:
        x = x.float()
        if not self.normalise:
            return x
        mean, spread = moments(x)
        return (x - mean) / spread

    def content(self, step: Step) -> Tensor:
        """(Q, M, widest) predictions in the units of the tokens' content, NaN beyond the width of a token's set."""
        if self.alike:
            pred = step.pred["pixels"].float()
            if not self.normalise:
                return pred
            mean, spread = moments(take(torch.cat(list(step.tokens.x.values()), 1), step.mask.ask, step.mask.ask_of))
            return pred * spread + mean
        assert step.tokens.kinds is not None
        kind = take(step.tokens.kinds, step.mask.ask, step.mask.ask_of)
        widest = max(self.streams.values())
        out = next(iter(step.pred.values())).new_full((*kind.shape, widest), torch.nan).float()
        for number, (name, x) in enumerate(step.tokens.x.items()):
            pred = step.pred[name].float()
            if self.normalise:
                raise RecipeError("content of sets of several widths needs --set target.normalise=false")
            wide = nn.functional.pad(pred, (0, widest - x.shape[2]), value=torch.nan)
            out = torch.where((kind == number)[..., None], wide, out)
        return out

    @property
    def borrows(self) -> str | None:
        return "each hidden patch borrows the mean and spread of the true patch" if self.normalise else None


class PerSet(Part):
    """A decoder for each set: all places of the set, codes where the encoder kept a token and a mask token elsewhere,
    read all codes by cross-attention and then each other (MultiMAE, arXiv:2204.01678, section 3.3; CA-MAE,
    arXiv:2404.10242, section 3.3). A learned vector says which set a token is of.

    Args:
        width, depth, heads: None = the decoder's of the size; depth counts the blocks after the cross-attention.
    """

    def __init__(self, model: Model, *, width: int | None = None, depth: int | None = None, heads: int | None = None):
        super().__init__(model)
        size = model.size
        width, depth, heads = width or size.decoder_width, depth or size.decoder_depth, heads or size.decoder_heads
        sets = model.tokenizer.kinds
        self.embed = Linear(model.encoder.width, width)
        self.token = mask_token(width)
        self.positions = model.positions(width)
        self.kinds = nn.Parameter(torch.empty(sets, width).normal_(std=0.02))
        self.context = LayerNorm(width)
        self.cross = nn.ModuleList(CrossBlock(width, heads) for _ in range(sets))
        self.blocks = nn.ModuleList(nn.ModuleList(Block(width, heads) for _ in range(depth)) for _ in range(sets))
        self.norm = LayerNorm(width)
        for part in (self.embed, self.cross, self.blocks):
            init_weights(part)
        self.heads = Heads(model, width)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask, tokens = step.latent, step.mask, step.tokens
        assert tokens.kinds is not None
        place = self.positions(tokens) + self.kinds[tokens.kinds]  # B|1 N W
        codes = self.embed(latent.x)  # R K W
        x = scatter(codes, mask, self.token) + take(place, None, mask.keep_of).to(codes.dtype)  # R N W
        seen = self.context(codes + take(place, mask.keep, mask.keep_of).to(codes.dtype))
        seen_ok = latent.ok
        ok = tokens.valid if tokens.valid is None else take(tokens.valid, None, mask.keep_of)
        if mask.via is not None:
            x, seen = x[mask.via], seen[mask.via]
            seen_ok, ok = (v if v is None else v[mask.via] for v in (seen_ok, ok))
        made, start = [], 0
        for values, cross, blocks in zip(tokens.x.values(), self.cross, self.blocks):
            own = slice(start, start + values.shape[1])
            y = cross(x[:, own], seen, seen_ok)
            for block in blocks:  # type: ignore[attr-defined]
                y = block(y, None if ok is None else ok[:, own])
            made.append(y)
            start += values.shape[1]
        return self.heads(self.norm(take(torch.cat(made, 1), mask.ask)))

    def groups(self) -> dict[str, dict[str, float]]:
        names = ("token", "kinds", "positions")
        return {name: {"weight_decay": 0.0} for name in names}
