"""Regression on frozen features: ridge, nearest neighbours and gradient boosting, from scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from anymask.evaluation.errors import EvaluateError

ALPHAS = tuple(np.logspace(-2, 5, 15))
NEIGHBOURS = (1, 5, 20)
FOLDS = 5


class Fit(NamedTuple):
    """What a regression says of a test part."""

    r2: float  # 1 - squared error / that of the test part's mean
    rmse: float  # in units of the targets
    mae: float
    spearman: float  # correlation of ranks; NaN where all predictions are equal
    predicted: np.ndarray  # (M,)
    chosen: dict[str, Any]


Regression = Callable[..., Fit]


def ridge(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    reference: np.ndarray | None = None,
    seed: int = 0,
) -> Fit:
    """Ridge regression on standardised features; alpha by leaving one out within the training part.

    Args:
        train_x: (N, ...) features, flattened. train_y: (N,) numbers. test_x, test_y likewise.
        reference: (R, ...) features whose mean and spread standardise all; None = train_x.

    Raises:
        EvaluateError: features or targets that are not finite, fewer than two samples, or shapes that do not fit.
    """
    from sklearn.linear_model import RidgeCV

    x, test = _standardised(train_x, train_y, test_x, test_y, reference)
    model = RidgeCV(alphas=ALPHAS).fit(x, train_y)
    return _fit(model.predict(test), test_y, {"alpha": float(model.alpha_)})


def knn_regression(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    reference: np.ndarray | None = None,
    seed: int = 0,
) -> Fit:
    """The mean of the nearest neighbours by the distance of standardised features, weighed with its inverse; k of 1, 5
    and 20 by cross-validation in the training part. Arguments and errors as `ridge`."""
    from sklearn.neighbors import KNeighborsRegressor

    x, test = _standardised(train_x, train_y, test_x, test_y, reference)
    inside = len(x) - -(-len(x) // min(FOLDS, len(x)))
    fitting = [k for k in NEIGHBOURS if k <= inside] or [1]
    model, chosen = _searched(KNeighborsRegressor(weights="distance"), {"n_neighbors": fitting}, x, train_y, seed)
    return _fit(model.predict(test), test_y, chosen)


def boosting(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    reference: np.ndarray | None = None,
    seed: int = 0,
) -> Fit:
    """Gradient boosting of 200 trees over histograms; the least number of samples in a leaf by cross-validation in the
    training part. Arguments and errors as `ridge`; `reference` is not used, as trees need no scale."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    x, test = _checked(train_x, train_y, test_x, test_y)
    model = HistGradientBoostingRegressor(max_iter=200, learning_rate=0.05, random_state=seed)
    model, chosen = _searched(model, {"min_samples_leaf": [5, 20]}, x, train_y, seed)
    return _fit(model.predict(test), test_y, chosen)


def _searched(model: Any, grid: dict[str, list[Any]], x: np.ndarray, y: np.ndarray, seed: int) -> tuple[Any, dict]:
    from sklearn.model_selection import GridSearchCV, KFold

    ((name, values),) = grid.items()
    if len(values) == 1:
        return model.set_params(**{name: values[0]}).fit(x, y), {name: values[0]}
    folds = KFold(min(FOLDS, len(y)), shuffle=True, random_state=seed)
    search = GridSearchCV(model, grid, cv=folds, scoring="neg_mean_squared_error").fit(x, y)
    return search.best_estimator_, search.best_params_


def _standardised(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, reference: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.preprocessing import StandardScaler

    train, test = _checked(train_x, train_y, test_x, test_y)
    known = train if reference is None else np.asarray(reference, dtype=np.float64).reshape(len(reference), -1)
    if known.shape[1] != train.shape[1]:
        raise EvaluateError(
            f"training features are {train.shape[1]} wide and reference features {known.shape[1]}; embed all with the "
            "same run, pool and layer"
        )
    scaler = StandardScaler().fit(known)
    return scaler.transform(train), scaler.transform(test)


def _checked(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both features as (N, D) float64."""
    parts = []
    for part, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        x = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
        if len(x) != len(y) or len(y) < 2:
            raise EvaluateError(
                f"the {part} part has {len(x)} rows of features and {len(y)} targets; give one target a row, and two "
                "rows at least"
            )
        for what, finite in (("features", np.isfinite(x).all(1)), ("targets", np.isfinite(y))):
            if not finite.all():
                raise EvaluateError(
                    f"the {part} {what} are not finite (first: row {int(np.argmin(finite))}); leave out samples that "
                    "could not be read or have no target"
                )
        parts.append(x)
    if parts[0].shape[1] != parts[1].shape[1]:
        raise EvaluateError(
            f"training features are {parts[0].shape[1]} wide and test features {parts[1].shape[1]}; embed both with "
            "the same run, pool and layer"
        )
    return parts[0], parts[1]


def _fit(predicted: np.ndarray, truth: np.ndarray, chosen: dict[str, Any]) -> Fit:
    error = predicted - truth
    spread = float(((truth - truth.mean()) ** 2).mean())
    squared = float((error**2).mean())
    r2 = 1 - squared / spread if spread > 0 else float("nan")
    return Fit(r2, squared**0.5, float(np.abs(error).mean()), _spearman(predicted, truth), predicted, chosen)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks, equal values at the mean of theirs."""
    from scipy.stats import rankdata

    one, two = (rank - rank.mean() for rank in (rankdata(a), rankdata(b)))
    spread = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return float((one * two).sum()) / spread if spread else float("nan")
