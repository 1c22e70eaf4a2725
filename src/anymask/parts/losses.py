"""Losses: (pred (Q, M, width) fp32, goal) -> (Q, M) fp32, unreduced. The engine masks, weighs and averages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mse(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean squared error over a token's values."""
    return (pred - goal).square().mean(-1)


def l1(pred: Tensor, goal: Tensor) -> Tensor:
    """Mean absolute error over a token's values."""
    return (pred - goal).abs().mean(-1)


def cross_entropy(pred: Tensor, goal: Tensor) -> Tensor:
    """Cross-entropy in nats of logits `pred` (Q, M, classes) against classes `goal` (Q, M) int64."""
    return F.cross_entropy(pred.flatten(0, 1), goal.flatten(), reduction="none").view(goal.shape)


def scaled_cosine(pred: Tensor, goal: Tensor, power: float = 3.0) -> Tensor:
    """(1 - cosine) to a power, which plays down what is nearly right (GraphMAE, arXiv:2205.10803, equation 2)."""
    lengths = (pred.norm(dim=-1) * goal.norm(dim=-1)).clamp(min=1e-8)
    return (1 - (pred * goal).sum(-1) / lengths) ** power
