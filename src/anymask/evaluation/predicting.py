"""Predictions of a fine-tuned classifier."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anymask.data import DataError, Source, infer_schema, ordered_loader
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.features import PRECISIONS
from anymask.evaluation.finetuning import Classifier, load_classifier
from anymask.table import Table


def predict(folder: str | Path, source: object, *, out: str | Path | None = None, batch_size: int = 256) -> Table:
    """Class and probabilities of every sample, images made the size of training. Probabilities are the softmax, not
    calibrated.

    Args:
        folder: of `finetune`.
        source: a Source, or what `open_source` takes; labels are not needed.
        out: a .csv or .parquet file to write the table to.

    Returns:
        A table with the columns id, predicted and `p <class>` for each class. Samples that cannot be read have no row
        and are named in a note; another note has the accuracy, where the source has labels of the same names.

    Raises:
        RunError: no classifier in the folder. SchemaError: the data do not fit it. EvaluateError: another file ending.
    """
    path = None if out is None else Path(out).expanduser()
    if path is not None and path.suffix not in (".csv", ".parquet"):
        raise EvaluateError(f"predictions are written to .csv or .parquet, not to {path.name}")
    classifier, run, names = load_classifier(folder)
    data = run.source(source, labelled=False)
    run.schema.check(infer_schema(data, fewest=1))
    if not isinstance(data, Source):
        raise DataError(f"{data.name} is a stream; open it without streaming=True to predict on it")
    ids, table = (
        data.ids,
        Table(("id", "predicted", *(f"p {name}" for name in names)), title=f"predictions for {data.name}"),
    )
    read: list[int] = []
    best: list[int] = []
    for index, share in _shares(classifier, data, batch_size, "fp32"):
        for i, row in zip(index.tolist(), share.tolist()):
            best.append(int(np.argmax(row)))
            read.append(i)
            table.rows.append((ids[i], names[best[-1]], *row))
    table.notes += _notes(data, names, read, best)
    if path is not None:
        _write(table, path)
    return table


def predicted_classes(
    folder: str | Path, source: Source, *, batch_size: int = 256, precision: str = "fp32"
) -> np.ndarray:
    """(N,) number of the most probable class of each sample; -1 where it cannot be read."""
    classifier = load_classifier(folder)[0]
    found = np.full(len(source), -1)
    for index, share in _shares(classifier, source, batch_size, precision):
        found[index.numpy()] = share.argmax(1).numpy()
    return found


@torch.no_grad()
def _shares(
    classifier: Classifier, source: Source, batch_size: int, precision: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """(sample numbers (B,), probabilities (B, classes)) at the size of training."""
    dtype = PRECISIONS[precision]
    for batch in ordered_loader(source, classifier.schema, batch_size=batch_size, fixed=True):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            logits = classifier(batch)
        yield batch["index"], torch.softmax(logits.float(), 1)


def _notes(data: Source, names: list[str], read: list[int], best: list[int]) -> list[str]:
    notes = []
    if len(read) < len(data):
        lost = [name for name, _ in data.skipped]
        notes.append(f"{len(data) - len(read)} samples could not be read: {', '.join(lost[:5])}")
    theirs = data.label_names or names
    if data.labels is not None and set(theirs) <= set(names):
        truth = [(theirs[data.labels[i]], names[b]) for i, b in zip(read, best) if data.labels[i] >= 0]
        if truth:
            notes.append(
                f"accuracy {100 * np.mean([a == b for a, b in truth]):.1f} % on {len(truth):,} labelled samples"
            )
    elif data.labels is not None:
        notes.append(
            f"accuracy unknown: the labels ({', '.join(theirs[:3])}, ...) are not those of the classifier "
            f"({', '.join(names[:3])}, ...)"
        )
    return notes


def _write(table: Table, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        part.write_text(table.to_csv(), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = list(zip(*table.rows)) or [()] * len(table.columns)
        pq.write_table(pa.table({name: pa.array(column) for name, column in zip(table.columns, columns)}), part)
    os.replace(part, path)
