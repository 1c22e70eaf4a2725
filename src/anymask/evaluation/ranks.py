"""Several methods on several data sets: average ranks, Friedman's test and Nemenyi's critical difference.

Demsar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from anymask.evaluation.errors import EvaluateError


@dataclass(frozen=True)
class Ranks:
    """Average ranks of methods, 1 = best. Two differ by the test if their ranks differ by more than `critical`."""

    names: tuple[str, ...]  # best first
    average: tuple[float, ...]
    critical: float
    statistic: float  # Friedman's chi-squared
    p: float
    count: int  # data sets

    def groups(self) -> list[tuple[int, int]]:
        """The longest stretches (first, last) of methods, as places in `names`, that the test does not tell apart."""
        found: list[tuple[int, int]] = []
        for first, low in enumerate(self.average):
            last = max(i for i, rank in enumerate(self.average) if rank - low <= self.critical)
            if last > first and not (found and found[-1][1] >= last):
                found.append((first, last))
        return found


def ranks(scores: np.ndarray, names: Sequence[str], *, larger_is_better: bool = False, alpha: float = 0.05) -> Ranks:
    """Ranks the methods within each data set; ties share the mean of their ranks.

    Args:
        scores: (D, K) one row a data set, one column a method. Rows must be independent: several seeds of one data set
            are averaged before, not given as rows.

    Raises:
        EvaluateError: fewer than three methods or two data sets, or scores that are not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(names) or scores.shape[1] < 3 or len(scores) < 2:
        raise EvaluateError(
            f"ranks need scores (data sets, methods) of two data sets and three methods or more, with a name each; got "
            f"{scores.shape} and {len(names)} names"
        )
    if not np.isfinite(scores).all():
        raise EvaluateError("ranks need a score of every method on every data set; run what is missing, or leave it")
    count, k = scores.shape
    place = stats.rankdata(-scores if larger_is_better else scores, axis=1)
    average = place.mean(0)
    with np.errstate(invalid="ignore"):  # all methods tied everywhere: no evidence against their being equal
        statistic, p = stats.friedmanchisquare(*place.T)
    statistic, p = (float(statistic), float(p)) if np.isfinite(statistic) else (0.0, 1.0)
    order = np.argsort(average, kind="stable")
    return Ranks(
        names=tuple(names[i] for i in order),
        average=tuple(float(average[i]) for i in order),
        critical=critical_difference(k, count, alpha=alpha),
        statistic=statistic,
        p=p,
        count=count,
    )


def critical_difference(methods: int, data_sets: int, *, alpha: float = 0.05) -> float:
    """Nemenyi's: q sqrt(k (k + 1) / (6 N)), with q of the studentised range over the square root of two."""
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * data_sets)))
