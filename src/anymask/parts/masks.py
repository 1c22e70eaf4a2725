"""Masks: a score for each token; `split` ranks them. A mask part is asked for a `Mask` and knows how many hidden tokens
the corruption lets into the encoder (`model.corruption.keep`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anymask import keyed
from anymask.engine import Mask, Model, Part, Step, Tokens, split
from anymask.parts.tokenizers import grid_index
from anymask.recipe import RecipeError


class Scored(Part):
    """A mask by scores: a subclass says `score(step)` -> (B, N), lowest visible.

    Args:
        ratio: share of a sample's tokens that is hidden.
        ask: share of the hidden tokens that is predicted; None = every token is, visible ones too.
    """

    def __init__(self, model: Model, *, ratio: float, ask: float | None = 1.0):
        super().__init__(model)
        if not 0.0 < ratio < 1.0:
            raise RecipeError(
                f"the mask ratio is the hidden share, above 0 and below 1, not {ratio} (--set mask.ratio=...)"
            )
        if ask is not None and not 0.0 < ask <= 1.0:
            raise RecipeError(f"mask.ask is a share of the hidden tokens, above 0 and at most 1, not {ask}")
        self.ratio, self.ask = float(ratio), None if ask is None else float(ask)

    def score(self, step: Step, model: Model) -> Tensor:
        raise NotImplementedError

    def visible(self, tokens: Tokens) -> float | int | Tensor:
        """Share or number of visible tokens."""
        return 1.0 - self.ratio

    def forward(self, step: Step, model: Model) -> Mask:
        return split(
            self.score(step, model),
            self.visible(step.tokens),
            keep=model.corruption.keep,
            ask=self.ask,
            valid=step.tokens.valid,
        )


class Random(Scored):
    """Tokens drawn uniformly (MAE, arXiv:2111.06377, section 3), or whole units of them: squares (SimMIM,
    arXiv:2111.09886, section 3.2), tubes through time (VideoMAE, arXiv:2203.12602, section 3.3), bands.

    Args:
        ratio, ask: see `Scored`.
        unit: tokens along the axes of a grid that are hidden or shown together: one number for all axes or one for
            each, 0 = the whole axis.
        fewest: tokens that stay visible on small grids, whatever the ratio.
    """

    def __init__(
        self,
        model: Model,
        *,
        ratio: float = 0.75,
        unit: int | Sequence[int] = 1,
        fewest: int = 1,
        ask: float | None = 1.0,
    ):
        super().__init__(model, ratio=ratio, ask=ask)
        units = (unit,) if isinstance(unit, int) else tuple(unit)
        if min(units) < (1 if isinstance(unit, int) else 0):
            raise RecipeError(f"mask.unit counts tokens, at least 1 (or 0 for one whole axis of several), not {unit}")
        grid = getattr(model.tokenizer, "grid", None)
        if grid is not None and units != (1,) and all(u >= n for u, n in zip(_along(unit, grid), grid)):
            raise RecipeError(
                f"mask units of {unit} tokens hide a whole grid of {grid}; --set mask.unit={max(1, max(grid) // 3)}"
            )
        if fewest < 1 or (grid is not None and fewest >= math.prod(grid)):
            raise RecipeError(f"mask.fewest={fewest} of {grid} tokens leaves nothing to hide or to see")
        self.unit, self.fewest = unit, fewest

    def visible(self, tokens: Tokens) -> float | int | Tensor:
        grid = tokens.grid
        if tokens.valid is not None:
            count = tokens.valid.sum(1)
            return (count * (1.0 - self.ratio) + 1e-4).long().clamp(min=1).minimum(count)
        if grid is None:
            return max(self.fewest, int(tokens.shape[1] * (1.0 - self.ratio) + 1e-4))
        units = _along(self.unit, grid)
        area = math.prod(units) if not any(n % u for n, u in zip(grid, units)) else 1  # whole units, none cut in two
        shown = int(math.prod(grid) // area * (1.0 - self.ratio) + 1e-4)
        return max(shown, -(-self.fewest // area)) * area

    def most(self, n: int) -> int:
        """Hidden tokens of n, at most; in whole numbers, which a compiled graph can follow."""
        return torch.sym_min(n, n * math.ceil(1000 * self.ratio) // 1000 + 2) if self.unit == 1 else n

    def forward(self, step: Step, model: Model) -> Mask:
        tokens, score = step.tokens, self.score(step, model)
        valid = tokens.valid
        plain = self.unit == 1 or valid is None
        shown = self.visible(tokens) if plain else whole_units(score, valid, self.ratio)  # type: ignore[arg-type]
        return split(score, shown, keep=model.corruption.keep, ask=self.ask, valid=valid)

    def score(self, step: Step, model: Model) -> Tensor:
        tokens, key = step.tokens, step.sample["key"]
        if self.unit == 1:
            return keyed.uniform(key, tokens.shape[1])
        if tokens.grid is None:
            raise RecipeError("mask units need tokens on a grid; use mask.unit=1")
        units = torch.tensor(_along(self.unit, tokens.grid), device=key.device)
        cell = (grid_index(tokens.grid, key.device) // units).long()  # N P
        name = cell[:, 0]
        for axis in range(1, cell.shape[1]):
            name = name * tokens.grid[axis] + cell[:, axis]
        return keyed.uniform(key, name)


class Twice(Random):
    """Two masks of each sample, drawn apart, each of which makes a row of its own; the rows of a sample follow each
    other (Point-CMAE, arXiv:2407.05862, section 3.2). Arguments as of `Random`."""

    def forward(self, step: Step, model: Model) -> Mask:
        key = step.sample["key"]
        drawn = [self.score(step._replace(sample={**step.sample, "key": keyed.fold(key, n)}), model) for n in (0, 1)]
        of = torch.arange(len(key), device=key.device).repeat_interleave(2)
        valid = step.tokens.valid
        shown = self.visible(step.tokens)
        return split(
            torch.stack(drawn, 1).flatten(0, 1),
            shown[of] if isinstance(shown, Tensor) else shown,
            keep=model.corruption.keep,
            ask=self.ask,
            valid=None if valid is None else valid[of],
            keep_of=of,
            ask_of=of,
        )


def whole_units(score: Tensor, valid: Tensor, ratio: float) -> Tensor:
    """(B,) tokens in the units that stay visible: tokens of one score (B, N) are a unit, and only the valid count."""
    ranked = score.masked_fill(~valid, torch.inf).sort(1).values
    real = ranked.isfinite()
    first = torch.cat([torch.ones_like(real[:, :1]), ranked[:, 1:] != ranked[:, :-1]], 1) & real
    unit = first.cumsum(1)  # B N, from 1
    shown = (first.sum(1) * (1.0 - ratio) + 1e-4).long().clamp(min=1)
    return (real & (unit <= shown[:, None])).sum(1)


def _along(unit: int | Sequence[int], grid: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens of a unit along each axis of a grid."""
    if isinstance(unit, int):
        return (unit,) * len(grid)
    if len(unit) != len(grid):
        raise RecipeError(f"mask.unit={tuple(unit)} needs a number for each of the {len(grid)} axes of {grid}")
    return tuple(u or n for u, n in zip(unit, grid))


class Chosen(Scored):
    """Tokens are chosen at random and asked for; most of them are hidden, the others stay as they are, so that no
    visible token is known to be right (BERT, arXiv:1810.04805, section 3.1).

    Args:
        ratio: share of a sample's tokens that is chosen.
        kept: share of the chosen tokens that stays visible.
    """

    def __init__(self, model: Model, *, ratio: float = 0.15, kept: float = 0.1):
        super().__init__(model, ratio=ratio)
        if not 0.0 <= kept < 1.0:
            raise RecipeError(f"mask.kept is a share of the chosen tokens, 0 or more and below 1, not {kept}")
        self.kept = float(kept)

    def score(self, step: Step, model: Model) -> Tensor:
        return keyed.uniform(step.sample["key"], step.tokens.shape[1])

    def forward(self, step: Step, model: Model) -> Mask:
        mask = super().forward(step, model)
        if not self.kept:
            return mask
        stays = keyed.uniform(step.sample["key"], step.tokens.shape[1], salt=1) < self.kept
        real = torch.ones_like(stays) if step.tokens.valid is None else step.tokens.valid
        return mask._replace(visible=mask.visible | (stays & real))


class Block(Scored):
    """Rectangles of random size, shape and place until the share is reached (BEiT, arXiv:2106.08254, section 2.2 and
    algorithm 1), for two-dimensional grids. Each sample hides exactly the same number of tokens: the tokens of the last
    rectangle that exceed it stay visible.

    Args:
        ratio, ask: see `Scored`.
        smallest: tokens of a rectangle at least, as a share of the grid (BEiT: 16 of 196).
        aspect: most elongated shape, height to width or the inverse.
    """

    def __init__(
        self,
        model: Model,
        *,
        ratio: float = 0.4,
        ask: float | None = 1.0,
        smallest: float = 16 / 196,
        aspect: float = 1 / 0.3,
    ):
        super().__init__(model, ratio=ratio, ask=ask)
        self.smallest, self.aspect = smallest, aspect

    def score(self, step: Step, model: Model) -> Tensor:
        grid, key = step.tokens.grid, step.sample["key"]
        if grid is None or len(grid) != 2:
            raise RecipeError("block masks need tokens on a two-dimensional grid; use P(Random)")
        return rectangles(key, grid, self.ratio, self.smallest, self.aspect)


RECTANGLES = 64  # drawn for each sample; those after the share is reached are not used


def rectangles(key: Tensor, grid: tuple[int, ...], ratio: float, smallest: float, aspect: float) -> Tensor:
    """(B, N) which token of a grid of two axes is hidden first, the highest: that in the earliest rectangle. Uncovered
    tokens rank lowest, in random order. Arguments as of `Block`."""
    u = keyed.uniform(key, 4 * RECTANGLES).unflatten(1, (RECTANGLES, 4, 1))  # B L 4 1
    n = grid[0] * grid[1]
    low = min(max(smallest, 1 / n), ratio)
    area = n * (low + u[:, :, 0] * (ratio - low))
    shape = torch.exp((2 * u[:, :, 1] - 1) * math.log(aspect))
    rows = (area * shape).sqrt().round().clamp(1, grid[0])
    columns = (area / shape).sqrt().round().clamp(1, grid[1])
    top = (u[:, :, 2] * (grid[0] - rows + 1)).floor()
    left = (u[:, :, 3] * (grid[1] - columns + 1)).floor()
    place = grid_index(grid, key.device)
    r, c = place[:, 0], place[:, 1]
    inside = (r >= top) & (r < top + rows) & (c >= left) & (c < left + columns)  # B L N
    order = torch.arange(RECTANGLES, 0, -1, device=key.device)[:, None]
    return (inside * order).amax(1) + keyed.uniform(key, n, salt=1)


class InverseBlock(Scored):
    """Squares stay visible and everything around them is hidden, in any number of masks of one sample, each of which
    makes a row of its own (data2vec 2.0, arXiv:2212.07525, sections 3.2 and 3.3), for grids. As many squares are placed
    at random as would make up the visible share and a little more; every mask shows exactly the same number of tokens:
    those that the squares lack are drawn from the rest, those that are too many are hidden.

    Args:
        ratio, ask: see `Scored`.
        side: tokens of a square along each axis.
        more: share of the grid that the squares would cover beyond the visible share, as some overlap.
        masks: of each sample; targets that a teacher makes are made once for all of them.
    """

    def __init__(
        self,
        model: Model,
        *,
        ratio: float = 0.8,
        ask: float | None = 1.0,
        side: int = 3,
        more: float = 0.07,
        masks: int = 1,
    ):
        super().__init__(model, ratio=ratio, ask=ask)
        if masks < 1 or side < 1:
            raise RecipeError(f"mask.masks and mask.side are numbers from 1 on, not {masks} and {side}")
        self.side, self.more, self.masks = side, more, masks

    def visible(self, tokens: Tokens) -> int | Tensor:
        """At least one token of a sample that has any."""
        if tokens.valid is None:
            return max(1, int(tokens.shape[1] * (1.0 - self.ratio) + 1e-4))
        count = tokens.valid.sum(1).repeat_interleave(self.masks)
        return (count * (1.0 - self.ratio) + 1e-4).long().clamp(min=1).minimum(count)

    def forward(self, step: Step, model: Model) -> Mask:
        tokens, key, of = step.tokens, step.sample["key"], None
        valid = tokens.valid
        if self.masks > 1:
            of = torch.arange(len(key), device=key.device).repeat_interleave(self.masks)
            key = keyed.fold(key[of], torch.arange(len(of), device=key.device) % self.masks)
            valid = None if valid is None else valid[of]
        return split(
            self.drawn(key, tokens),
            self.visible(tokens),
            keep=model.corruption.keep,
            ask=self.ask,
            valid=valid,
            keep_of=of,
            ask_of=of,
        )

    def drawn(self, key: Tensor, tokens: Tokens) -> Tensor:
        """(R, N) below 1 in the squares of a row, above elsewhere."""
        grid = tokens.grid
        if self.side == 1:  # any tokens, also off the grid
            return keyed.uniform(key, tokens.shape[1])
        if grid is None:
            raise RecipeError("squares that stay visible need tokens on a grid; use P(Random)")
        n, axes = math.prod(grid), len(grid)
        count = max(1, int(n * (1.0 - self.ratio + self.more) / self.side**axes))
        place = grid_index(grid, key.device)  # N P
        u = keyed.uniform(key, count * axes, salt=1).unflatten(1, (count, 1, axes))
        first = (u * torch.tensor(grid, device=key.device)).floor() - self.side // 2  # R L 1 P; edges cut squares
        inside = ((place >= first) & (place < first + self.side)).all(-1).any(1)  # R N
        return keyed.uniform(key, n) + (~inside).float()


class Remask(Scored):
    """Observed cells are hidden at random, missing ones always; hidden and shown ones are asked for, and each of the
    two groups has a mean loss of its own (ReMasker, arXiv:2309.13793, section 3.2).

    Args:
        ratio: share of the cells of a row that is hidden, missing ones counted first; 0 = none but these.
        observed: the share is of the observed cells instead, so that rows with gaps show fewer of them.
    """

    def __init__(self, model: Model, *, ratio: float = 0.5, observed: bool = False):
        super().__init__(model, ratio=ratio or 0.5, ask=None)
        self.ratio, self.observed = float(ratio), observed

    def visible(self, tokens: Tokens) -> float | int:
        share = 1.0 - self.ratio
        return share if self.observed or not self.ratio else max(1, int(tokens.shape[1] * share + 1e-4))

    def score(self, step: Step, model: Model) -> Tensor:
        return keyed.uniform(step.sample["key"], step.tokens.shape[1])

    def forward(self, step: Step, model: Model) -> Mask:
        mask = super().forward(step, model)
        shown = mask.visible.float()
        there = torch.ones_like(shown) if step.tokens.valid is None else step.tokens.valid.float()
        hidden = there - shown
        # The loss is a mean over all scored cells: these weights make it the sum of two means.
        weight = there.sum() * (shown / shown.sum().clamp(min=1) + hidden / hidden.sum().clamp(min=1))
        return mask._replace(weight=weight)
