"""The renderer of electrocardiograms: leads one below another, on one scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .series import Lines

MOST = 15  # leads of a drawing


class Leads(Lines):
    """Electrocardiograms; see `Lines`. The leads that a record has, all on one scale of mV, so that their sizes can be
    compared."""

    samples = 1
    noun = "records"
    rest = "leads missing or not drawn: {}"

    def scale(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = super().scale(truth)
        there = np.isfinite(truth).any((0, 2))
        if there.any():
            low, high = np.full_like(low, low[there].min()), np.full_like(high, high[there].max())
        return low, high

    def chosen(self, truth: np.ndarray, samples: int) -> Sequence[int]:
        return np.flatnonzero(np.isfinite(truth).any(1))[: max(1, MOST // samples)].tolist()
