"""Tokenizers: raw fields of a sample to tokens. `streams` says how wide each stream is; `grid` how many tokens a
training sample has along each axis; `pitch` how far apart they are, in the units of `pos`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anymask.data.kind import kind_of
from anymask.data.kinds._categories import categories_of
from anymask.engine import Model, Part, Sample, Tokens
from anymask.recipe import RecipeError


class Patches(Part):
    """Values on a grid (pixels of images, videos and volumes, frames of spectrograms, moments of series) to patches.

    (B, C, *space) in raw units -> stream (B, N, values * C), standardised with the mean and spread of each channel that
    the schema holds; within a patch the last axis of space is fastest, and after it come the channels. `pos` is the
    centre of a patch, in values along each axis. With `extent` (B, axes) in the sample, patches that start outside it
    are not valid. Of kinds of data with gaps, neither are patches of NaN only; single NaN in others become the kind's
    blank.

    Args:
        patch: values along each axis, one number for all or one for each; None = the default of the kind of data.
        kind: of data; None = of any kind that lies on a grid, and images in the contract.
        field: of the schema; None = the first one of that kind.
    """

    takes = "image"

    @staticmethod
    def serves(kind: str, arguments: Mapping[str, Any]) -> bool:
        """Whether it takes fields of a kind, with such arguments."""
        asked = arguments.get("kind")
        return kind_of(kind).on_grid if asked is None else kind == asked

    def __init__(
        self,
        model: Model,
        *,
        patch: int | Sequence[int] | None = None,
        kind: str | None = None,
        field: str | None = None,
    ):
        super().__init__(model)
        fields = model.schema.fields
        self.field = field or next(name for name, f in fields.items() if self.serves(f.kind, {"kind": kind}))
        about = fields[self.field]
        self.channels, space = about.shape[0], about.shape[1:]
        self.sides = self._sides(patch, space) if patch is not None else kind_of(about.kind).patch(about)
        if any(n < side for n, side in zip(space, self.sides)) or all(n < 2 * p for n, p in zip(space, self.sides)):
            raise RecipeError(
                f"{about.kind}s of {_by(space)} are too small for patches of {_by(self.sides)} "
                "(--set tokenizer.patch=...)"
            )
        self.streams = {self.field: math.prod(self.sides) * self.channels}
        self.grid = tuple(n // side for n, side in zip(space, self.sides))
        self.pitch = tuple(float(side) for side in self.sides)
        self.renderer = kind_of(about.kind).renderer
        shape = (-1, *[1] * len(space))
        for name, values in (("mean", about.mean), ("std", about.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(shape), persistent=False)
        blank = torch.zeros(0)
        if kind_of(about.kind).gaps:
            mean, std = torch.tensor(about.mean), torch.tensor(about.std)
            blank = (torch.tensor(kind_of(about.kind).blank(about)) - mean) / std
        self.register_buffer("blank", blank.float().repeat(math.prod(self.sides)), persistent=False)

    mean: Tensor  # C *1
    std: Tensor
    blank: Tensor  # values * C, as a patch; nothing where there are no gaps

    @staticmethod
    def _sides(patch: int | Sequence[int], space: tuple[int, ...]) -> tuple[int, ...]:
        sides = (patch,) * len(space) if isinstance(patch, int) else tuple(patch)
        if len(sides) != len(space):
            raise RecipeError(
                f"patches of {_by(sides)} do not fit {_by(space)}: give a side for each of {len(space)} axes"
            )
        if any(side < 1 or n % side for n, side in zip(space, sides)):
            fits = [p for p in range(2, min(space) + 1) if not any(n % p for n in space)]
            raise RecipeError(
                f"patches of {_by(sides)} do not fit {_by(space)}; patches that fit: "
                f"{', '.join(map(str, fits[:8])) or 'none of equal sides'} (--set tokenizer.patch=...)"
            )
        return sides

    @property
    def patch(self) -> int:
        """The side of a patch whose sides are equal."""
        if len(set(self.sides)) > 1:
            raise RecipeError(f"patches of {_by(self.sides)} are not squares, which this needs")
        return self.sides[0]

    @property
    def crop(self) -> tuple[int, ...]:
        """Space of a training sample: whole patches."""
        return tuple(n * side for n, side in zip(self.grid, self.sides))

    def forward(self, sample: Sample) -> Tokens:
        values = sample[self.field]
        space = values.shape[2:]
        grid = tuple(n // side for n, side in zip(space, self.sides))
        if any(n % side for n, side in zip(space, self.sides)):
            raise ValueError(f"'{self.field}' of {_by(space)} is not whole patches of {_by(self.sides)}")
        # Standardised after they are cut: bytes are quicker to move than floats.
        mean, std = (each.flatten().repeat(math.prod(self.sides)) for each in (self.mean, self.std))
        x = (self.patches(values).float() - mean) / std
        corner = grid_index(grid, x.device) * x.new_tensor(self.sides)
        valid = None
        if "extent" in sample:
            valid = (corner < sample["extent"][:, None]).all(-1)  # B N
        if len(self.blank):
            missing = x.isnan()
            there = ~missing.all(-1)
            x = torch.where(missing, self.blank, x)
            if not there.all():
                valid = there if valid is None else there & valid
        return Tokens({self.field: x}, (corner + 0.5 * x.new_tensor(self.sides))[None], valid, grid=grid)

    def patches(self, values: Tensor) -> Tensor:
        """Values (B, C, *space), whole patches, to patches (B, N, values * C)."""
        axes = len(self.sides)
        for axis, side in enumerate(self.sides):
            values = values.unflatten(2 + 2 * axis, (-1, side))  # B C n p ...
        outer, inner = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        return values.permute(0, *outer, *inner, 1).flatten(1 + axes).flatten(1, axes)

    def whole(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Standardised patches (B, N, values * C) back to standardised values (B, C, *space)."""
        axes = len(self.sides)
        x = x.unflatten(1, grid).unflatten(1 + axes, (*self.sides, -1))  # B n.. p.. C
        pairs = [axis for i in range(axes) for axis in (1 + i, 1 + axes + i)]
        x = x.permute(0, 1 + 2 * axes, *pairs)  # B C n p n p ..
        for axis in range(axes):
            x = x.flatten(2 + axis, 3 + axis)
        return x

    def raw(self, values: Tensor) -> Tensor:
        """Standardised values (B, C, *space) back to the units of the data."""
        return values * self.std + self.mean


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))


class Cells(Part):
    """Rows of a table to one token a column.

    (B, F) with NaN for a missing cell -> stream `table` (B, F, 1), scaled by column, 0 where missing. `valid` is False
    where a cell is missing, and None where neither the schema nor the batch lacks any. `pos` is the number of the
    column. Where the table has categories, which are its last columns, they are an integer stream `categories` (B, F'),
    all columns numbered through, and of kind 1.

    Args:
        standardise: by mean and deviation; otherwise by range, to 0..1 (ReMasker, arXiv:2309.13793, section 4.1).
        field: of the schema.
    """

    takes = "table"
    renderer = "anymask.reports.tables:Rows"

    def __init__(self, model: Model, *, standardise: bool = True, field: str = "table"):
        super().__init__(model)
        table = model.schema.fields[field]
        sizes = [group.size for group in categories_of(table).values()]
        self.field, self.numbers = field, table.shape[0] - len(sizes)
        self.streams = {field: 1} if self.numbers else {}
        self.streams |= {"categories": -sum(sizes)} if sizes else {}
        self.kinds = len(self.streams)
        self.grid, self.pitch = table.shape, (1.0,)
        self.gaps = any(table.gaps)
        low, high = (torch.tensor(values[: self.numbers], dtype=torch.float64) for values in (table.lows, table.highs))
        shift, scale = low, torch.where(high > low, high - low, 1.0)
        if standardise:
            both = table.mean, table.std
            shift, scale = (torch.tensor(values[: self.numbers], dtype=torch.float64) for values in both)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        ends = torch.tensor([0, *sizes]).cumsum(0)
        self.register_buffer("first", ends[:-1], persistent=False)
        self.register_buffer("last", ends[1:] - 1, persistent=False)
        kind = (torch.arange(table.shape[0]) >= self.numbers).long() if self.kinds > 1 else None
        self.register_buffer("kind", kind, persistent=False)

    shift: Tensor  # of the numbers
    scale: Tensor
    first: Tensor  # number of the first category of each column, all columns numbered through
    last: Tensor
    kind: Tensor | None

    def forward(self, sample: Sample) -> Tokens:
        table = sample[self.field]
        valid = ~table.isnan()
        streams = {}
        if self.numbers:
            # Doubles, as columns such as years and times are large beside their spread.
            x = torch.where(valid, table, 0.0)[:, : self.numbers].double()
            x = torch.where(valid[:, : self.numbers], (x - self.shift) / self.scale, 0.0).float()
            streams[self.field] = x[..., None]
        if "categories" in self.streams:
            place = table[:, self.numbers :].nan_to_num().round().long() + self.first
            streams["categories"] = place.maximum(self.first).minimum(self.last)
        pos = grid_index(self.grid, table.device) + 0.5
        some = self.gaps or not valid.all()
        return Tokens(streams, pos[None], valid if some else None, kind=self.kind, grid=self.grid)

    def together(self, tokens: Tokens) -> Tensor:
        """All streams as one, (B, F, 1): scaled numbers, and categories by their place in their own column."""
        parts = [tokens.x[self.field]] if self.numbers else []
        if "categories" in self.streams:
            parts.append((tokens.x["categories"] - self.first).float()[..., None])
        return torch.cat(parts, 1)

    def raw(self, x: Tensor) -> Tensor:
        """Cells as `together` has them (B, F, 1) back to the units of the data, (B, F) float64."""
        x = x[..., 0].double()
        return torch.cat([x[:, : self.numbers] * self.scale + self.shift, x[:, self.numbers :]], 1)


class Pieces(Part):
    """Texts and other sequences that are spelled (proteins, molecules) to one token for each piece of their vocabulary.

    (B, N) numbers of pieces, -1 behind the end of a text -> integer stream (B, N). `pos` is the place in the text.
    There is no grid, as texts vary in length. Special tokens at the start and the end are not part of a text: an
    encoder has a CLS token of its own.

    Args:
        kind: of data; None = of any kind that is spelled, and texts in the contract.
        field: of the schema; None = the first one of that kind.
    """

    takes = "text"

    @staticmethod
    def serves(kind: str, arguments: Mapping[str, Any]) -> bool:
        """Whether it takes fields of a kind, with such arguments."""
        asked = arguments.get("kind")
        return kind_of(kind).spelled if asked is None else kind == asked

    def __init__(self, model: Model, *, kind: str | None = None, field: str | None = None):
        super().__init__(model)
        fields = model.schema.fields
        self.field = field or next(name for name, f in fields.items() if self.serves(f.kind, {"kind": kind}))
        about = fields[self.field]
        self.grid, self.pitch, self.renderer = None, (1.0,), kind_of(about.kind).renderer
        self.longest, self.mask_id = about.shape[0], int(about.more["mask"])
        self.counts = {self.field: about.more["counts"]}  # of each piece in the training data
        self.streams = {self.field: -len(about.more["counts"])}

    def forward(self, sample: Sample) -> Tokens:
        text = sample[self.field].long()
        pos = torch.arange(text.shape[1], device=text.device, dtype=torch.float32) + 0.5
        return Tokens({self.field: text.clamp(min=0)}, pos[None, :, None], text >= 0)


def halving_sides(tokenizer: Any) -> tuple[int, ...]:
    """The sides of a tokenizer's patches, for hierarchies whose scales halve them.

    Raises:
        RecipeError: they are no squares with a power of two for a side.
    """
    sides: tuple[int, ...] = getattr(tokenizer, "sides", ())
    if len(sides) != 2 or sides[0] != sides[1] or sides[0] & (sides[0] - 1):
        raise RecipeError(
            f"scales that halve need square patches of images with sides of 2, 4, 8, 16 or 32, not {tuple(sides)} "
            "(--set tokenizer.patch=...)"
        )
    return sides


def grid_index(grid: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """(N, P) float index of each cell of a grid along each axis, last axis fastest."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(math.prod(grid), len(grid))
