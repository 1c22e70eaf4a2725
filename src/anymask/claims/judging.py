"""The verdict on two arms."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.table import Figure

SHOWN, NOT_SHOWN, NOISY = "shown", "not shown", "too noisy to say"
RESAMPLES = 10_000
AT_ONCE = 500  # resamples in memory


class Verdict(NamedTuple):
    """A judgement, and the paired difference with its 95 % interval, in the metric's unit."""

    verdict: str
    effect: Figure
    note: str


def judge(ours: np.ndarray, comparator: np.ndarray, smallest_effect: float, *, seed: int = 0) -> Verdict:
    """The verdict on two arms.

    Args:
        ours, comparator: (S, T) score of the run of seed s on test sample t; the same seeds and samples.
        smallest_effect: in the unit of the scores.
        seed: of the bootstrap.

    The bootstrap has two levels, crossed: seeds are drawn with replacement, then test samples, the same ones for all
    seeds and both arms.
    """
    if ours.shape != comparator.shape or ours.ndim != 2:
        raise ClaimError(
            f"the arms have results of the shapes {ours.shape} and {comparator.shape}; both need (seeds, samples)"
        )
    rng = np.random.default_rng(seed)
    gap = ours.astype(np.float64) - comparator
    seeds, samples = gap.shape
    # Samples on which all seeds' gaps are equal are alike: drawing their number draws the samples.
    kinds, counts = np.unique(gap, axis=1, return_counts=True)
    effects = []
    for start in range(0, RESAMPLES, AT_ONCE):
        size = min(AT_ONCE, RESAMPLES - start)
        drawn = rng.multinomial(samples, counts / samples, size=size) @ kinds.T  # size S
        weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=size)
        effects.append((drawn * weights).sum(1) / (seeds * samples))
    low, high = (float(q) for q in np.quantile(np.concatenate(effects), (0.025, 0.975)))
    effect = Figure(float(gap.mean()), low, high, digits_of(smallest_effect))
    if low > 0:
        note = "real, but smaller than the smallest effect that matters" if high < smallest_effect else ""
        return Verdict(SHOWN, effect, note)
    if high < smallest_effect:
        return Verdict(NOT_SHOWN, effect, "the comparator is better" if high < 0 else "")
    return Verdict(NOISY, effect, "more seeds (--seeds) or samples (--scale) narrow the interval")


def digits_of(smallest: float) -> int:
    """Digits after the point that show a tenth of the smallest effect."""
    return max(1, 1 - int(np.floor(np.log10(smallest)))) if smallest < 1 else 1
