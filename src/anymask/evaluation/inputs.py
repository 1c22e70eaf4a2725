"""What every evaluation begins with: labelled parts of a source, raw input, features of three kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from anymask.data import (
    DataError,
    Schema,
    Source,
    duplicates_across,
    ordered_loader,
    split_source,
)
from anymask.data.kind import kind_of
from anymask.evaluation.features import Pool, embed
from anymask.run import Run

RAW = 4096  # values of raw input; larger images are averaged down to fewer
Labels = int | Literal["all"]
CHECKED = 20_000  # duplicates are looked for in sets of at most so many samples


def raw_input(source: Source, schema: Schema, *, batch_size: int = 256) -> np.ndarray:
    """(N, D) flattened input: images in raw units, made the size of training and averaged over squares where that is
    more than 4,096 values; cells of tables standardised, missing ones at the mean and indicated. The row of a sample
    that cannot be read is NaN."""
    limit = RAW // len(schema.fields)
    schema = replace(schema, fields={name: kind_of(f.kind).uncut(f) for name, f in schema.fields.items()})
    flat = lambda batch: [
        kind_of(field.kind).flat(batch[name], field, limit) for name, field in schema.fields.items()
    ]
    return _gathered(source, schema, batch_size, lambda batch: {"": torch.cat(flat(batch), 1)})[""]


def classical_input(source: Source, schema: Schema, *, batch_size: int = 256) -> dict[str, np.ndarray]:
    """(N, D) of each of the classical features that the kinds of the data have, by name; as `raw_input`."""
    if not classics(schema):
        return {}
    found = lambda batch: {
        name: x
        for part, field in schema.fields.items()
        for name, x in kind_of(field.kind).classical(batch[part], field).items()
    }
    return _gathered(source, schema, batch_size, found)


def classics(schema: Schema) -> list[str]:
    """Names of the classical features that the kinds of the data have."""
    return [name for field in schema.fields.values() for name in kind_of(field.kind).classics]


def _gathered(
    source: Source, schema: Schema, batch_size: int, features: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, np.ndarray]:
    """Features of every sample by name, of batches at the size of training; NaN where one cannot be read."""
    out: dict[str, np.ndarray] = {}
    for batch in ordered_loader(source, schema, batch_size=batch_size, fixed=True):
        for name, x in features(batch).items():
            kept = out.setdefault(name, np.full((len(source), x.shape[1]), np.nan, dtype=np.float32))
            kept[batch["index"].numpy()] = x.numpy()
    if not out:
        raise DataError(f"no sample of {source.name} could be read")
    return out


def raw_notes(schema: Schema) -> list[str]:
    """What raw input is, where it is not the samples as they are."""
    told = (kind_of(field.kind).flattened(field, RAW // len(schema.fields)) for field in schema.fields.values())
    return [f"raw input is {text}" for text in dict.fromkeys(told) if text]


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


def targeted(source: Source) -> Source:
    """The samples of a source that have a number to predict and can be read.

    Raises:
        DataError: there are no targets, or all are equal.
    """
    targets = source.targets
    if targets is None or not np.isfinite(targets).any():
        raise DataError(
            f"{source.name} has no numbers to predict, which this needs: name the column that holds them (--label, "
            "label=), or give them beside an array"
        )
    bad = set(source.bad_rows)
    keep = [i for i, (row, y) in enumerate(zip(source.rows, targets)) if np.isfinite(y) and int(row) not in bad]
    if len(np.unique(targets[keep])) < 2:
        raise DataError(
            f"all targets of {source.name} are equal, which leaves nothing to predict; name another column (--label, "
            "label=)"
        )
    return source if len(keep) == len(source) else source.subset(keep)


def parts_of(
    run: Run, source: Source, test: Source | None, seed: int, *, usable: Callable[[Source], Source] = labelled
) -> tuple[Source, Source, list[str]]:
    """Training part, test part and notes; `usable` leaves out samples without a label (or `targeted`: a target)."""
    if test is not None:
        train, held, how = source, test, "the test part is the one given"
    elif "test" in source.splits:
        train, held, how = source, source.split("test"), "the test part is the data's own test split"
    else:
        train, held = split_source(usable(source), seed=seed, stratify=usable is labelled)
        how = f"the test part is a fifth of the data, split{' by group' * (source.groups is not None)} with seed {seed}"
    notes = [how]
    if held.fingerprint() == run.schema.fingerprint or (
        train is not source and source.fingerprint() == run.schema.fingerprint
    ):
        notes.append("the run was pre-trained on the test part as well, without its labels")
    train, held = usable(train), usable(held)
    if train.label_names and held.label_names and train.label_names != held.label_names:
        raise DataError(
            f"{held.name} has other classes ({', '.join(held.label_names[:5])}) than {train.name} "
            f"({', '.join(train.label_names[:5])}); give a test part with the same classes"
        )
    return train, held, notes


def features_of(
    run: Run, train: Source, held: Source, pool: str | Pool, batch_size: int, progress: bool
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(row name, features of both parts)."""
    yield "raw input", [raw_input(part, run.schema, batch_size=batch_size) for part in (train, held)]
    both = [classical_input(part, run.schema, batch_size=batch_size) for part in (train, held)]
    yield from ((name, [part[name] for part in both]) for name in both[0])
    for name, trained in (("untrained encoder", False), ("pre-trained encoder", True)):
        precision = run.settings.get("precision", "fp32")  # that of the training: the features it was made for
        options = dict(pool=pool, trained=trained, batch_size=batch_size, precision=precision, progress=progress)
        yield name, [np.asarray(embed(run, part, **options)) for part in (train, held)]  # type: ignore[arg-type]


def columns_of(train: Source, asked: Sequence[Labels], notes: list[str], lenient: bool) -> list[Labels]:
    """The numbers of labels a class that there are enough of; the others are noted if `lenient`.

    Raises:
        DataError: there are too few, and not `lenient`.
    """
    assert train.labels is not None
    return enough_labels(train.labels, train.label_names, asked, notes, lenient, "samples")


def enough_labels(
    labels: np.ndarray, names: Sequence[str] | None, asked: Sequence[Labels], notes: list[str], lenient: bool, unit: str
) -> list[Labels]:
    """As `columns_of`, of the labels (N,) of `unit`, such as "samples"."""
    classes, counts = np.unique(labels, return_counts=True)
    least = int(counts.min())
    columns: list[Labels] = []
    for n in asked:
        if n == "all" or n <= least:
            columns.append(n)
            continue
        name = names[classes[counts.argmin()]] if names else str(classes[counts.argmin()])
        text = f"class {name!r} has {least} labelled training {unit}, fewer than {n} labels a class"
        if not lenient:
            raise DataError(f'{text}; ask for {least} or fewer, or "all"')
        notes.append(f"{text}, which is left out")
    return columns


def readable(features: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the samples that could be read."""
    assert source.labels is not None
    features = features.reshape(len(features), -1)
    there = ~np.isnan(features[:, 0])
    return features[there], source.labels[there]


def duplicates(train: Source, held: Source) -> list[str]:
    if max(len(train), len(held)) > CHECKED:
        return [f"duplicates between training and test part were not looked for (more than {CHECKED:,} samples)"]
    twice = len({j for _, j in duplicates_across(train, held)})
    return [f"{twice} of {len(held):,} test samples are in the training part as well"] if twice else []
