"""Classical imputers, from scikit-learn, and the measures of imputation.

An imputer is a function `fill(x, *, more=None, seed=0)` from a table (N, F) with NaN to a filled one (N, F), float64;
cells that have a value keep it. It learns from x itself and from further rows `more` (M, F), where there are some.
Columns are taken as they are: scale them before, as the distances of `knn` depend on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from anymask.evaluation.errors import EvaluateError

Imputer = Callable[..., np.ndarray]
NEIGHBOURS = 5
ROUNDS = 10  # of the iterative imputer
FOREST_ROUNDS = 3  # more change little, and missForest stops after 3 to 5 as a rule
TREES = 50
FOREST_ROWS = 2_000  # a tree is grown on so many rows at most, which bounds the time


def mean(x: np.ndarray, *, more: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """The mean of the column."""
    from sklearn.impute import SimpleImputer

    return _fill(SimpleImputer(keep_empty_features=True), x, more)


def knn(x: np.ndarray, *, more: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """The mean over the 5 nearest rows that have the value (Troyanskaya et al. 2001), by the distance over the columns
    that both rows have."""
    from sklearn.impute import KNNImputer

    return _fill(KNNImputer(n_neighbors=NEIGHBOURS, keep_empty_features=True), x, more)


def iterative(x: np.ndarray, *, more: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Chained equations: each column by Bayesian ridge regression on the others, 10 rounds at most (van Buuren and
    Groothuis-Oudshoorn 2011, with the mean of the prediction)."""
    return _fill(_chained(None, ROUNDS, seed), x, more)


def forest(x: np.ndarray, *, more: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """As missForest (Stekhoven and Buehlmann 2012, doi:10.1093/bioinformatics/btr597): each column by a random forest
    on the others, columns with few missing cells first. Bounded: 50 trees of at most 2,000 rows each, 3 rounds; a third
    of the columns is tried at each split, as missForest does for regression."""
    from sklearn.ensemble import RandomForestRegressor

    rows = len(x) + (0 if more is None else len(more))
    grown = FOREST_ROWS / rows if rows > FOREST_ROWS else None
    trees = RandomForestRegressor(TREES, max_features=1 / 3, max_samples=grown, random_state=seed)
    return _fill(_chained(trees, FOREST_ROUNDS, seed), x, more)


IMPUTERS: dict[str, Imputer] = {"mean": mean, "knn": knn, "iterative": iterative, "forest": forest}


def rmse(truth: np.ndarray, filled: np.ndarray, missing: np.ndarray) -> float:
    """Root mean squared error over the cells where `missing` (N, F) is True, in the unit of the tables."""
    _alike(truth, filled, missing)
    if not missing.any():
        raise EvaluateError("no cell was removed, so there is no error to measure; remove some (make_missing)")
    return float(np.sqrt(np.mean((truth[missing] - filled[missing]) ** 2)))


def wasserstein(truth: np.ndarray, filled: np.ndarray) -> float:
    """The mean over columns of the 1-Wasserstein distance between the true and the filled column, all rows of each (a
    cell that was not removed is the same in both). Rows where the truth is not known are left out column by column."""
    _alike(truth, filled)
    columns = ((t[~np.isnan(t)], f[~np.isnan(t)]) for t, f in zip(truth.T, filled.T))
    found = [wasserstein_distance(t, f) for t, f in columns if len(t)]
    return float(np.mean(found))


def min_max(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(F,) the lowest value of each column and its range, NaN left aside; the range is 1 where there is no spread, so
    that (x - low) / range lies in 0..1."""
    there = ~np.isnan(x)
    some = there.any(0)
    low = np.where(some, np.where(there, x, np.inf).min(0), 0.0)
    spread = np.where(some, np.where(there, x, -np.inf).max(0), 0.0) - low
    return low, np.where(spread > 0, spread, 1.0)


def _chained(estimator: Any, rounds: int, seed: int) -> Any:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    return IterativeImputer(estimator, max_iter=rounds, random_state=seed, keep_empty_features=True)


def _fill(imputer: Any, x: np.ndarray, more: np.ndarray | None) -> np.ndarray:
    from sklearn.exceptions import ConvergenceWarning

    x = np.asarray(x, dtype=np.float64)
    # Together, not fit on `more` and then transform: chained equations fitted on rows without gaps end after a round.
    rows = x if more is None else np.concatenate([x, np.asarray(more, dtype=np.float64)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the rounds are bounded on purpose
        filled = imputer.fit_transform(rows)[: len(x)]
    return np.where(np.isnan(x), filled, x)


def _alike(*tables: np.ndarray) -> None:
    if len({table.shape for table in tables}) != 1 or tables[0].ndim != 2:
        raise EvaluateError(f"tables of shapes {', '.join(str(t.shape) for t in tables)}; give (N, F) alike")
