"""Classes with few labels: linear probe, nearest neighbours and attentive probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anymask.data import Source, few_label_draws
from anymask.evaluation.attentive import attentive_probe, tokens_of
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import Pool
from anymask.evaluation.folds import fold_table
from anymask.evaluation.inputs import (
    Labels,
    classics,
    columns_of,
    duplicates,
    features_of,
    parts_of,
    raw_notes,
    readable,
)
from anymask.evaluation.probe import Scores, knn, linear_probe
from anymask.evaluation.token_classes import token_table
from anymask.run import Run
from anymask.table import Table, interval

FEW = 10_000  # training samples that few-label figures are drawn from and standardised by
DEFAULT_LABELS: tuple[Labels, ...] = (1, 5, 10, "all")
PROBES: dict[str, tuple[str, Callable[..., Scores]]] = {
    "linear": ("linear probe", linear_probe),
    "knn": ("nearest neighbours", knn),
    "attentive": ("attentive probe", attentive_probe),
}


def evaluate(
    run: Run,
    source: Source,
    *,
    labels: Sequence[Labels] | None = None,
    draws: int = 10,
    test: Source | None = None,
    pool: str | Pool = "mean",
    probes: Sequence[str] | str = ("linear", "knn"),
    folds: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    lenient: bool = False,
    progress: bool = False,
) -> Table:
    """Accuracy of frozen features with few labels, in per cent: raw input, untrained encoder and pre-trained encoder.

    Each figure is the mean over `draws` of the labelled samples, with its 95 % interval (Student's t over the draws);
    the draws are the same in every row. Features are standardised by the whole training part, which takes no labels.
    Probes are chosen on labelled training samples only (see `linear_probe`, `knn`).

    Where single tokens have labels (nodes, points, residues) and samples have none, the same of single tokens. Their
    own parts of training, validation and test are used where there are such, C and k then chosen on validation.

    Args:
        source: labelled.
        labels: labels a class, numbers or "all"; what is asked for must be there, or is left out with a note if
            `lenient`. None = 1, 5, 10 and all, as far as there are so many.
        test: what accuracy is measured on; None = the source's own test split, or else a fifth of it, split by group
            where there are groups.
        pool: see `embed`.
        probes: of "linear", "knn" and "attentive" (a sequence, or text with commas). The last reads single tokens,
            which are kept in bfloat16; of raw input the tokenizer's, with their positions.
        folds: instead of all this, cross-validation of a support vector machine in so many folds, see `svm_folds`: the
            custom for small sets of graphs, which have no test part.

    Raises:
        DataError: no labels, one class, or fewer labels than asked for. EvaluateError: no such probe.
    """
    wanted = _probes(probes)
    asked = DEFAULT_LABELS if labels is None else labels
    if source.labels is None and source.token_labels is not None:
        return token_table(
            run, source, labels=asked, lenient=lenient or labels is None, draws=draws, test=test,
            probes={name: PROBES[name] for name in wanted}, seed=seed, batch_size=batch_size,
        )  # fmt: skip
    if folds is not None:
        return fold_table(run, source, folds=folds, pool=pool, seed=seed, batch_size=batch_size, progress=progress)
    train, held, notes = parts_of(run, source, test, seed)
    columns = columns_of(train, asked, notes, lenient or labels is None)
    train = _enough(train, columns, notes, seed)
    notes.append(
        f"encoder features are pooled by {pool if isinstance(pool, str) else getattr(pool, '__name__', pool)!r}"
    )
    notes += duplicates(train, held)
    notes += raw_notes(run.schema)
    rows: list[Sequence[Any]] = []
    tokens = tokens_of(run, train, held, batch_size) if "attentive" in wanted else None
    for name, pooled in features_of(run, train, held, pool, batch_size, progress):
        (x, y), (test_x, test_y) = (readable(f, part) for f, part in zip(pooled, (train, held)))
        draws_of = {n: few_label_draws(y, n, 1 if n == "all" else draws, seed) for n in columns}
        inputs: dict[str, tuple[Any, Any]] = dict.fromkeys(wanted, (x, test_x))
        if tokens is not None and name not in classics(run.schema):
            one, two = (part[~part[:, 0, 0].isnan()] for part in next(tokens))
            inputs["attentive"] = one, two
        for probe in wanted:
            if probe == "attentive" and name in classics(run.schema):
                continue  # they have no tokens
            (title, measure), (x, test_x) = PROBES[probe], inputs[probe]
            figures = []
            for chosen in draws_of.values():
                got = [measure(x[d], y[d], test_x, test_y, reference=x, seed=seed).accuracy for d in chosen]
                figures.append(interval(100 * np.array(got)))
            rows.append((name, title, *figures))
    heads = ["all labels" if n == "all" else f"{n} label{'s' * (n != 1)} a class" for n in columns]
    title = f"accuracy in % on {len(held):,} test samples of {held.name}, {run.recipe.slug}"
    return Table(("features", "probe", *heads), rows, title=title, notes=notes)


def _probes(asked: Sequence[str] | str) -> list[str]:
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    wrong = [name for name in names if name not in PROBES]
    if wrong or not names:
        raise EvaluateError(f"no probe {wrong[0] if wrong else ''!r}; there is: {', '.join(PROBES)}")
    return [name for name in PROBES if name in names]


def _enough(train: Source, columns: Sequence[Labels], notes: list[str], seed: int) -> Source:
    """A random part of a large training part where few labels are asked for, since all of it would be embedded."""
    assert train.labels is not None
    if "all" in columns or len(train) <= FEW:
        return train
    part = np.sort(np.random.default_rng(seed).permutation(len(train))[:FEW])
    found, counts = np.unique(train.labels[part], return_counts=True)
    most = max((n for n in columns if n != "all"), default=0)
    if len(found) < len(np.unique(train.labels)) or counts.min() < most:
        return train
    notes.append(f"labelled samples are drawn from {FEW:,} random ones of {len(train):,}, which also standardise")
    return train.subset(part)
