"""Point clouds as groups of neighbours: farthest points, nearest neighbours, tokens, embedding and target."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.engine import Head, Latent, Model, Part, Sample, Seen, Step, Tokens, take
from anymask.parts.decoders import Transformer, join
from anymask.parts.encoders import ViT
from anymask.parts.layers import LayerNorm, Linear
from anymask.parts.losses import chamfer, mean_of
from anymask.recipe import RecipeError


def farthest(xyz: Tensor, count: int, *, valid: Tensor, first: Tensor) -> Tensor:
    """(B, count) numbers of points, each the farthest from those before it (Eldar et al. 1997, IEEE Trans. Image
    Processing 6; as PointNet++, arXiv:1706.02413, section 3.2); of several equally far ones the first.

    Args:
        xyz: (B, P, 3), finite. valid: (B, P) points that may be taken. first: (B,) the point to begin with. When all
            points are taken, some are taken again.
    """
    b = xyz.shape[0]
    x, y, z = xyz.unbind(2)
    gap = torch.where(valid, torch.inf, -1.0).to(xyz.dtype)  # squared distance to the nearest taken point
    row, at, taken = torch.arange(b, device=xyz.device), first, [first]
    for _ in range(count - 1):
        px, py, pz = (v[row, at, None] for v in (x, y, z))
        new = (x - px).square_().add_((y - py).square_()).add_((z - pz).square_())
        gap = torch.minimum(gap, new)
        at = gap.argmax(1)
        taken.append(at)
    return torch.stack(taken, 1)


def nearest(centre: Tensor, xyz: Tensor, count: int, *, valid: Tensor) -> Tensor:
    """(B, G, count) numbers of the nearest points of each centre (B, G, 3), the nearest first; where a cloud has fewer
    valid points, its nearest one again."""
    with torch.autocast(xyz.device.type, enabled=False):  # half precision would take others for the nearest
        # Of |c - x|^2 the part that is the same for all points is left out.
        gap = torch.baddbmm(xyz.square().sum(2)[:, None], centre, xyz.transpose(1, 2), alpha=-2)  # B G P
    gap = gap.masked_fill(~valid[:, None], torch.inf)
    value, index = gap.topk(count, dim=2, largest=False, sorted=True)
    return torch.where(value.isinf(), index[..., :1], index)


class Packing(NamedTuple):
    """How the points of a token lie in its content: `points` times `channels` numbers, the coordinates beside the
    centre first in each; then the `axes` coordinates of the centre, for whoever draws it (no part of a model reads
    them); then, where `counted`, log(1 + n) of how many points there are, of which at most `points` are given."""

    points: int
    channels: int
    axes: int = 3
    counted: bool = False

    @property
    def width(self) -> int:
        return self.points * self.channels + self.axes + self.counted

    def unpack(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Content (..., width) as points (..., K, C), and which of them are real (..., K), at least the first one; None
        = all."""
        points = x[..., : self.points * self.channels].unflatten(-1, (self.points, self.channels))
        if not self.counted:
            return points, None
        count = torch.expm1(x[..., -1:]).round().clamp(min=1)
        return points, torch.arange(self.points, device=x.device) < count

    def coordinates(self, x: Tensor) -> Tensor:
        """Content (..., width) as coordinates (..., K * 3), NaN where there is no point."""
        points, real = self.unpack(x)
        xyz = points[..., :3]
        return (xyz if real is None else torch.where(real[..., None], xyz, torch.nan)).flatten(-2)

    def centre(self, x: Tensor) -> Tensor:
        """Content (..., width) as the coordinates of the centre (..., axes)."""
        return x[..., self.points * self.channels :][..., : self.axes]

    def pack(self, xyz: Tensor, centre: Tensor) -> Tensor:
        """Coordinates (..., K * 3), all of them points, beside a centre (..., axes), as content; further channels are
        0."""
        points = F.pad(xyz.unflatten(-1, (-1, 3)), (0, self.channels - 3)).flatten(-2)
        x = torch.cat([points, centre.to(points.dtype).expand(*points.shape[:-1], -1)], -1)
        return F.pad(x, (0, 1), value=math.log1p(self.points)) if self.counted else x


class Groups(Part):
    """Clouds to groups of neighbouring points (Point-MAE, arXiv:2203.06604, section 3.1).

    (B, P, C), rows of NaN being no points -> stream `points` (B, G, D), packed as `Packing` says: each group's points
    minus its centre, the nearest first, in units of `reach`; further channels standardised. `pos` is the centre. Groups
    beyond the points of a small cloud are not valid. Centres are farthest points, from a random one on in training,
    else from the one farthest from the middle.

    Args:
        groups: G; None = one for every 16 points, 64 at most (the paper's 64 of 1,024).
        neighbours: K; None = 32, or less where the groups would be larger than half of a cloud.
        field: of the schema.
    """

    takes = "points"
    renderer = "anymask.reports.clouds:Clouds"
    shares = "neighbourhoods overlap, and centres, which are positions, are points themselves"
    kinds = 1

    def __init__(
        self, model: Model, *, groups: int | None = None, neighbours: int | None = None, field: str = "points"
    ):
        super().__init__(model)
        cloud = model.schema.fields[field]
        count, self.channels = cloud.shape
        self.centres = max(4, min(64, count // 16)) if groups is None else groups
        self.neighbours = max(2, min(32, count // 2)) if neighbours is None else neighbours
        if not 2 <= self.centres <= count or not 1 <= self.neighbours <= count:
            raise RecipeError(
                f"{self.centres} groups of {self.neighbours} points do not fit clouds of {count}; give at most as many "
                "(--set tokenizer.groups=..., tokenizer.neighbours=...)"
            )
        self.packing = Packing(self.neighbours, self.channels)
        self.field, self.streams = field, {field: self.packing.width}
        self.grid, self.pitch = None, (1.0, 1.0, 1.0)
        # On a surface of the size of the unit sphere, K of P points lie within about twice this distance.
        self.reach = math.sqrt(self.neighbours / count)
        mean = torch.tensor(cloud.mean, dtype=torch.float32)
        mean[:3] = 0
        std = torch.tensor(cloud.std, dtype=torch.float32)
        std[:3] = self.reach
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def places(self, xyz: Tensor, real: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the centres (B, G) and of their neighbours (B, G, K)."""
        if self.training:
            order = keyed.uniform(key, xyz.shape[1], salt=21).masked_fill(~real, -1)
        else:
            middle = (xyz * real[..., None]).sum(1, keepdim=True) / real.sum(1)[:, None, None].clamp(min=1)
            order = (xyz - middle).square().sum(2).masked_fill(~real, -1)
        centres = farthest(xyz, self.centres, valid=real, first=order.argmax(1))
        return centres, nearest(take(xyz, centres), xyz, self.neighbours, valid=real)

    def forward(self, sample: Sample) -> Tokens:
        cloud = sample[self.field].float()
        real = ~cloud.isnan().any(2)  # B P
        cloud = torch.where(real[..., None], cloud, 0.0)
        centres, members = self.places(cloud[..., :3], real, sample["key"])
        pos = take(cloud[..., :3], centres)  # B G 3
        x = take(cloud, members.flatten(1)).unflatten(1, members.shape[1:])  # B G K C
        x = torch.cat([x[..., :3] - pos[:, :, None], x[..., 3:]], -1)
        x = (x - self.mean) / self.std
        count = real.sum(1, keepdim=True)
        valid = torch.arange(self.centres, device=x.device) < count
        x = torch.cat([x.flatten(2), pos], 2)
        x = torch.where(valid[..., None], x, 0.0)
        return Tokens({self.field: x}, pos, None if bool(valid.all()) else valid)

    def raw(self, x: Tensor) -> Tensor:
        """Content (..., D) as points (..., K, 3) in the units of the cloud."""
        return self.packing.unpack(x)[0][..., :3] * self.reach + self.packing.centre(x)[..., None, :]


class PointNet(Part):
    """A small PointNet embeds each group: two layers for each point, the maximum over the group put beside them, two
    further layers, the maximum again (Point-MAE, section 3.1; as Point-BERT, arXiv:2111.14819).

    Layer normalisation stands for the batch normalisation of the authors' code, so that a token's embedding depends on
    no other one. The hidden layers keep their proportion to the width (128, 256 and 512 of 384).

    Args:
        positions: add those of the tokens; the recipe's encoder may do so itself.
    """

    def __init__(self, model: Model, *, positions: bool = False):
        super().__init__(model)
        width = model.size.width
        first, second, third = (max(8, round(width * share / 3)) for share in (1, 2, 4))
        self.packing: Packing = model.tokenizer.packing
        self.first = nn.Sequential(
            Linear(self.packing.channels, first), LayerNorm(first), nn.ReLU(), Linear(first, second)
        )
        # A layer on [maximum, point], whose part for the maximum is computed once a group.
        self.whole, self.each = Linear(second, third), Linear(second, third, bias=False)
        self.second = nn.Sequential(LayerNorm(third), nn.ReLU(), Linear(third, width))
        self.count = Linear(1, width, bias=False) if self.packing.counted else None
        self.positions = model.positions(width) if positions else None

    def forward(self, step: Step, content: dict[str, Tensor] | None = None, fill: Tensor | None = None) -> Seen:
        """Arguments as of `stems.Embed`."""
        tokens, mask = step.tokens, step.mask
        (x,) = (tokens.x if content is None else content).values()
        x = self.embed(take(x, mask.keep, mask.keep_of))  # R K D
        if fill is not None:
            visible = mask.visible if mask.keep is None else mask.visible.gather(1, mask.keep)
            x = torch.where(visible[..., None], x, fill.to(x.dtype))
        if self.positions is not None:
            x = x + take(self.positions(tokens), mask.keep, mask.keep_of).to(x.dtype)
        kind = None if tokens.kinds is None else take(tokens.kinds, mask.keep, mask.keep_of)
        return Seen(x, take(tokens.pos, mask.keep, mask.keep_of), mask.keep_ok, kind, content)

    def embed(self, x: Tensor) -> Tensor:
        """Packed groups (..., packing.width) -> (..., D)."""
        points, real = self.packing.unpack(x)  # ... K C
        gone = None if real is None else ~real[..., None]
        local = self.first(points)
        local = self.whole(_most(local, gone))[..., None, :] + self.each(local)
        code = _most(self.second(local), gone)
        return code if self.count is None else code + self.count(x[..., -1:])


def _most(x: Tensor, gone: Tensor | None) -> Tensor:
    """Maximum over the points of a group (..., K, D), those that are `gone` left out."""
    return (x if gone is None else x.masked_fill(gone, -torch.inf)).amax(-2)


class Centres(nn.Module):
    """Two layers from the coordinates of a token's centre to the width (Point-MAE, section 3.2)."""

    def __init__(self, model: Model, *, width: int, hidden: int = 128):
        super().__init__()
        self.layers = nn.Sequential(Linear(len(model.tokenizer.pitch), hidden), nn.GELU(), Linear(hidden, width))
        self.register_buffer("pitch", torch.tensor(model.tokenizer.pitch), persistent=False)

    pitch: Tensor

    def forward(self, tokens: Tokens) -> Tensor:
        return self.layers(tokens.pos / self.pitch)


class Positioned(ViT):
    """A `ViT` that adds the positions of its tokens before every block (Point-MAE, section 3.2). The stem then adds
    none.

    Args:
        depth, heads, drop_path: see `ViT`.
    """

    def __init__(
        self, model: Model, *, depth: int | None = None, heads: int | None = None, drop_path: float = 0.0
    ):
        super().__init__(model, depth=depth, heads=heads, drop_path=drop_path, cls=False)
        self.positions = model.positions(self.width)

    def encode(self, seen: Seen) -> Latent:
        x = seen.x
        place = self.positions(Tokens({}, seen.pos)).to(x.dtype)  # R|1 K D
        for block in self.blocks:
            x = block(x + place, seen.ok)
        return Latent(self.norm(x), seen.pos, seen.ok, seen.kind)

    def groups(self) -> dict[str, dict[str, float]]:
        return {}


class PositionedDecoder(Transformer):
    """A `Transformer` decoder that adds positions before every block (Point-MAE, section 3.2)."""

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return self.heads(self.features(step))

    def features(self, step: Step) -> Tensor:
        """(Q, M, W) of the asked tokens: what the heads read."""
        latent, mask = step.latent, step.mask
        everywhere = self.positions(step.tokens)  # B|1 N W
        x, ok = self.embed(latent.x), latent.ok  # R K W
        place = take(everywhere, mask.keep, mask.keep_of).to(x.dtype).expand_as(x)
        if mask.via is not None:
            x, place, ok = x[mask.via], place[mask.via], None if ok is None else ok[mask.via]
        if mask.keep is None:
            for block in self.blocks:
                x = block(x + place, ok)
            return self.norm(take(x, mask.ask))
        there = take(everywhere, mask.ask, mask.ask_of).to(x.dtype)
        there = there.expand(x.shape[0], -1, -1)  # Q M W
        ok = join(ok, mask.ask_ok, x, there)
        x = torch.cat([x, self.token.to(x.dtype).expand_as(there)], 1)
        place = torch.cat([place, there], 1)
        last = slice(x.shape[1] - there.shape[1], None)
        for block in self.blocks[:-1]:
            x = block(x + place, ok)
        return self.norm(self.blocks[-1](x + place, ok, queries=last))


class Agreeing(PositionedDecoder):
    """A decoder of two masks of each sample, whose features of tokens that both hide are drawn together: one less their
    cosine, a loss that is added as `agreement` (Point-CMAE, arXiv:2407.05862, section 3.3).

    Args:
        width, depth, heads: see `Transformer`.
        weight: of that loss; 0 = without.
    """

    def __init__(
        self,
        model: Model,
        *,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        weight: float = 1.0,
    ):
        super().__init__(model, width=width, depth=depth, heads=heads)
        if weight < 0:
            raise RecipeError(f"decoder.weight is the weight of the agreement, 0 or more, not {weight}")
        self.weight = weight

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        features = self.features(step)
        if self.weight:
            step.aux["agreement"] = self.weight * self.disagreement(features.float(), step)
        return self.heads(features)

    @staticmethod
    def disagreement(features: Tensor, step: Step) -> Tensor:
        """Mean over the tokens that both masks of a sample hide, of features (2 B, M, W)."""
        mask, valid = step.mask, step.tokens.valid
        rows, n = mask.visible.shape
        if mask.keep_of is None or mask.ask is None or rows != 2 * step.tokens.shape[0]:
            raise RecipeError("agreement is between two masks of each sample: use mask=P(Twice)")
        whole = features.new_zeros(rows, n, features.shape[-1])
        whole = whole.scatter(1, mask.ask[..., None].expand_as(features), features)
        both = ~mask.visible[::2] & ~mask.visible[1::2]
        both = both if valid is None else both & valid
        apart = 1 - torch.cosine_similarity(whole[::2], whole[1::2], dim=-1)
        return mean_of(apart, both)


class Coordinates(Part):
    """The points of the asked groups beside their centres, in the tokenizer's units: (Q, M, K * 3), a set in any order
    (Point-MAE, section 3.3)."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.packing: Packing = model.tokenizer.packing
        self.heads = {"points": Head(self.packing.points * 3)}
        self.scale = 1000 * model.tokenizer.reach**2

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        (x,) = step.tokens.x.values()
        return {"points": self.packing.coordinates(take(x, step.mask.ask, step.mask.ask_of).float())}

    def content(self, step: Step) -> Tensor:
        """Predicted groups (Q, M, packing.width); channels that are not predicted are 0."""
        return self.packing.pack(step.pred["points"].float(), take(step.tokens.pos, step.mask.ask, step.mask.ask_of))

    measure = "chamfer distance x 1000"

    def distance(self, made: Tensor, truth: Tensor) -> Tensor:
        """(..., N) chamfer distance of packed groups, squared and a thousandfold as papers give it, in the units of the
        clouds, which lie in the unit ball."""
        return self.scale * chamfer(self.packing.coordinates(made), self.packing.coordinates(truth))
