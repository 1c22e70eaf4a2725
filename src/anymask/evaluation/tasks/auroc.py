"""A yes/no outcome predicted from frozen features: area under the ROC curve, by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anymask.data import DataError, Source
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import Pool
from anymask.evaluation.inputs import features_of, labelled, raw_notes, readable
from anymask.run import Run
from anymask.table import Table, interval

STRENGTHS = tuple(np.logspace(-4, 1, 11))  # C of the logistic regression
Method = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]  # train x, train y, test x, seed -> scores


def evaluate(
    run: Run,
    source: Source,
    *,
    folds: int = 5,
    test: Source | None = None,
    pool: str | Pool = "mean",
    positive: str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """AUROC and average precision, in per cent, of logistic regression on frozen features and on raw input, and of
    gradient boosting on raw input.

    Each sample is scored once, by what was fitted on the other folds; a figure is the mean over folds, with its 95 %
    interval (Student's t). Settings are chosen within the training folds, by AUROC: C of the logistic regression by
    inner folds, the number of trees by a tenth held back. The last rows have features beside the raw input.

    Args:
        source: with labels of two classes.
        folds: stratified by the outcome; samples of one group, where there are groups, are in one fold.
        test: not taken: all figures are by cross-validation.
        pool: see `embed`.
        positive: name of the class that counts as yes; None = the rarer one.

    Raises:
        DataError: no labels, or classes that are too small. EvaluateError: other than two classes, a test part.
    """
    if test is not None:
        raise EvaluateError("auroc is by cross-validation over one source; leave test= (--test) out")
    data = labelled(source)
    y, yes = _outcome(data, positive)
    if folds < 2 or np.bincount(y).min() < folds:
        raise DataError(f"{data.name} has {np.bincount(y).min()} samples of its smaller class, too few for {folds} "
                        "folds; give fewer folds, or more data")  # fmt: skip
    parts = _folds(y, data.groups, folds, seed)
    notes = [f"yes is {yes!r}: {y.sum():,} of {len(y):,} samples"]
    if run.schema.fingerprint == source.fingerprint():
        notes.append("the run was pre-trained on the samples that are scored, without their outcomes")
    notes += raw_notes(run.schema)
    rows: list[Sequence[Any]] = []
    raw: np.ndarray | None = None
    for name, (features, _) in features_of(run, data, data.subset(np.arange(2)), pool, batch_size, progress):
        x, _ = readable(features, data)
        if len(x) < len(data):
            raise DataError(f"{len(data) - len(x):,} samples of {data.name} cannot be read; remove them first")
        methods: dict[str, Method] = {"logistic regression": logistic}
        if raw is None:
            raw, methods = x, {**methods, "gradient boosting": boosting}
        rows += [(name, what, *_figures(method, x, y, parts, seed)) for what, method in methods.items()]
        if name == "pre-trained encoder":
            both = np.concatenate([raw, x], 1)
            title = "raw input and pre-trained encoder"
            for what, method in {"logistic regression": logistic, "gradient boosting": boosting}.items():
                rows.append((title, what, *_figures(method, both, y, parts, seed)))
    title = f"outcome of {len(y):,} samples of {data.name} in {folds} folds, {run.recipe.slug}"
    return Table(("features", "method", "AUROC", "average precision"), rows, title=title, notes=notes)


def _outcome(data: Source, positive: str | None) -> tuple[np.ndarray, str]:
    """(N,) 0 or 1, and what 1 is."""
    assert data.labels is not None
    found, counts = np.unique(data.labels, return_counts=True)
    if len(found) != 2:
        raise EvaluateError(f"{data.name} has {len(found)} classes, and an outcome is of two; use the task classify")
    names = [data.label_names[c] if data.label_names else str(c) for c in found]
    if positive is not None and positive not in names:
        raise EvaluateError(f"no class is called {positive!r}; there are {' and '.join(names)}")
    place = names.index(positive) if positive is not None else int(counts.argmin())
    return (data.labels == found[place]).astype(np.int64), names[place]


def _folds(y: np.ndarray, groups: np.ndarray | None, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    make = StratifiedKFold if groups is None else StratifiedGroupKFold
    return list(make(folds, shuffle=True, random_state=seed).split(np.zeros((len(y), 1)), y, groups))


def _figures(method: Method, x: np.ndarray, y: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]], seed: int
             ) -> list[Any]:  # fmt: skip
    from sklearn.metrics import average_precision_score, roc_auc_score

    areas, precisions = [], []
    for learn, judge in parts:
        scores = method(x[learn], y[learn], x[judge], seed)
        areas.append(100 * roc_auc_score(y[judge], scores))
        precisions.append(100 * average_precision_score(y[judge], scores))
    return [interval(np.array(areas)), interval(np.array(precisions))]


def logistic(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores of logistic regression on standardised features, C by AUROC in 3 inner folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x)
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": STRENGTHS}, cv=inner, scoring="roc_auc")
    return search.fit(scaler.transform(x), y).decision_function(scaler.transform(test))


def boosting(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Scores of gradient boosting over histograms, up to 300 trees, stopped by a tenth that is held back."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=300, max_leaf_nodes=15, l2_regularization=1.0, early_stopping=True,
        scoring="roc_auc", n_iter_no_change=20, random_state=seed,
    )  # fmt: skip
    return model.fit(x, y).decision_function(test)
