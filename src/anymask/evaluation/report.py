"""`evaluate`: what the features of a run are worth, beside those of raw input and of the untrained encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from anymask.data import (
    DataError,
    Schema,
    Source,
    duplicates_across,
    few_label_draws,
    infer_schema,
    open_source,
    ordered_loader,
    split_source,
)
from anymask.evaluation.features import Pool, embed
from anymask.evaluation.probe import Scores, knn, linear_probe
from anymask.run import Run
from anymask.table import Figure, Table

RAW = 4096  # values of raw input; larger images are averaged down to fewer
FEW = 10_000  # training samples that few-label figures are drawn from and standardised by
CHECKED = 20_000  # duplicates are looked for in sets of at most so many samples
Labels = int | Literal["all"]
DEFAULT_LABELS: tuple[Labels, ...] = (1, 5, 10, "all")
PROBES: dict[str, Callable[..., Scores]] = {"linear probe": linear_probe, "nearest neighbours": knn}


def evaluate(
    run: Run | str | Path,
    source: object,
    *,
    labels: Sequence[Labels] | None = None,
    draws: int = 10,
    test: object | None = None,
    pool: str | Pool = "mean",
    seed: int = 0,
    batch_size: int = 256,
    lenient: bool = False,
    progress: bool = False,
) -> Table:
    """Accuracy of frozen features with few labels, in per cent: raw input, untrained encoder and pre-trained encoder.

    Each figure is the mean over `draws` of the labelled samples, with its 95 % interval (Student's t over the draws);
    the draws are the same in every row. Features are standardised by the whole training part, which takes no labels.
    Probes are chosen on labelled training samples only (see `linear_probe`, `knn`).

    Args:
        run: a Run or its folder.
        source: a labelled Source, or what `open_source` takes.
        labels: labels a class, numbers or "all"; what is asked for must be there, or is left out with a note if
            `lenient`. None = 1, 5, 10 and all, as far as there are so many.
        test: what accuracy is measured on; None = the source's own test split, or else a fifth of it, split by group
            where there are groups.
        pool: see `embed`.

    Raises:
        DataError: no labels, one class, or fewer labels than asked for.
        SchemaError: the data do not fit the model.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    train, held, notes = _parts(run, source, test, seed)
    run.schema.check(infer_schema(train))
    columns = _columns(train, DEFAULT_LABELS if labels is None else labels, notes, lenient or labels is None)
    train = _enough(train, columns, notes, seed)
    notes.append(
        f"encoder features are pooled by {pool if isinstance(pool, str) else getattr(pool, '__name__', pool)!r}"
    )
    notes += _duplicates(train, held)
    if _pooling(run.schema) > 1:
        notes.append(f"raw input is averaged over squares of {_pooling(run.schema)} pixels")
    rows: list[Sequence[Any]] = []
    for name, features in _features(run, train, held, pool, batch_size, progress):
        (x, y), (test_x, test_y) = (_readable(f, part) for f, part in zip(features, (train, held)))
        for probe, measure in PROBES.items():
            figures = []
            for n in columns:
                chosen = few_label_draws(y, n, 1 if n == "all" else draws, seed)
                got = [measure(x[d], y[d], test_x, test_y, reference=x, seed=seed).accuracy for d in chosen]
                figures.append(interval(100 * np.array(got)))
            rows.append((name, probe, *figures))
    heads = ["all labels" if n == "all" else f"{n} label{'s' * (n != 1)} a class" for n in columns]
    title = f"accuracy in % on {len(held):,} test samples of {held.name}, {run.recipe.slug}"
    return Table(("features", "probe", *heads), rows, title=title, notes=notes)


def interval(values: np.ndarray) -> Figure:
    """The mean, and its 95 % interval by Student's t where there are two values or more."""
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Figure(mean)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Figure(mean, mean - half, mean + half)


def raw_input(source: Source, schema: Schema, *, batch_size: int = 256) -> np.ndarray:
    """(N, D) flattened input in raw units: all images made the size of training, and averaged over squares where that
    is more than 4,096 values. The row of a sample that cannot be read is NaN."""
    out: np.ndarray | None = None
    height, width = next(iter(schema.fields.values())).shape[-2:]
    side = _pooling(schema)
    for batch in ordered_loader(source, schema, batch_size=batch_size, size=(height, width)):
        x = torch.cat([_averaged(batch[name].float(), side).flatten(1) for name in schema.fields], 1).numpy()
        out = np.full((len(source), x.shape[1]), np.nan, dtype=np.float32) if out is None else out
        out[batch["index"].numpy()] = x
    if out is None:
        raise DataError(f"no sample of {source.name} could be read")
    return out


def labelled(source: Source) -> Source:
    """The samples of a source that have a label and can be read.

    Raises:
        DataError: there are no labels, or of one class only.
    """
    if source.labels is None or not (source.labels >= 0).any():
        raise DataError(
            f"{source.name} has no labels, which this needs: put images into class folders, add a metadata.csv "
            "with a column label, or name the label column (--label, label=)"
        )
    bad = set(source.bad_rows)
    keep = [i for i, (row, y) in enumerate(zip(source.rows, source.labels)) if y >= 0 and int(row) not in bad]
    found = np.unique(source.labels[keep])
    if len(found) < 2:
        raise DataError(
            f"all labelled samples of {source.name} are of one class, which leaves nothing to tell apart; give "
            "data of two classes or more, or another label column (--label, label=)"
        )
    return source if len(keep) == len(source) else source.subset(keep)


def _parts(run: Run, source: object, test: object | None, seed: int) -> tuple[Source, Source, list[str]]:
    """Training part, test part and notes."""
    given = _open(source)
    if test is not None:
        train, held, how = given, _open(test), "the test part is the one given"
    elif "test" in given.splits:
        train, held, how = given, given.split("test"), "the test part is the data's own test split"
    else:
        train, held = split_source(labelled(given), seed=seed)
        how = f"the test part is a fifth of the data, split{' by group' * (given.groups is not None)} with seed {seed}"
    notes = [how]
    if held.fingerprint() == run.schema.fingerprint or (
        train is not given and given.fingerprint() == run.schema.fingerprint
    ):
        notes.append("the run was pre-trained on the test part as well, without its labels")
    train, held = labelled(train), labelled(held)
    if train.label_names and held.label_names and train.label_names != held.label_names:
        raise DataError(
            f"{held.name} has other classes ({', '.join(held.label_names[:5])}) than {train.name} "
            f"({', '.join(train.label_names[:5])}); give a test part with the same classes"
        )
    return train, held, notes


def _open(source: object) -> Source:
    opened = open_source(source)
    if not isinstance(opened, Source):
        raise DataError(
            f"{opened.name} is a stream, whose labels are known by reading only; open it without streaming=True"
        )
    return opened


def _columns(train: Source, asked: Sequence[Labels], notes: list[str], lenient: bool) -> list[Labels]:
    """The numbers of labels a class that there are enough of."""
    assert train.labels is not None
    classes, counts = np.unique(train.labels, return_counts=True)
    least = int(counts.min())
    columns: list[Labels] = []
    for n in asked:
        if n == "all" or n <= least:
            columns.append(n)
            continue
        name = train.label_names[classes[counts.argmin()]] if train.label_names else str(classes[counts.argmin()])
        text = f"class {name!r} has {least} labelled training samples, fewer than {n} labels a class"
        if not lenient:
            raise DataError(f'{text}; ask for {least} or fewer, or "all"')
        notes.append(f"{text}, which is left out")
    return columns


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


def _features(
    run: Run, train: Source, held: Source, pool: str | Pool, batch_size: int, progress: bool
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(row name, features of both parts)."""
    yield "raw input", [raw_input(part, run.schema, batch_size=batch_size) for part in (train, held)]
    for name, trained in (("untrained encoder", False), ("pre-trained encoder", True)):
        precision = run.settings.get("precision", "fp32")  # that of the training: the features it was made for
        options = dict(pool=pool, trained=trained, batch_size=batch_size, precision=precision, progress=progress)
        yield name, [np.asarray(embed(run, part, **options)) for part in (train, held)]  # type: ignore[arg-type]


def _readable(features: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the samples that could be read."""
    assert source.labels is not None
    features = features.reshape(len(features), -1)
    there = ~np.isnan(features[:, 0])
    return features[there], source.labels[there]


def _duplicates(train: Source, held: Source) -> list[str]:
    if max(len(train), len(held)) > CHECKED:
        return [f"duplicates between training and test part were not looked for (more than {CHECKED:,} samples)"]
    twice = len({j for _, j in duplicates_across(train, held)})
    return [f"{twice} of {len(held):,} test samples are in the training part as well"] if twice else []


def _pooling(schema: Schema) -> int:
    """Side of the squares that raw images are averaged over."""
    values = sum(int(np.prod(f.shape)) for f in schema.fields.values())
    return max(1, int(np.ceil(np.sqrt(values / RAW))))


def _averaged(images: Tensor, side: int) -> Tensor:
    return images if side == 1 else torch.nn.functional.avg_pool2d(images, side, ceil_mode=True)
