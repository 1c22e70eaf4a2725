"""Makers of missing cells: which cells of a table to remove, by mechanism, rate and seed.

    missing = make_missing(x, mechanism="mar", rate=0.3, seed=0)
    incomplete = np.where(missing, np.nan, x)

Completely at random (MCAR), at random (MAR: by other columns, which stay) and not at random (MNAR: by the value that is
removed), Rubin 1976. MAR is the logistic model and MNAR the logistic self-masking of Muzellec et al. 2020
(arXiv:2002.03860, section 4 and appendix): logits of unit spread with random weights, an intercept that meets the rate.

All makers take x (N, F), where NaN is a cell that is missing already: such a cell is never in the result, and the rate
is a share of the others. No row and no column loses its last value: where all of them were drawn, one of them, chosen
at random, stays. With the same seed the rest of the result is as without that rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from anymask.evaluation.errors import EvaluateError

OBSERVED = 0.3  # share of the columns that MAR leaves whole, where the rate allows so many
HIGHEST = 0.9  # rate of one column


def mcar(x: np.ndarray, *, rate: float = 0.3, seed: int = 0) -> np.ndarray:
    """(N, F) bool: every cell by the same chance, `numpy.random.RandomState(seed).rand(N, F) < rate`.

    Raises:
        EvaluateError: as `make_missing`.
    """
    there = _checked(x, rate)
    return _rescued(np.random.RandomState(seed).rand(*x.shape) < rate, there, seed)


def mar(x: np.ndarray, *, rate: float = 0.3, seed: int = 0, observed: float = OBSERVED) -> np.ndarray:
    """(N, F) bool: a share `observed` of the columns, chosen at random, stays whole; the cells of each other column are
    removed by a logistic model of those, with random weights.

    `rate` is the share of all cells, so the other columns lose more each. Where that would be more than 90 %, fewer
    columns stay whole, at least one.

    Raises:
        EvaluateError: as `make_missing`; the rate cannot be had with a column left whole; a table of one column.
    """
    there = _checked(x, rate)
    n, f = x.shape
    most = int(np.floor(f * (1 - rate / HIGHEST) + 1e-9))
    if f < 2 or most < 1:
        raise EvaluateError(
            f"MAR leaves a column whole, which {f} column{'s' * (f != 1)} at a rate of {rate} do not allow; ask for "
            f"a rate up to {max(0.0, HIGHEST * (1 - 1 / f)):.2f}, or for mcar or mnar"
        )
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(f)
    whole = min(max(1, round(observed * f)), most)
    known, others = np.sort(order[:whole]), np.sort(order[whole:])
    logits = _unit(_standardised(x)[:, known] @ rng.standard_normal((whole, f - whole)))  # N F'
    wanted = rate * there.sum() / max(there[:, others].sum(), 1)
    if wanted >= 1:
        raise EvaluateError(
            f"MAR cannot remove {rate} of all cells from the columns {others.tolist()}, which hold few; ask for a "
            "lower rate, or for mcar or mnar"
        )
    chance = np.zeros((n, f))
    chance[:, others] = _meeting(logits, wanted, there[:, others])
    return _rescued(rng.random((n, f)) < chance, there, seed)


def mnar(x: np.ndarray, *, rate: float = 0.3, seed: int = 0) -> np.ndarray:
    """(N, F) bool: in every column by a logistic model of the value itself, of a random direction: in some columns the
    large values are missing, in others the small ones. The odds change by e with a standard deviation.

    Raises:
        EvaluateError: as `make_missing`.
    """
    there = _checked(x, rate)
    rng = np.random.default_rng([seed, 2])
    logits = _standardised(x) * rng.choice([-1.0, 1.0], x.shape[1])
    return _rescued(rng.random(x.shape) < _meeting(logits, rate, there), there, seed)


MECHANISMS: dict[str, Callable[..., np.ndarray]] = {"mcar": mcar, "mar": mar, "mnar": mnar}


def make_missing(x: np.ndarray, *, mechanism: str = "mcar", rate: float = 0.3, seed: int = 0) -> np.ndarray:
    """(N, F) bool, True = remove, by the mechanism of that name.

    Raises:
        EvaluateError: an unknown mechanism; x is no table of two rows with a value in each; a rate outside 0..0.9.
    """
    if mechanism not in MECHANISMS:
        raise EvaluateError(f"no mechanism '{mechanism}'; there are {', '.join(MECHANISMS)}")
    return MECHANISMS[mechanism](x, rate=rate, seed=seed)


def _checked(x: np.ndarray, rate: float) -> np.ndarray:
    """(N, F) the cells that hold a value."""
    if x.ndim != 2 or len(x) < 2 or not x.shape[1]:
        raise EvaluateError(f"missing cells are made in a table (N, F) of two rows or more, not in shape {x.shape}")
    if not 0 < rate <= HIGHEST:
        raise EvaluateError(f"rate={rate} must lie above 0 and be {HIGHEST} at most, as 0.3")
    there = ~np.isnan(x)
    if not there.any():
        raise EvaluateError("the table holds no value, so none can be removed; give one that has some")
    return there


def _rescued(drawn: np.ndarray, there: np.ndarray, seed: int) -> np.ndarray:
    """`drawn` among the cells that are there, without the last of a row or a column."""
    missing = drawn & there
    rng = np.random.default_rng([seed, 3])  # of its own, so that the draw itself stays as documented
    for axis in (1, 0):  # rows, then columns: to give a cell back never empties anything
        for i in np.flatnonzero(there.any(axis) & ~(there & ~missing).any(axis)):
            cells = np.flatnonzero(there[i] if axis else there[:, i])
            chosen = rng.choice(cells)
            missing[(i, chosen) if axis else (chosen, i)] = False
    return missing


def _standardised(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and spread 1 (0 where there is none); cells without a value count as the mean."""
    x = x.astype(np.float64)
    there = ~np.isnan(x)
    count = np.maximum(there.sum(0), 1)
    centred = np.where(there, x - np.where(there, x, 0).sum(0) / count, 0.0)
    spread = np.sqrt((centred**2).sum(0) / count)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12 * (1 + np.abs(centred).max(0)))


def _unit(logits: np.ndarray) -> np.ndarray:
    spread = logits.std(0)
    return np.divide(logits, spread, out=np.zeros_like(logits), where=spread > 0)


def _meeting(logits: np.ndarray, rate: float, there: np.ndarray) -> np.ndarray:
    """(N, F) chances with the mean `rate` over the cells of each column that are there."""
    chance = np.zeros_like(logits)
    for j in range(logits.shape[1]):
        column = logits[there[:, j], j]
        if len(column):
            reach = 50.0 + np.abs(column).max()
            intercept = brentq(lambda b, z: expit(z + b).mean() - rate, -reach, reach, args=(column,))
            chance[:, j] = expit(logits[:, j] + intercept)
    return chance
