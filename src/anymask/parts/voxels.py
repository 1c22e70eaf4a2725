"""Lidar sweeps as occupied voxels: tokens, masks and targets. There is no dense grid anywhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask import keyed
from anymask.engine import Head, Mask, Model, Part, Sample, Step, Tokens, split, take
from anymask.parts.losses import chamfer
from anymask.parts.masks import Scored
from anymask.parts.points import Packing
from anymask.recipe import RecipeError

OCCUPIED, EMPTY = 0, 1  # kinds of token
ROUND = 32  # numbers of tokens are rounded up to a multiple, so that few shapes occur


class Occupied(NamedTuple):
    """The V occupied voxels of a batch of sweeps, those of each sample in order of their cells."""

    cell: Tensor  # (V, A) int64 index along each axis
    sample: Tensor  # (V,)
    number: Tensor  # (V,) of points
    point: Tensor  # (T,) which point, of B * P, each of the T real ones is
    voxel: Tensor  # (T,) in which voxel it lies
    place: Tensor  # (T,) its number within the voxel


def voxelise(points: Tensor, size: Tensor) -> Occupied:
    """The occupied voxels of sweeps (B, P, 3 or more), rows of NaN being no points; `size` (A,) is the side of a voxel
    along the first A axes, in the units of the points. Sorts the points once: time and memory grow with their number,
    not with the space."""
    p = points.shape[1]
    flat = points.flatten(0, 1)
    (point,) = (~flat.isnan().any(1)).nonzero(as_tuple=True)  # T
    cell = (flat[point, : len(size)].double() / size.double()).floor().long()  # T A
    sample = point // p
    key = sample
    low = cell.amin(0) if len(cell) else cell.new_zeros(len(size))
    span = cell.amax(0) - low + 1 if len(cell) else torch.ones_like(low)
    for axis in range(len(size)):
        key = key * span[axis] + cell[:, axis] - low[axis]
    order = key.argsort(stable=True)
    key, point = key[order], point[order]
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    (start,) = first.nonzero(as_tuple=True)  # V
    voxel = first.long().cumsum(0) - 1
    count = torch.diff(start, append=start.new_tensor([len(key)]))
    place = torch.arange(len(key), device=key.device) - start[voxel]
    return Occupied(cell[order][start], point[start] // p, count, point, voxel, place)


class Voxels(Part):
    """Sweeps to their occupied voxels, or pillars, which are voxels of any height (Voxel-MAE, arXiv:2207.00531,
    section 3.1).

    (B, P, C) in metres, rows of NaN being no points -> stream `lidar` (B, N, D), as many tokens as the fullest sample
    has voxels. Content is packed, see `points.Packing`: K points of a voxel, evenly drawn from all in it, their
    coordinates beside the voxel's centre in units of its side (the height of pillars beside the mean height), further
    channels standardised; and how many points there are. `pos` is the centre in metres.

    In training, empty voxels stand behind the occupied ones, as tokens of another kind: cells drawn at random from the
    box around a sample's occupied voxels. They are never shown to the encoder.

    Args:
        voxel: metres a side. height: of a voxel; None = pillars.
        points: K.
        empty: empty voxels for each occupied one.
        field: of the schema.
    """

    takes = "lidar"
    renderer = "anymask.reports.clouds:BirdsEye"
    shares = "the box that empty voxels are drawn from is that of all voxels, and positions say which are occupied"
    grid = None
    kinds = 2

    def __init__(
        self,
        model: Model,
        *,
        voxel: float = 0.5,
        height: float | None = None,
        points: int = 16,
        empty: float = 0.1,
        field: str = "lidar",
    ):
        super().__init__(model)
        if voxel <= 0 or (height is not None and height <= 0) or points < 1 or empty < 0:
            raise RecipeError(
                "a voxel has a side in metres and at least one point, as --set tokenizer.voxel=0.5 tokenizer.points=16"
            )
        sweep = model.schema.fields[field]
        self.channels, self.empty = sweep.shape[1], empty
        self.pitch = (voxel, voxel) if height is None else (voxel, voxel, height)
        self.packing = Packing(points, self.channels, axes=len(self.pitch), counted=True)
        self.field, self.streams = field, {field: self.packing.width}
        mean, std = (torch.tensor(values, dtype=torch.float32) for values in (sweep.mean, sweep.std))
        self.register_buffer("size", torch.tensor(self.pitch), persistent=False)
        self.register_buffer("mean", torch.cat([torch.zeros(3), mean[3:]]), persistent=False)
        self.register_buffer("std", torch.cat([torch.full((3,), voxel), std[3:]]), persistent=False)
        self.level = float(mean[2])

    size: Tensor
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def forward(self, sample: Sample) -> Tokens:
        sweep = sample[self.field].float()
        found = voxelise(sweep, self.size)
        b, v = len(sweep), len(found.number)
        each = torch.bincount(found.sample, minlength=b)  # B
        n = max(1, -(-int(each.max()) // ROUND)) * ROUND
        token = torch.arange(v, device=sweep.device) - (each.cumsum(0) - each)[found.sample]
        at = found.sample * n + token  # V
        put = lambda values: values.new_zeros(b * n, values.shape[1]).index_copy(0, at, values).unflatten(0, (b, n))
        pos, x = put((found.cell + 0.5) * self.size), put(self._content(sweep, found))
        valid = torch.arange(n, device=sweep.device) < each[:, None]
        kind = torch.full((b, n), OCCUPIED, device=sweep.device)
        tokens = Tokens({self.field: x}, pos, valid, kind)
        return self.with_empty(tokens, found, each, sample["key"]) if self.training and self.empty else tokens

    def _content(self, sweep: Tensor, found: Occupied) -> Tensor:
        """(V, D) packed."""
        k, count = self.packing.points, found.number[found.voxel]
        # Of a fuller voxel the points at which place * K / n reaches a further whole number.
        slot = torch.where(count > k, found.place * k // count.clamp(min=1), found.place)
        kept = (found.place == 0) | (slot != torch.where(count > k, (found.place - 1) * k // count.clamp(min=1), -1))
        points = sweep.flatten(0, 1)[found.point[kept]]  # S C
        centre = self._centres(found.cell)[found.voxel[kept]]
        points = (torch.cat([points[:, :3] - centre, points[:, 3:]], 1) - self.mean) / self.std
        out = sweep.new_zeros(len(found.number) * k, self.channels)
        out[found.voxel[kept] * k + slot[kept]] = points
        number = torch.log1p(found.number.float())[:, None]
        return torch.cat([out.view(-1, k * self.channels), (found.cell + 0.5) * self.size, number], 1)

    def _centres(self, cell: Tensor) -> Tensor:
        """(V, 3) in metres; of pillars at the mean height."""
        centre = (cell + 0.5) * self.size
        return centre if len(self.size) == 3 else F.pad(centre, (0, 1), value=self.level)

    def with_empty(self, tokens: Tokens, found: Occupied, each: Tensor, key: Tensor) -> Tokens:
        """The tokens with empty voxels behind them, a share of `each` sample's number (B,) of occupied ones."""
        b, axes, device = len(each), len(self.size), tokens.pos.device
        wanted = (each * self.empty).ceil().long()
        most = max(1, -(-int(wanted.max()) // 8)) * 8
        drawn = 4 * most
        index = found.sample[:, None].expand(-1, axes)
        low = torch.zeros(b, axes, dtype=torch.long, device=device).scatter_reduce(
            0, index, found.cell, "amin", include_self=False
        )
        high = torch.zeros_like(low).scatter_reduce(0, index, found.cell, "amax", include_self=False)
        u = keyed.uniform(key, drawn * axes, salt=31).unflatten(1, (drawn, axes))
        cell = low[:, None] + (u * (high - low + 1)[:, None]).long()  # B T A
        # A cell is a number, unique over the batch.
        span = (high - low + 1).amax(0)
        row = torch.arange(b, device=device)
        name = lambda sample, cell: _number(sample, cell - low[sample], span)
        there = name(found.sample, found.cell)
        mine = name(row[:, None].expand(b, drawn), cell)
        free = ~torch.isin(mine, there)
        # Of cells drawn twice the first one counts.
        sorted_, order = mine.sort(dim=1, stable=True)
        again = torch.zeros_like(free).scatter(1, order[:, 1:], sorted_[:, 1:] == sorted_[:, :-1])
        free &= ~again
        rank = (~free).long().argsort(dim=1, stable=True)[:, :most]  # free ones first, in the order they were drawn
        cell = cell.gather(1, rank[..., None].expand(-1, -1, axes))
        ok = free.gather(1, rank) & (torch.arange(most, device=device) < wanted[:, None])
        x = tokens.x[self.field]
        assert tokens.valid is not None and tokens.kind is not None
        pos = (cell + 0.5) * self.size
        nothing = x.new_zeros(b, most, x.shape[2] - axes - 1)
        nothing = torch.cat([nothing, pos, nothing[..., :1]], 2)
        return Tokens(
            {self.field: torch.cat([x, nothing], 1)},
            torch.cat([tokens.pos, pos], 1),
            torch.cat([tokens.valid, ok], 1),
            torch.cat([tokens.kind, torch.full_like(ok, EMPTY, dtype=torch.long)], 1),
        )

    def raw(self, x: Tensor) -> Tensor:
        """Content (..., D) as points (..., K, 3) in metres, NaN where there is none."""
        centre = self.packing.centre(x)
        centre = centre if len(self.size) == 3 else F.pad(centre, (0, 1), value=self.level)
        return self.packing.coordinates(x).unflatten(-1, (-1, 3)) * self.std[:3] + centre[..., None, :]


def _number(sample: Tensor, cell: Tensor, span: Tensor) -> Tensor:
    name = sample
    for axis in range(cell.shape[-1]):
        name = name * span[axis] + cell[..., axis]
    return name


class Hidden(Scored):
    """Occupied voxels hidden at random, and all empty ones (Voxel-MAE, section 3.2).

    Args:
        ratio: share of a sample's occupied voxels that is hidden. ask: see `Scored`.
    """

    def forward(self, step: Step, model: Model) -> Mask:
        tokens = step.tokens
        assert tokens.kinds is not None
        empty = tokens.kinds == EMPTY
        valid = torch.ones_like(empty) if tokens.valid is None else tokens.valid
        count = (valid & ~empty).sum(1)
        shown = (count * (1.0 - self.ratio) + 1e-4).long().clamp(min=1).minimum(count)
        score = keyed.uniform(step.sample["key"], tokens.shape[1]) + 2.0 * empty
        return split(score, shown, keep=model.corruption.keep, ask=self.ask, valid=valid)


class VoxelHeads(Part):
    """What is asked of a hidden voxel (Voxel-MAE, section 3.3): its points, as a set; log(1 + n) of how many there are;
    and, of empty voxels too, whether there are any.

    Args:
        occupancy: ask the last question.
    """

    def __init__(self, model: Model, *, occupancy: bool = True):
        super().__init__(model)
        self.packing: Packing = model.tokenizer.packing
        self.scale = model.tokenizer.pitch[0] ** 2
        only = (OCCUPIED,)
        self.heads = {"points": Head(3 * self.packing.points, kinds=only), "number": Head(1, kinds=only)}
        if occupancy:
            self.heads["occupied"] = Head(1)

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        (x,) = step.tokens.x.values()
        x = take(x, step.mask.ask, step.mask.ask_of).float()
        assert step.tokens.kinds is not None
        kind = take(step.tokens.kinds, step.mask.ask, step.mask.ask_of)
        goals = {"points": self.packing.coordinates(x), "number": x[..., -1:]}
        goals["occupied"] = (kind == OCCUPIED).float()[..., None]
        return {name: goals[name] for name in self.heads}

    def content(self, step: Step) -> Tensor:
        """Predicted voxels (Q, M, packing.width), with all of the points that are predicted."""
        return self.packing.pack(step.pred["points"].float(), take(step.tokens.pos, step.mask.ask, step.mask.ask_of))

    measure = "chamfer distance (square metres)"

    def distance(self, made: Tensor, truth: Tensor) -> Tensor:
        """(..., N) chamfer distance of packed voxels, squared, in square metres."""
        return self.scale * chamfer(self.packing.coordinates(made), self.packing.coordinates(truth))
