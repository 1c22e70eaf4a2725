"""Classical ways to fill hidden tokens from visible ones, each fitted on whole training samples.

All take tokens (B, N, D) of real numbers, of which `visible` (B, N) are shown, and return (B, N, D).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WIDEST = 1024  # values of a sample, for the conditional mean: its cost is their cube


class Gaussian:
    """Mean of what is hidden given what is visible, for a normal distribution with the mean and the covariance of the
    training part, shrunk as Ledoit & Wolf (2004): the best linear prediction. Missing training values count as their
    mean.

    Args:
        x: (n, N, D) training tokens. valid: (n, N) real tokens; None = all.
    """

    def __init__(self, x: Tensor, valid: Tensor | None = None) -> None:
        from sklearn.covariance import LedoitWolf

        flat = x.double().flatten(1)
        real = torch.ones_like(flat) if valid is None else valid[..., None].expand_as(x).flatten(1).double()
        self.shape = x.shape[1:]
        self.mean = (flat * real).sum(0) / real.sum(0).clamp(min=1)
        whole = torch.where(real > 0, flat, self.mean) - self.mean
        fitted = LedoitWolf(assume_centered=True).fit(whole.cpu().numpy())
        self.covariance = torch.from_numpy(np.ascontiguousarray(fitted.covariance_)).to(x.device)

    def place(self, x: Tensor, visible: Tensor) -> Tensor:
        """The training mean of each hidden place."""
        mean = self.mean.view(self.shape).to(x.dtype)
        return torch.where(visible[..., None], x, mean)

    def __call__(self, x: Tensor, visible: Tensor) -> Tensor:
        out = x.double().flatten(1).clone()
        shown = visible[..., None].expand_as(x).flatten(1)
        for row, known in zip(out, shown):
            a, b = self.covariance[known][:, known], self.covariance[known][:, ~known]
            gap = row[known] - self.mean[known]
            ridge = 1e-9 * torch.diagonal(a).mean() if known.any() else 0.0
            weight = torch.linalg.solve(a + ridge * torch.eye(len(a), dtype=a.dtype, device=a.device), gap)
            row[~known] = self.mean[~known] + b.T @ weight
        return out.view_as(x).to(x.dtype)


def nearest(x: Tensor, visible: Tensor, pos: Tensor, kinds: Tensor | None = None) -> Tensor:
    """The content of the nearest visible token; the first of several equally near.

    Args:
        pos: (B or 1, N, P).
        kinds: (B or 1, N) of the tokens: the nearest of the same kind, as long as there is one.
    """
    gaps = torch.cdist(pos, pos)
    if kinds is not None:
        gaps = gaps + (kinds[:, :, None] != kinds[:, None]) * (gaps.max() + 1)
    gaps = gaps.expand(len(x), -1, -1).masked_fill(~visible[:, None], torch.inf)
    return x.gather(1, gaps.argmin(2, keepdim=True).expand_as(x)).where(~visible[..., None], x)


def nearest_value(values: Tensor, visible: Tensor) -> Tensor:
    """Values on a grid (B, C, *space) from the nearest visible place (B, *space), by SciPy's distance transform; of a
    sample that shows nothing, as they are."""
    from scipy.ndimage import distance_transform_edt

    out = values.clone()
    for one, shown in zip(out, visible.cpu().numpy()):
        if shown.any():
            at = distance_transform_edt(~shown, return_distances=False, return_indices=True)
            one[:] = one[(slice(None), *torch.from_numpy(at.astype(np.int64)))]
    return out


def interpolated(images: Tensor, visible: Tensor) -> Tensor:
    """Images (B, C, H, W), linear between visible pixels (B, H, W) on their Delaunay triangles, and outside these the
    nearest visible pixel: SciPy's. Series (B, C, T) with (B, T) likewise between neighbours."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
    from scipy.spatial import QhullError

    out = images.double().cpu().numpy().copy()
    for image, shown in zip(out, visible.cpu().numpy()):
        at, asked, values = np.argwhere(shown), np.argwhere(~shown), image[:, shown].T
        if not len(at) or not len(asked):
            continue
        if at.shape[1] == 1:
            image[:, ~shown] = [np.interp(asked[:, 0], at[:, 0], channel) for channel in values.T]
            continue
        filled = NearestNDInterpolator(at, values)(asked)
        try:
            between = LinearNDInterpolator(at, values)(asked)
        except QhullError:  # fewer than three visible pixels, or all on one line, span no triangle
            between = np.full_like(filled, np.nan)
        image[:, ~shown] = np.where(np.isnan(between), filled, between).T
    return torch.from_numpy(out).to(images)
