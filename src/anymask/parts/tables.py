"""Parts of systems for tables: how cells are embedded, which are hidden, and cells of several types as targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Head, Mask, Model, Part, Seen, Step, split, take
from anymask.recipe import RecipeError


class ColumnEmbed(Part):
    """Cells embedded by their columns: a number times the vector of its column, a vector for each category, and a bias
    vector of the column on either (the feature tokenizer of FT-Transformer, arXiv:2106.11959, section 3.1); positions
    on top. Shared weights, as in `stems.Embed`, make equal numbers of all columns alike.
    """

    def __init__(self, model: Model):
        super().__init__(model)
        tokenizer, width = model.tokenizer, model.size.width
        self.field, bound = tokenizer.field, width**-0.5
        table = lambda rows: nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound))
        self.weight = table(tokenizer.numbers) if tokenizer.numbers else None
        self.category = table(-tokenizer.streams["categories"]) if "categories" in tokenizer.streams else None
        self.bias = table(tokenizer.grid[0])
        self.positions = model.positions(width)

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        """Arguments as in `stems.Embed`."""
        tokens, mask = step.tokens, step.mask
        streams = tokens.x if content is None else content
        column = tokens.pos[..., 0].long()  # B|1 N
        parts = []
        if self.weight is not None:
            x = streams[self.field]
            parts.append(x * self.weight[column[:, : x.shape[1]]])
        if self.category is not None:
            parts.append(self.category[streams["categories"]])
        x = torch.cat(parts, 1) + self.bias[column]  # B N D
        x = take(x, mask.keep, mask.keep_of)
        if fill is not None:
            visible = mask.visible if mask.keep is None else mask.visible.gather(1, mask.keep)
            x = torch.where(visible[..., None], x, fill.to(x.dtype))
        x = x + take(self.positions(tokens), mask.keep, mask.keep_of).to(x.dtype)
        kind = None if tokens.kinds is None else take(tokens.kinds, mask.keep, mask.keep_of)
        return Seen(x, take(tokens.pos, mask.keep, mask.keep_of), mask.keep_ok, kind, content)

    def groups(self) -> dict[str, dict[str, float]]:
        names = ("weight", "category", "bias", "positions")
        return {name: {"weight_decay": 0.0} for name in names}


class CellValues(Part):
    """The content of the asked cells: `cells` (Q, M, 1), numbers as the tokenizer scales them, and `categories` (Q, M,
    classes), 1 for the category that a cell holds, 0 for the others of its column, NaN for those of other columns."""

    logits = ("categories",)

    def __init__(self, model: Model):
        super().__init__(model)
        tokenizer = model.tokenizer
        self.field, self.numbers = tokenizer.field, tokenizer.numbers
        classes = -tokenizer.streams.get("categories", 0)
        mixed = bool(classes and self.numbers)
        self.heads = {"cells": Head(1, kinds=(0,) if mixed else None)} if self.numbers else {}
        self.heads |= {"categories": Head(classes, kinds=(1,) if mixed else None)} if classes else {}
        sizes = tokenizer.last - tokenizer.first + 1
        owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes) + self.numbers
        self.register_buffer("owner", owner, persistent=False)

    owner: Tensor  # the column of each category

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        tokens, mask = step.tokens, step.mask
        x, n = dict(tokens.x), tokens.shape[1]
        goal = {}
        if "cells" in self.heads:
            cells = x[self.field]
            cells = nn.functional.pad(cells, (0, 0, 0, n - cells.shape[1])).float()
            goal["cells"] = take(cells, mask.ask, mask.ask_of)
        if "categories" in self.heads:
            place = nn.functional.pad(x["categories"], (n - x["categories"].shape[1], 0))
            held = nn.functional.one_hot(take(place, mask.ask, mask.ask_of), len(self.owner)).float()
            goal["categories"] = held.masked_fill(~self.own(step), torch.nan)
        return goal

    def own(self, step: Step) -> Tensor:
        """(Q or 1, M, classes) which categories an asked cell can have."""
        column = take(step.tokens.pos[..., 0].long(), step.mask.ask, step.mask.ask_of)
        return column[..., None] == self.owner

    @property
    def difference_words(self) -> str:
        """What `difference` is."""
        if "categories" not in self.heads:
            return "mean squared error of the hidden content, in the tokenizer's units,"
        return "mean of the squared error of hidden numbers, and of 1 for a wrong category,"

    def difference(self, made: Tensor, content: Tensor) -> Tensor:
        """(B, N) how far content (B, N, 1) that was made is from the true one."""
        gap = (made - content)[..., 0]
        return torch.cat([gap[:, : self.numbers].square(), (gap[:, self.numbers :] != 0).float()], 1)

    def content(self, step: Step) -> Tensor:
        """(Q, M, 1) predictions of cells as `Cells.together` has them: of categories the likeliest."""
        pred = step.pred.get("cells")
        if "categories" not in self.heads:
            return step.pred["cells"].float()
        own = self.own(step)
        likely = step.pred["categories"].float().masked_fill(~own, -torch.inf).argmax(-1)
        likely = (likely - own.float().argmax(-1)).float()[..., None]
        return likely if pred is None else torch.where(own.any(-1, keepdim=True), likely, pred.float())


class Subsets(Part):
    """One part of the columns is shown, and several others of the rest are predicted from it, each by itself; parts
    that are predicted may overlap (T-JEPA, arXiv:2410.05016, section 3.2). Sizes are drawn for each row and part, at
    least one column each.

    Args:
        shown: least and largest share of the cells of a row that are shown, missing ones not counted.
        asked: the same of a part that is predicted, as far as so many are left.
        parts: that are predicted.
    """

    def __init__(
        self,
        model: Model,
        *,
        shown: tuple[float, float] = (0.2, 0.6),
        asked: tuple[float, float] = (0.2, 0.6),
        parts: int = 4,
    ):
        super().__init__(model)
        for name, (low, high) in {"shown": shown, "asked": asked}.items():
            if not 0.0 < low <= high < 1.0:
                raise RecipeError(f"mask.{name} is the least and the largest share of a row's cells, between 0 and 1, "
                                  f"not {low}, {high}")  # fmt: skip
        if parts < 1:
            raise RecipeError(f"mask.parts counts from 1, not {parts}")
        self.shown, self.asked, self.parts = shown, asked, parts

    def forward(self, step: Step, model: Model) -> Mask:
        key, (b, n) = step.sample["key"], step.tokens.shape
        valid = step.tokens.valid
        valid = torch.ones(b, n, dtype=torch.bool, device=key.device) if valid is None else valid
        seen = _sized(self.shown, keyed.uniform(key, 1, salt=1)[:, 0], valid.sum(1))
        mask = split(keyed.uniform(key, n), seen, keep=model.corruption.keep, valid=valid)
        of = torch.arange(b, device=key.device).repeat_interleave(self.parts)  # Q
        own = keyed.fold(key[of], torch.arange(b * self.parts, device=key.device) % self.parts)
        rest = (valid & ~mask.visible)[of]  # Q N
        size = _sized(self.asked, keyed.uniform(own, 1, salt=2)[:, 0], valid.sum(1)[of]).minimum(rest.sum(1))
        part = split(keyed.uniform(own, n, salt=3), rest.sum(1) - size, valid=rest)
        return mask._replace(ask=part.ask, ask_ok=part.ask_ok, ask_of=of, via=of)


def _sized(share: tuple[float, float], drawn: Tensor, whole: Tensor) -> Tensor:
    """Numbers (R,) of `whole`, of a share between the two, at least 1."""
    low, high = share
    return ((low + (high - low) * drawn) * whole).round().long().clamp(min=1).minimum(whole)
