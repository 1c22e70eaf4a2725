"""Small sets without a test part: cross-validation of a support vector machine, as is the custom for sets of graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anymask.data import DataError, Source
from anymask.evaluation.features import Pool, embed
from anymask.evaluation.inputs import labelled, raw_input, raw_notes, readable
from anymask.run import Run
from anymask.table import Table, interval

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C


def svm_folds(
    x: np.ndarray, y: np.ndarray, *, folds: int = 10, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) whether a sample is told right by a machine that was trained on the other folds, and (N,) its fold.

    A Gaussian kernel, C chosen in 5 folds of the training part; folds are stratified (GraphMAE, arXiv:2205.10803,
    section 4.2, and the authors' code). Of `groups` (N,), none is in two folds, nor in two of those that C is chosen
    in.

    Raises:
        DataError: a class has fewer samples, or groups, than there are folds.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
    from sklearn.svm import SVC

    unit = np.arange(len(y)) if groups is None else groups
    least = min(len(np.unique(unit[y == c])) for c in np.unique(y))
    if not 2 <= folds <= least:
        what = "samples" if groups is None else "groups"
        raise DataError(f"the smallest class has {least} {what}, which do not fill {folds} folds; give 2 to {least}")
    right, fold = np.zeros(len(y), dtype=bool), np.zeros(len(y), dtype=int)
    split = StratifiedKFold if groups is None else StratifiedGroupKFold
    for n, (train, test) in enumerate(split(folds, shuffle=True, random_state=seed).split(x, y, groups)):
        inner = None if groups is None else _inner(y[train], groups[train], seed)
        search = GridSearchCV(SVC(random_state=seed), {"C": STRENGTHS}, cv=inner)
        search.fit(x[train], y[train], groups=None if groups is None else groups[train])
        right[test], fold[test] = search.predict(x[test]) == y[test], n
    return right, fold


def _inner(y: np.ndarray, groups: np.ndarray, seed: int) -> Any:
    """5 folds of a training part by group, or as many as its smallest class has groups."""
    from sklearn.model_selection import StratifiedGroupKFold

    least = min(len(np.unique(groups[y == c])) for c in np.unique(y))
    if least < 2:
        raise DataError("a training part holds one group only of some class, so nothing can be chosen on it; give more "
                        "folds, or data of more groups")
    return StratifiedGroupKFold(min(5, least), shuffle=True, random_state=seed)


def fold_table(
    run: Run, source: Source, *, folds: int, pool: str | Pool, seed: int, batch_size: int, progress: bool
) -> Table:
    """Accuracy in per cent of raw input, untrained and pre-trained encoder; arguments as those of the task classify."""
    data = labelled(source)
    precision = run.settings.get("precision", "fp32")
    options = dict(pool=pool, batch_size=batch_size, precision=precision, progress=progress)
    encoded: Callable[[bool], np.ndarray] = lambda trained: np.asarray(
        embed(run, data, trained=trained, **options)  # type: ignore[arg-type]
    )
    rows: list[Sequence[Any]] = []
    for name, x in (
        ("raw input", raw_input(data, run.schema, batch_size=batch_size)),
        ("untrained encoder", encoded(False)),
        ("pre-trained encoder", encoded(True)),
    ):
        right, fold = svm_folds(*readable(x, data), folds=folds, seed=seed)
        rows.append((name, "SVM", interval(100 * np.array([right[fold == n].mean() for n in range(folds)]))))
    called = pool if isinstance(pool, str) else getattr(pool, "__name__", str(pool))
    notes = [f"encoder features are pooled by {called!r}", *raw_notes(run.schema),
             "the interval is over folds; pre-training has seen all samples, without their labels"]  # fmt: skip
    title = f"accuracy in % over {folds} folds of {len(data):,} samples of {data.name}, {run.recipe.slug}"
    return Table(("features", "probe", f"{folds} folds"), rows, title=title, notes=notes)
