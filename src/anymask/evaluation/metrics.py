"""Figures of merit as pure functions of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Spectrum(NamedTuple):
    """How the variance of features is spread over their principal axes."""

    rank: float  # effective rank: exponential of the entropy of the normalised singular values
    axes: int  # principal axes that hold 90 % of the variance
    first: float  # share of the variance along the first one


def spectrum(x: Tensor) -> Spectrum:
    """Of features (N, D), centred. The effective rank is Roy & Vetterli's (2007, EUSIPCO), definition 1. Features that
    are all the same have rank 1, no axis, and share 0."""
    values = torch.linalg.svdvals(x.double() - x.double().mean(0))
    share, power = values / values.sum().clamp(min=1e-12), values.square()
    if power.sum() <= 1e-24:
        return Spectrum(1.0, 0, 0.0)
    rank = torch.exp(torch.special.entr(share).sum()).item()
    told = power.cumsum(0) / power.sum()
    return Spectrum(rank, int((told < 0.9 - 1e-12).sum()) + 1, told[0].item())


def alignment(a: Tensor, b: Tensor, power: float = 2.0) -> float:
    """Mean distance of positive pairs (N, D) on the unit sphere, to the power 2: 0 is best, 2 that of chance in many
    dimensions (Wang & Isola 2020, arXiv:2005.10242, section 4.1)."""
    gap = F.normalize(a.double(), dim=1) - F.normalize(b.double(), dim=1)
    return gap.norm(dim=1).pow(power).mean().item()


def uniformity(x: Tensor, t: float = 2.0) -> float:
    """Logarithm of the mean Gaussian potential exp(-t d^2) over all pairs of features (N, D) on the unit sphere: 0 if
    they are all the same, the lower the better spread (Wang & Isola 2020, section 4.1)."""
    squares = torch.pdist(F.normalize(x.double(), dim=1)).square()
    return (-t * squares).exp().mean().log().item()
