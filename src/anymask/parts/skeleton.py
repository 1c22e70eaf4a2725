"""Parts of skeleton sequences: joints over segments of time, masks that follow motion, motion as a target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anymask import keyed
from anymask.data.kinds._skeletons import centred, dimensions, sizes
from anymask.engine import Head, Model, Part, Sample, Step, Tokens, take
from anymask.parts.masks import Scored
from anymask.parts.targets import spreads
from anymask.parts.tokenizers import grid_index
from anymask.recipe import RecipeError


class JointSegments(Part):
    """Sequences to one token for each joint and segment of time (MAMP, arXiv:2308.07092, section 3.1).

    (B, C, J, T) with NaN for a missing joint -> stream `skeleton` (B, J * S, segment * D), the segments of a joint one
    after another, a segment's coordinates frame by frame; missing ones stay NaN, and are 0 to the encoder. `pos` is
    (joint, frame) of a token's middle; `valid` is False where a joint is missing in a whole segment. The confidence of
    joints is no content.

    Args:
        segment: frames.
        centre: take away where the root joint is in the first frame.
        scale: in units of the body's own size (see `_skeletons.sizes`); otherwise of the mean one of the data.
        least: joints of a lower confidence count as missing; None = all count.
        field: of the schema.
    """

    takes = "skeleton"
    renderer = "anymask.reports.skeletons:Figures"
    missing = True

    def __init__(
        self,
        model: Model,
        *,
        segment: int = 4,
        centre: bool = True,
        scale: bool = True,
        least: float | None = None,
        field: str = "skeleton",
    ):
        super().__init__(model)
        about = model.schema.fields[field]
        channels, joints, frames = about.shape
        if segment < 1 or frames < 2 * segment:
            raise RecipeError(
                f"sequences of {frames} frames do not make two segments of {segment}; segments of at most "
                f"{frames // 2} do (--set tokenizer.segment=...)"
            )
        self.field, self.segment, self.sides = field, segment, (1, segment)
        self.space, self.joints = dimensions(channels), joints
        if least is not None and channels == self.space:
            raise RecipeError("these sequences have no confidence, so tokenizer.least has nothing to compare with")
        self.root, self.size, self.gaps = about.more["root"], about.more["size"], about.more["gaps"] > 0
        self.edges: list[list[int]] = about.more["edges"]
        self.centre, self.scale, self.least = centre, scale, least
        self.streams = {field: segment * self.space}
        self.grid, self.pitch = (joints, -(-frames // segment)), (1.0, float(segment))
        if centre or scale:
            self.shares = "place and size of a body are those of its whole sequence, hidden tokens too"

    shares: str

    def scaled(self, values: Tensor) -> Tensor:
        """Values (B, C, J, T) as coordinates (B, D, J, T) that the model works in."""
        x = values[:, : self.space].float()
        if self.least is not None:
            x = torch.where((values[:, self.space] < self.least)[:, None], torch.nan, x)
        x = centred(x, self.root) if self.centre else x
        return x / (sizes(x) if self.scale else self.size)

    def forward(self, sample: Sample) -> Tokens:
        x = self.scaled(sample[self.field])
        x = F.pad(x, (0, -x.shape[3] % self.segment), value=torch.nan)
        grid = (x.shape[2], x.shape[3] // self.segment)
        x = x.permute(0, 2, 3, 1).unflatten(2, (-1, self.segment)).flatten(3).flatten(1, 2)  # B J*S segment*D
        valid = ~x.isnan().all(-1)
        pos = (grid_index(grid, x.device) + x.new_tensor([0.5, 0.5])) * x.new_tensor(self.pitch)
        some = self.gaps or not valid.all()
        return Tokens({self.field: x}, pos[None], valid if some else None, grid=grid)

    def tracks(self, x: Tensor) -> Tensor:
        """Tokens (B, J * S, segment * D) as coordinates (B, J, T, D)."""
        return tracks(x, (self.joints, x.shape[1] // self.joints), self.space)


def tracks(x: Tensor, grid: tuple[int, ...], space: int) -> Tensor:
    """Tokens (B, J * S, segment * D) on a grid (J, S) as coordinates (B, J, T, D)."""
    return x.unflatten(1, grid).unflatten(3, (-1, space)).flatten(2, 3)


class ByAxis(nn.Module):
    """One learned vector for each place along each axis, added up: joints and times (MAMP, section 3.1)."""

    def __init__(self, model: Model, *, width: int):
        super().__init__()
        self.pitch = model.tokenizer.pitch
        self.tables = nn.ParameterList(
            nn.init.trunc_normal_(torch.empty(n, width), std=0.02) for n in model.tokenizer.grid
        )

    def forward(self, tokens: Tokens) -> Tensor:
        place = (tokens.pos / tokens.pos.new_tensor(self.pitch) - 0.5).round().long()  # B|1 N P
        found = [F.embedding(place[..., axis], table) for axis, table in enumerate(self.tables)]
        return torch.stack(found).sum(0)


class MotionAware(Scored):
    """Tokens whose joint moves are hidden rather than others: drawn without repetition by a softmax over how far a
    segment is from the one before, relative to the sequence's largest motion (MAMP, section 3.3; as its code).

    Args:
        ratio, ask: see `Scored`.
        tau: temperature; the larger, the more evenly tokens are drawn. None = evenly.
    """

    def __init__(self, model: Model, *, ratio: float = 0.9, tau: float | None = 0.8, ask: float | None = 1.0):
        super().__init__(model, ratio=ratio, ask=ask)
        if tau is not None and tau <= 0:
            raise RecipeError(f"mask.tau is a temperature above 0, or null for even draws, not {tau}")
        self.tau = tau

    def visible(self, tokens: Tokens) -> float | int | Tensor:
        if tokens.valid is None:
            return max(1, int(tokens.shape[1] * (1.0 - self.ratio) + 1e-4))
        count = tokens.valid.sum(1)
        return (count * (1.0 - self.ratio) + 1e-4).long().clamp(min=1).minimum(count)

    def score(self, step: Step, model: Model) -> Tensor:
        u = keyed.uniform(step.sample["key"], step.tokens.shape[1]).clamp(1e-6, 1 - 1e-6)
        gumbel = -torch.log(-torch.log(u))
        if self.tau is None:
            return gumbel
        far = self.intensity(step.tokens)
        # Of log softmax the part that all tokens of a sequence share is left out.
        return gumbel + far / (self.tau * far.amax(1, keepdim=True) + 1e-10)

    def intensity(self, tokens: Tokens) -> Tensor:
        """(B, N) mean distance along each axis between a segment and the one before; 0 where one is missing."""
        if tokens.grid is None or len(tokens.grid) != 2:
            raise RecipeError("masks by motion need joints and segments of time on a grid; use P(Random)")
        (x,) = tokens.x.values()
        x = x.float().unflatten(1, tokens.grid)  # B J S D
        step = (x[:, :, 1:] - x[:, :, :-1]).abs().nanmean(-1)
        step = torch.cat([step[:, :, :1], step], 2)  # the first segment moves as the second does
        return step.flatten(1).nan_to_num()


class Segments(Part):
    """Base of targets of a token's size: a subclass says `whole(step)` -> (B, N, segment * D), NaN where unknown.

    Args:
        normalise: each token by its own mean and spread.
    """

    def __init__(self, model: Model, *, normalise: bool = True):
        super().__init__(model)
        (self.stream,) = model.tokenizer.streams
        self.normalise, self.space, self.segment = normalise, model.tokenizer.space, model.tokenizer.segment
        self.joints = model.tokenizer.joints
        self.heads = {"segment": Head(model.tokenizer.streams[self.stream])}

    def whole(self, step: Step) -> Tensor:
        raise NotImplementedError

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        goal = self.asked(step)
        if self.normalise:
            mean, spread = spreads(goal)
            goal = (goal - mean) / spread
        return {"segment": goal}

    def asked(self, step: Step) -> Tensor:
        """(Q, M, segment * D)"""
        return take(self.whole(step), step.mask.ask, step.mask.ask_of)

    def predicted(self, step: Step) -> Tensor:
        """(Q, M, segment * D) predictions in the tokens' units; with `normalise`, mean and spread are the truth's."""
        pred = step.pred["segment"].float()
        if not self.normalise:
            return pred
        mean, spread = spreads(self.asked(step))
        return pred * spread + mean


class Positions(Segments):
    """Coordinates of the asked tokens (Q, M, segment * D), NaN where a joint is missing.

    Args:
        normalise: see `Segments`.
    """

    def __init__(self, model: Model, *, normalise: bool = True):
        super().__init__(model, normalise=normalise)
        self.borrows = "each hidden token borrows the mean and spread of its coordinates" if normalise else None

    def whole(self, step: Step) -> Tensor:
        return step.tokens.x[self.stream].float()

    def content(self, step: Step) -> Tensor:
        """Predicted coordinates (Q, M, segment * D)."""
        return self.predicted(step)


class Motion(Segments):
    """Displacement of each joint from one frame to a later one (MAMP, section 3.2): (Q, M, segment * D), NaN where one
    of the two is missing, as at the end of a sequence.

    Args:
        normalise: see `Segments`.
        stride: frames from one to the other.
    """

    def __init__(self, model: Model, *, normalise: bool = True, stride: int = 1):
        super().__init__(model, normalise=normalise)
        if not 1 <= stride < self.segment:
            raise RecipeError(f"target.stride counts frames, 1 to {self.segment - 1} of a segment, not {stride}")
        self.stride = stride
        self.borrows = f"each hidden token borrows its first {stride} frame(s)" + (
            " and the mean and spread of its motion" if normalise else ""
        )

    def whole(self, step: Step) -> Tensor:
        x = step.tokens.x[self.stream].float()
        # Beside other parts, a sequence's tokens come without their grid.
        track = tracks(x, step.tokens.grid or (self.joints, x.shape[1] // self.joints), self.space)  # B J T D
        later = F.pad(track[:, :, self.stride :], (0, 0, 0, self.stride), value=torch.nan)
        return (later - track).unflatten(2, (-1, self.segment)).flatten(3).flatten(1, 2)

    def content(self, step: Step) -> Tensor:
        """Coordinates (Q, M, segment * D) that the predicted motion leads to."""
        truth = take(step.tokens.x[self.stream].float(), step.mask.ask, step.mask.ask_of)
        move = self.predicted(step).unflatten(-1, (self.segment, self.space))
        made = list(truth.unflatten(-1, (self.segment, self.space)).unbind(-2))[: self.stride]
        for frame in range(self.stride, self.segment):
            made.append(made[frame - self.stride] + move[..., frame - self.stride, :])
        return torch.stack(made, -2).flatten(-2)
