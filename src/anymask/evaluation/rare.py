"""Telling a rare class from another one with few labels: average precision."""

from __future__ import annotations

import numpy as np

from anymask.data import Source, few_label_draws
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.probe import log_odds


def few_label_precision(
    x: np.ndarray,
    y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    labels: int,
    draws: int,
    seed: int,
    reference: np.ndarray | None = None,
) -> np.ndarray:
    """(draws,) average precision on the test part of a linear probe with `labels` labels of each class, over draws.

    Args:
        x: (N, D) features. y: (N,) bool, True for the class to be found. test_x, test_y: likewise.
        reference: features whose mean and spread standardise all, see `linear_probe`; None = x.
    """
    from sklearn.metrics import average_precision_score

    known = x if reference is None else reference
    known = known[np.isfinite(known).all(1)]
    found = []
    for draw in few_label_draws(y.astype(np.int64), labels, draws, seed):
        score = log_odds(x[draw], y[draw].astype(np.int64), test_x, reference=known, seed=seed)
        found.append(average_precision_score(test_y, score))
    return np.array(found)


def pair_of(source: Source, positive: str, negative: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (N,) of the samples of two classes that can be read, and which are of the first one.

    Raises:
        EvaluateError: there is no such class, or no sample of it.
    """
    names, labels = source.label_names, source.labels
    if labels is None:
        raise EvaluateError(f"{source.name} has no labels, which this needs; name the column that holds them (--label)")
    names = names or [str(n) for n in range(int(labels.max(initial=-1)) + 1)]
    for name in (positive, negative):
        if name not in names or not (labels == names.index(name)).any():
            raise EvaluateError(
                f"{source.name} has no samples of class {name!r}; there is: {', '.join(names)} (--set positive=..., "
                "--set negative=...)"
            )
    bad = set(source.bad_rows)
    readable = np.array([int(row) not in bad for row in source.rows])
    at = np.flatnonzero(np.isin(labels, [names.index(positive), names.index(negative)]) & readable)
    return at, labels[at] == names.index(positive)
