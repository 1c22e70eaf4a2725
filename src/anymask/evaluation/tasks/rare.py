"""A rare class against another one, with few labels: average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anymask.data import Source
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import Pool
from anymask.evaluation.inputs import features_of, parts_of, raw_notes
from anymask.evaluation.rare import few_label_precision, pair_of
from anymask.run import Run
from anymask.table import Table, interval


def evaluate(
    run: Run,
    source: Source,
    *,
    positive: str | None = None,
    negative: str | None = None,
    labels: int = 10,
    draws: int = 20,
    test: Source | None = None,
    pool: str | Pool = "mean",
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """Average precision of finding the samples of a rare class among those of another one, in per cent: raw input,
    untrained encoder and pre-trained encoder.

    A linear probe is trained with `labels` labels of each of the two classes; each figure is the mean over `draws` of
    them, with its 95 % interval (Student's t over the draws). The draws are the same in every row. Features are
    standardised by the whole training part, which takes no labels.

    Args:
        source: labelled.
        positive, negative: names of the classes; None = of the two most frequent ones the rarer, and the other.
        test: what is measured on; None = the source's own test split, or a fifth of it, split by group where there are
            groups.
        pool: see `embed`.

    Raises:
        EvaluateError: no such class, or fewer labels than asked for.
    """
    train, held, notes = parts_of(run, source, test, seed)
    first, second = _classes(train, positive, negative)
    (at, y), (test_at, test_y) = (pair_of(part, first, second) for part in (train, held))
    least = int(min(y.sum(), (~y).sum()))
    if least < labels:
        raise EvaluateError(
            f"the training part has {least} labels of one of the classes {first!r} and {second!r}, fewer than "
            f"{labels}; ask for {least} or fewer (--set labels=...), or give the training part more (--parts)"
        )
    notes.append(
        f"{int(test_y.sum())} of {len(test_y):,} test samples are {first!r}: by chance, precision is "
        f"{100 * test_y.mean():.1f} %"
    )
    notes += raw_notes(run.schema)
    rows: list[Sequence[Any]] = []
    for name, (x, test_x) in features_of(run, train, held, pool, batch_size, progress):
        x, test_x = x.reshape(len(x), -1), test_x.reshape(len(test_x), -1)
        found = few_label_precision(
            x[at], y, test_x[test_at], test_y, labels=labels, draws=draws, seed=seed, reference=x
        )
        rows.append((name, interval(100 * found)))
    title = f"average precision in % of {first!r} against {second!r} on {held.name}, {run.recipe.slug}"
    return Table(("features", f"{labels} labels a class"), rows, title=title, notes=notes)


def _classes(train: Source, positive: str | None, negative: str | None) -> tuple[str, str]:
    """Names of the class to be found and of the other one."""
    assert train.labels is not None
    counts = np.bincount(train.labels)
    names = train.label_names or [str(n) for n in range(len(counts))]
    common = [names[n] for n in np.argsort(-counts, kind="stable")]
    if positive is None:
        positive = next(name for name in common[1::-1] if name != negative)
    if negative is None:
        negative = next(name for name in common if name != positive)
    return positive, negative
