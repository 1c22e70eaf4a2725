"""Parts of trajectories: each agent's past and future as a token, and masks that hide one of the two."""

from __future__ import annotations

import torch
from torch import Tensor

from anymask import keyed
from anymask.engine import Head, Mask, Model, Part, Sample, Step, Tokens, split, take
from anymask.parts.masks import Scored
from anymask.recipe import RecipeError

PAST, FUTURE = 0, 1  # kinds of token


class PastAndFuture(Part):
    """Samples to two tokens for each agent, its past and its future (Forecast-MAE, arXiv:2308.09882, section 3.1).

    (B, 2, T, A) in metres with NaN where an agent is not seen -> stream `trajectory` (B, 2 * A, 2 * T + 2), all pasts
    and then all futures: positions step by step beside the agent's own last known one, NaN in the steps of the other
    token and where the agent is not seen; then that last known one beside the first agent's; all in units of `reach`,
    and turned so that the first agent heads along the first axis. `pos` is the last known position beside the first
    agent's, cosine and sine of the agent's heading there, and the kind. A past whose last two steps are not seen, and a
    future that is not seen at all, are not valid. Without lanes.

    Args:
        past: steps; None = the data's.
        field: of the schema.
    """

    takes = "trajectory"
    renderer = "anymask.reports.paths:Paths"
    kinds = 2
    missing = True
    shares = "positions are beside each agent's last known one and turned with the first agent, whether hidden or not"

    def __init__(self, model: Model, *, past: int | None = None, field: str = "trajectory"):
        super().__init__(model)
        about = model.schema.fields[field]
        _, self.steps, agents = about.shape
        self.past = int(about.more["past"]) if past is None else past
        if not 2 <= self.past < self.steps:
            raise RecipeError(f"tokenizer.past counts steps, 2 to {self.steps - 1} of {self.steps}, not {self.past}")
        self.field, self.reach = field, float(about.more["reach"])
        self.streams = {field: 2 * self.steps + 2}
        self.grid, self.pitch = (2, agents), (5.0, 5.0, 1.0, 1.0, 1.0)  # metres, and numbers between -1 and 1

    def forward(self, sample: Sample) -> Tokens:
        x = sample[self.field].float().permute(0, 3, 2, 1)  # B A T 2
        x = self.turned(x - x[:, :1, self.past - 1, None], x)
        now = x[:, :, self.past - 1]  # B A 2
        heading = self.heading(x)
        beside = (x - now[:, :, None]) / self.reach
        steps = torch.arange(self.steps, device=x.device)
        token = lambda mine: torch.where(mine[:, None], beside, torch.nan).flatten(2)  # B A 2T
        content = torch.cat([token(steps < self.past), token(steps >= self.past)], 1)
        content = torch.cat([content, now.repeat(1, 2, 1) / self.reach], 2)
        seen = ~x.isnan().any(-1)  # B A T
        known = seen[:, :, self.past - 1] & seen[:, :, self.past - 2]
        valid = torch.cat([known, known & seen[:, :, self.past :].any(2)], 1)
        content = torch.where(valid[..., None], content, torch.nan)
        pos = torch.cat([now, heading], 2).nan_to_num()  # B A 4
        pos = torch.cat([pos.repeat(1, 2, 1), _kinds(x.shape[1], x.device)[:, None].expand(len(x), -1, 1)], 2)
        kind = _kinds(x.shape[1], x.device).long()
        return Tokens({self.field: content}, pos, valid, kind, grid=(2, x.shape[1]))

    def heading(self, x: Tensor) -> Tensor:
        """(B, A, 2) direction of the last step of the past, of length 1; along the first axis where there is none."""
        move = x[:, :, self.past - 1] - x[:, :, self.past - 2]
        length = move.norm(dim=-1, keepdim=True)
        plain = move.new_tensor([1.0, 0.0]).expand_as(move)
        return torch.where(length > 1e-4, move / length.clamp(min=1e-4), plain)  # NaN > 0 is False

    def turned(self, x: Tensor, original: Tensor) -> Tensor:
        """Positions (B, A, T, 2) turned so that the first agent heads along the first axis."""
        c, s = self.heading(original)[:, :1, None].unbind(-1)  # B 1 1
        return torch.stack([c * x[..., 0] + s * x[..., 1], c * x[..., 1] - s * x[..., 0]], -1)

    def paths(self, x: Tensor) -> Tensor:
        """Content (..., 2 * T + 2) as positions (..., T, 2) in metres, beside the first agent's last known one."""
        return (x[..., :-2].unflatten(-1, (self.steps, 2)) + x[..., None, -2:]) * self.reach


def _kinds(agents: int, device: torch.device) -> Tensor:
    return torch.arange(2, device=device, dtype=torch.float32).repeat_interleave(agents)  # N


class OneOfTwo(Scored):
    """Of each agent either the past is hidden or the future (Forecast-MAE, section 3.2); agents without a future show
    their past.

    Args:
        ratio: share of the agents with both whose future is hidden; the pasts of the others are.
    """

    def __init__(self, model: Model, *, ratio: float = 0.5):
        super().__init__(model, ratio=ratio)

    def forward(self, step: Step, model: Model) -> Mask:
        tokens, key = step.tokens, step.sample["key"]
        if tokens.grid is None or tokens.grid[0] < 2 or tokens.valid is None:
            raise RecipeError("masks of pasts and futures need P(PastAndFuture)")
        agents = tokens.grid[1]
        both = tokens.valid[:, :agents] & tokens.valid[:, agents : 2 * agents]
        draw = keyed.uniform(key, agents).masked_fill(~both, 2.0)
        ahead = (both.sum(1, keepdim=True) * (1 - self.ratio) + 1e-4).floor()
        shown = draw.argsort(1).argsort(1) < ahead  # of these the future is visible
        hidden = torch.zeros(tokens.shape, dtype=torch.bool, device=key.device)
        hidden[:, :agents], hidden[:, agents : 2 * agents] = shown, both & ~shown
        return hide_these(step, model, hidden)


def hide_these(step: Step, model: Model, hidden: Tensor) -> Mask:
    """A mask that hides and asks for `hidden` (B, N) tokens, all of them valid."""
    valid = step.tokens.valid
    count = (~hidden if valid is None else valid & ~hidden).sum(1)
    return split(hidden.float(), count, keep=model.corruption.keep, ask=1.0, valid=valid)


class Steps(Part):
    """Positions of the asked tokens (Q, M, 2 * T), NaN in the steps that are not theirs or not seen."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.stream, steps, past = model.tokenizer.field, model.tokenizer.steps, model.tokenizer.past
        self.heads = {"steps": Head(2 * steps)}
        self.borrows = "each hidden path borrows where it is in the scene"
        self.register_buffer("early", torch.arange(2 * steps) < 2 * past, persistent=False)

    early: Tensor

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        return {"steps": self._asked(step)[..., : len(self.early)]}

    def _asked(self, step: Step) -> Tensor:
        return take(step.tokens.x[self.stream], step.mask.ask, step.mask.ask_of).float()

    def content(self, step: Step) -> Tensor:
        """(Q, M, 2 * T + 2) predictions, NaN in the steps that are not the token's; the place is that of the token."""
        assert step.tokens.kinds is not None
        ahead = take(step.tokens.kinds, step.mask.ask, step.mask.ask_of) == FUTURE  # Q|1 M
        pred = torch.where(ahead[..., None] ^ self.early, step.pred["steps"].float(), torch.nan)
        return torch.cat([pred, self._asked(step)[..., len(self.early) :]], -1)
