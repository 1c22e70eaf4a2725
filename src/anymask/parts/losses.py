"""Losses: (pred (Q, M, width) fp32, goal) -> (Q, M) fp32, unreduced. The engine masks, weighs and averages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mse(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean squared error over a token's values."""
    return (pred - goal).square().mean(-1)


def observed_mse(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean squared error over a token's values that are there; NaN in the goal is a missing one."""
    there = ~goal.isnan()
    return torch.where(there, pred - goal, 0.0).square().sum(-1) / there.sum(-1).clamp(min=1)


def l1(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean absolute error over a token's values."""
    return (pred - goal).abs().mean(-1)


def observed_l1(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean absolute error over a token's values that are there; NaN in the goal is a missing one."""
    there = ~goal.isnan()
    return torch.where(there, pred - goal, 0.0).abs().sum(-1) / there.sum(-1).clamp(min=1)


def class_maps(pred: Tensor, goal: Tensor) -> Tensor:
    """Cross-entropy in nats of logits `pred` (Q, M, pixels * classes) against the class of each pixel `goal` (Q, M,
    pixels) int64, mean over a token's pixels that have one; -1 is none."""
    scores = pred.unflatten(-1, (goal.shape[-1], -1)).log_softmax(-1)  # Q M pixels classes
    error = -scores.gather(-1, goal.clamp(min=0)[..., None]).squeeze(-1)
    there = goal >= 0
    return torch.where(there, error, 0.0).sum(-1) / there.sum(-1).clamp(min=1)


def own(pred: Tensor, goal: Tensor) -> Tensor:
    """Stands for the losses that a target brings for its heads (`target.losses`)."""
    raise NotImplementedError("the target of this recipe brings no loss for this head; give loss= one")


def cross_entropy(pred: Tensor, goal: Tensor) -> Tensor:
    """Cross-entropy in nats of logits `pred` (Q, M, classes) against classes `goal` (Q, M) int64."""
    return F.cross_entropy(pred.flatten(0, 1), goal.flatten(), reduction="none").view(goal.shape)


def smooth_l1(pred: Tensor, goal: Tensor) -> Tensor:
    """Squared below a difference of 1 and absolute above (Girshick 2015, arXiv:1504.08083), over a token's values."""
    return F.smooth_l1_loss(pred, goal, reduction="none").mean(-1)


def binary(pred: Tensor, goal: Tensor) -> Tensor:
    """Cross-entropy in nats of logits `pred` against 0 or 1, mean over a token's values."""
    return F.binary_cross_entropy_with_logits(pred, goal, reduction="none").mean(-1)


def chamfer(pred: Tensor, goal: Tensor) -> Tensor:
    """Chamfer distance of two sets of points (Fan et al. 2017, arXiv:1612.00603, section 4.1): the mean squared
    distance of each point of `pred` (Q, M, n * 3) to the nearest of `goal` (Q, M, m * 3), and the other way round,
    added. Points of either that hold NaN are none; without any, the distance is that to the origin."""
    p, g = pred.unflatten(-1, (-1, 3)), goal.unflatten(-1, (-1, 3))
    mine, real = ~p.isnan().any(-1), ~g.isnan().any(-1)  # Q M n, Q M m
    p, g = torch.where(mine[..., None], p, 0.0), torch.where(real[..., None], g, 0.0)
    with torch.no_grad():  # which is nearest; the distances themselves are computed anew, without large gradients
        gap = p.square().sum(-1)[..., None] + g.square().sum(-1)[..., None, :] - 2 * p @ g.transpose(-1, -2)  # Q M n m
        to_goal = gap.masked_fill(~real[..., None, :], torch.inf).argmin(-1)
        to_pred = gap.masked_fill(~mine[..., None], torch.inf).argmin(-2)
    there = torch.where(mine, (p - _picked(g, to_goal)).square().sum(-1), 0.0)
    back = torch.where(real, (_picked(p, to_pred) - g).square().sum(-1), 0.0)
    return there.sum(-1) / mine.sum(-1).clamp(min=1) + back.sum(-1) / real.sum(-1).clamp(min=1)


def _picked(points: Tensor, index: Tensor) -> Tensor:
    """Points (Q, M, n, 3) at index (Q, M, m): (Q, M, m, 3)."""
    return points.gather(-2, index[..., None].expand(*index.shape, 3))


def scaled_cosine(pred: Tensor, goal: Tensor, power: float = 3.0) -> Tensor:
    """(1 - cosine) to a power, which plays down what is nearly right (GraphMAE, arXiv:2205.10803, equation 2)."""
    lengths = (pred.norm(dim=-1) * goal.norm(dim=-1)).clamp(min=1e-8)
    return (1 - (pred * goal).sum(-1) / lengths) ** power
