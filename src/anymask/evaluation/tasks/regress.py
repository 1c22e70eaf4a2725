"""Numbers predicted from frozen features: ridge regression and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anymask.data import DataError, Source
from anymask.evaluation.features import Pool
from anymask.evaluation.inputs import Labels, duplicates, features_of, parts_of, raw_notes, targeted
from anymask.evaluation.regression import Regression, boosting, knn_regression, ridge
from anymask.run import Run
from anymask.table import Table, interval

MOST = 10_000  # of a larger training part, a random part of so many is used
DEFAULT_SAMPLES: tuple[Labels, ...] = (100, 1000, "all")
METHODS: dict[str, Regression] = {"ridge": ridge, "nearest neighbours": knn_regression}
MEASURES = {"R2": ("r2", 3), "RMSE": ("rmse", 4), "MAE": ("mae", 4), "Spearman": ("spearman", 3)}


def evaluate(
    run: Run,
    source: Source,
    *,
    samples: Sequence[Labels] | None = None,
    draws: int = 5,
    test: Source | None = None,
    pool: str | Pool = "mean",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """R2, errors and rank correlation of regressions on frozen features: raw input, untrained and pre-trained encoder.

    Gradient boosting on raw input is there as the classical method. Each figure is the mean over `draws` of the
    training samples, with its 95 % interval (Student's t over the draws); the draws are the same in every row. Features
    are standardised by the whole training part, which takes no targets. Settings are chosen by cross-validation within
    the drawn samples. RMSE and MAE are in the units of the targets.

    Args:
        source: with `targets`; samples without one are left out.
        samples: training samples with a target, numbers or "all" (one draw). None = 100, 1000 and all, as far as there
            are so many.
        test: what is measured on; None = the source's own test split, or else a fifth of it, split by group where there
            are groups.
        pool: see `embed`.

    Raises:
        DataError: no targets, equal targets, or fewer than asked for.
    """
    train, held, notes = parts_of(run, source, test, seed, usable=targeted)
    if len(train) > MOST:
        notes.append(f"training samples are drawn from {MOST:,} random ones of {len(train):,}")
        train = train.subset(np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST]))
    sizes = _sizes(len(train), samples, notes)
    notes.append(
        f"encoder features are pooled by {pool if isinstance(pool, str) else getattr(pool, '__name__', pool)!r}"
    )
    notes += duplicates(train, held) + raw_notes(run.schema)
    rows: list[Sequence[Any]] = []
    for name, features in features_of(run, train, held, pool, batch_size, progress):
        (x, y), (test_x, test_y) = (_readable(f, part) for f, part in zip(features, (train, held)))
        methods = {**METHODS, "gradient boosting": boosting} if name == "raw input" else METHODS
        for method, measure in methods.items():
            for n in sizes:
                found = [measure(x[d], y[d], test_x, test_y, reference=x, seed=seed) for d in _draws(y, n, draws, seed)]
                cells = (interval(np.array([getattr(f, m) for f in found]), digits) for m, digits in MEASURES.values())
                rows.append((name, method, f"{n:,}" if n != "all" else "all", *cells))
    title = f"regression on {len(held):,} test samples of {held.name}, {run.recipe.slug}"
    return Table(("features", "method", "training samples", *MEASURES), rows, title=title, notes=notes)


def _sizes(count: int, asked: Sequence[Labels] | None, notes: list[str]) -> list[Labels]:
    """The numbers of training samples that there are enough of."""
    sizes: list[Labels] = []
    for n in DEFAULT_SAMPLES if asked is None else asked:
        if n != "all" and n > count:
            text = f"there are {count:,} training samples with a target, fewer than {n:,}"
            if asked is not None:
                raise DataError(f'{text}; ask for {count:,} or fewer, or "all"')
            notes.append(f"{text}, which is left out")
            continue
        if n != "all" and n < 5:
            raise DataError(f"{n} training samples are too few to choose settings; ask for 5 or more")
        sizes.append(n)
    return sizes


def _draws(y: np.ndarray, n: Labels, draws: int, seed: int) -> list[np.ndarray]:
    if n == "all":
        return [np.arange(len(y))]
    return [np.sort(np.random.default_rng([seed, draw]).permutation(len(y))[:n]) for draw in range(draws)]


def _readable(features: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Features and targets of the samples that could be read."""
    assert source.targets is not None
    features = features.reshape(len(features), -1)
    there = ~np.isnan(features).all(1)
    return features[there], source.targets[there]
