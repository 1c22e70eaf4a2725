"""Losses: (pred (Q, M, width) fp32, goal) -> (Q, M) fp32, unreduced. The engine masks, weighs and averages."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_of(error: Tensor, ok: Tensor | None = None) -> Tensor:
    """The mean of errors over those that are `ok`, of the same shape; 0 where none is. None = all are."""
    return error.mean() if ok is None else torch.where(ok, error, 0.0).sum() / ok.sum().clamp(min=1)


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


def cross_entropy(pred: Tensor, goal: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy in nats of logits `pred` (Q, M, classes) against classes `goal` (Q, M) int64, of whose certainty a
    share `smoothing` is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    flat = F.cross_entropy(pred.flatten(0, 1), goal.flatten(), reduction="none", label_smoothing=smoothing)
    return flat.view(goal.shape)


def divergence(pred: Tensor, goal: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence in nats of scores `pred` (..., M, classes), divided by a temperature, from a
    distribution `goal`: the cross-entropy less what no prediction can go below, so that 0 is perfect and gradients are
    the same."""
    logp = (pred / temperature).log_softmax(-1)
    return (torch.special.xlogy(goal, goal) - goal * logp).sum(-1)


def choice(pred: Tensor, goal: Tensor) -> Tensor:
    """Cross-entropy in nats of logits `pred` (Q, M, classes) among the classes that a token can have: `goal` is the
    share of each, NaN where a token cannot have it, as the categories of another column. 0 where it can have none."""
    can = ~goal.isnan()
    logp = pred.masked_fill(~can, -1e9).log_softmax(-1)
    return -torch.where(can, goal.nan_to_num() * logp, 0.0).sum(-1)


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


def cosine(pred: Tensor, goal: Tensor) -> Tensor:
    """1 less the cosine of the angle between them."""
    return 1 - F.cosine_similarity(pred, goal, dim=-1)


def scaled_cosine(pred: Tensor, goal: Tensor, power: float = 3.0) -> Tensor:
    """(1 - cosine) to a power, which plays down what is nearly right (GraphMAE, arXiv:2205.10803, equation 2)."""
    lengths = (pred.norm(dim=-1) * goal.norm(dim=-1)).clamp(min=1e-8)
    return (1 - (pred * goal).sum(-1) / lengths) ** power


def with_spectrum(pred: Tensor, goal: Tensor, share: float = 0.01) -> Tensor:
    """(1 - share) of the mean squared error and a share of the mean absolute difference of the amplitudes of the two
    spectra, of square patches of one channel (CA-MAE, arXiv:2404.10242, section 3.4)."""
    side = math.isqrt(pred.shape[-1])
    if side * side != pred.shape[-1]:
        raise ValueError(f"a patch of {pred.shape[-1]} values is no square of one channel, whose spectrum is asked for")
    amplitude = lambda x: torch.fft.fft2(x.float().unflatten(-1, (side, side))).abs().flatten(-2)
    return (1 - share) * mse(pred, goal) + share * (amplitude(pred) - amplitude(goal)).abs().mean(-1)
