"""Parts of electrocardiograms: patches of leads, masks of leads and of moments, decoding lead by lead."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Model, Step, Tokens, take
from anymask.parts.decoders import Transformer, join
from anymask.parts.encoders import ViT
from anymask.parts.masks import Scored
from anymask.parts.positions import SinCos
from anymask.parts.series import ChannelPatches, even_score
from anymask.recipe import RecipeError


class LeadPatches(ChannelPatches):
    """Records to patches of one lead each (ST-MEM, arXiv:2402.09450, section 3.1): see `ChannelPatches`. A lead that a
    record lacks is not valid.

    Args:
        patch: moments; None = 0.3 s, or 0.1 s in windows of less than 4 s.
        instance: each lead of a window by its own mean and spread, in place of those of the lead in the training data.
        field: of the schema.
    """

    takes = "ecg"

    def __init__(self, model: Model, *, patch: int | None = None, instance: bool = False, field: str = "ecg"):
        super().__init__(model, patch=patch, instance=instance, field=field)

    def raw(self, values: Tensor) -> Tensor:
        """Values (B, L, T) as the tokenizer scales them, without `instance`, in mV."""
        return values * self.std + self.mean


class LeadsAndTimes(Scored):
    """Patches hidden at random, the same share of each lead (ST-MEM, section 3.2); or whole leads (MLAE), or all leads
    at the same moments (MTAE; both Zhang et al. 2022, "MaeFE").

    Args:
        ratio, ask: see `Scored`.
        leads: share of the samples whose leads are hidden as a whole.
        times: share of the samples whose moments are.
    """

    def __init__(
        self, model: Model, *, ratio: float = 0.75, leads: float = 0.0, times: float = 0.0, ask: float | None = 1.0
    ):
        super().__init__(model, ratio=ratio, ask=ask)
        if min(leads, times) < 0 or leads + times > 1:
            raise RecipeError(f"mask.leads and mask.times are shares of the samples, not {leads} and {times}")
        self.leads, self.times = float(leads), float(times)

    def visible(self, tokens: Tokens) -> float | int | Tensor:
        if tokens.valid is None:
            return max(1, int(tokens.shape[1] * (1.0 - self.ratio) + 1e-4))
        count = tokens.valid.sum(1)
        return (count * (1.0 - self.ratio) + 1e-4).long().clamp(min=1).minimum(count)

    def score(self, step: Step, model: Model) -> Tensor:
        key, grid = step.sample["key"], step.tokens.grid
        score = even_score(step)
        if not self.leads and not self.times:
            return score
        assert grid is not None
        place = torch.arange(step.tokens.shape[1], device=key.device)
        by_lead = keyed.uniform(key, place // grid[1], salt=31) + 1e-3 * score  # within a lead at random
        by_time = keyed.uniform(key, place % grid[1], salt=32)
        drawn = keyed.uniform(key, 1, salt=33)
        score = torch.where(drawn < self.leads, by_lead, score)
        return torch.where((drawn >= self.leads) & (drawn < self.leads + self.times), by_time, score)


class LeadsByTime(nn.Module):
    """Sines and cosines of the moment, and one learned vector for each lead (ST-MEM, section 3.3)."""

    def __init__(self, model: Model, *, width: int):
        super().__init__()
        self.time = SinCos(model, width=width, axes=(1,))
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(model.tokenizer.channels, width), std=0.02))

    def forward(self, tokens: Tokens) -> Tensor:
        return self.time(tokens) + nn.functional.embedding(lead_of(tokens.pos), self.table)


def lead_of(pos: Tensor) -> Tensor:
    """(..., N) number of the lead of each token."""
    return pos[..., 0].floor().long()


class LeadViT(ViT):
    """A transformer over the patches of all leads and, before them, one token for each lead without content, which is
    never hidden: what a decoder of single leads learns of the others (the SEP tokens of ST-MEM, section 3.3; there two
    for each lead).

    Args:
        depth, heads, mlp_ratio, drop_path: see `ViT`.
    """

    def __init__(
        self,
        model: Model,
        *,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ):
        registers = model.tokenizer.channels
        super().__init__(
            model, depth=depth, heads=heads, mlp_ratio=mlp_ratio, drop_path=drop_path, cls=False, registers=registers
        )


class Leadwise(Transformer):
    """A `Transformer` decoder for each lead by itself, its weights shared (ST-MEM, section 3.2): a token attends to the
    codes and mask tokens of its own lead, and to the lead's token of `LeadViT`.

    Args:
        width, depth, heads: see `Transformer`.
        across: attention over all leads instead.
    """

    def __init__(
        self,
        model: Model,
        *,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        across: bool = False,
    ):
        super().__init__(model, width=width, depth=depth, heads=heads)
        self.across = across

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        latent, mask, tokens = step.latent, step.mask, step.tokens
        if self.across:
            return super().forward(step, model)
        if latent.prefix is None or mask.keep is None or mask.via is not None:
            raise RecipeError("decoding by leads needs P(LeadViT) and hidden tokens that are dropped; else set "
                              "decoder.across=true")  # fmt: skip
        t, place = latent.prefix.shape[1], self.positions(tokens)  # B|1 N W
        x = self.embed(torch.cat([latent.prefix, latent.x], 1))  # R t+K W
        x = torch.cat([x[:, :t], x[:, t:] + take(place, mask.keep, mask.keep_of).to(x.dtype)], 1)
        asked = (self.token + take(place, mask.ask, mask.ask_of)).to(x.dtype).expand(len(x), -1, -1)
        ok = None if latent.ok is None else nn.functional.pad(latent.ok, (t, 0), value=True)
        ok = join(ok, mask.ask_ok, x, asked)
        lead = lead_of(tokens.pos)
        own = torch.arange(t, device=lead.device).expand(len(x), -1)
        all_ = torch.cat([own, *(take(lead, i, o) for i, o in ((mask.keep, mask.keep_of), (mask.ask, mask.ask_of)))], 1)
        pairs = all_[:, :, None] == all_[:, None]
        pairs = pairs if ok is None else pairs & ok[:, None]
        x = torch.cat([x, asked], 1)
        last = slice(x.shape[1] - asked.shape[1], None)
        for block in self.blocks[:-1]:
            x = block(x, pairs)
        return self.heads(self.norm(self.blocks[-1](x, pairs, queries=last)))
