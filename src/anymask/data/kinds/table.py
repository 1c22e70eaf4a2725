"""Tables: a row is a sample, (F,) float32 with NaN for a missing cell."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..collate import tensor
from ..columns import ArrayColumn, Blobs, Column
from ..errors import DataError, SchemaError, some
from ..kind import Kind, Meter, Settled, Value
from ..options import Options
from ..schema import Field
from ..source import Source, canonical_split
from . import _cells

FILES = (".csv", ".tsv", ".parquet")
SPLIT_FILES = ("train", "training", "test", "testing", "validation", "valid", "val", "dev")
EXAMPLE = 9  # columns of the made-up table


class TableColumn(ArrayColumn):
    """Rows of one array (N, F); `names` are those of its columns. In memory, cells are kept in double precision."""

    def __init__(self, array: np.ndarray, names: Sequence[str], *, mapped: bool = False,
                 reopen: Callable[[], np.ndarray] | None = None) -> None:
        super().__init__(KIND, array, dtype="float32", convert=_single, mapped=mapped, reopen=reopen)
        self.names = tuple(names)


def _numbered(names: Sequence[str]) -> bool:
    """Whether these are the names of the columns of an array, so that a further one may be any."""
    return tuple(names) == tuple(_array_names(len(names)))


def _array_names(count: int) -> list[str]:
    return [f"column {n}" for n in range(count)]


def cells_of(source: Source) -> np.ndarray:
    """(N, F) float64 of a source that is one table."""
    (column,) = source.columns.values()
    assert isinstance(column, TableColumn)
    return np.asarray(column.array)[source.rows].astype(np.float64)


def with_cells(source: Source, cells: np.ndarray, names: Sequence[str] | None = None) -> Source:
    """The same rows with other cells (N, F); `names` are those of their columns, None = as before."""
    ((part, column),) = source.columns.items()
    if names is None:
        assert isinstance(column, TableColumn)
        names = column.names
    return Source(name=source.name, columns={part: TableColumn(cells, names)}, ids=source.ids,
                  labels=source.labels, label_names=source.label_names, groups=source.groups, targets=source.targets)


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


class TableKind(Kind):
    name = "table"
    endings: frozenset[str] = frozenset()  # a file holds many samples
    asked_last = True  # a file of rows may be of another kind
    recipe = "remasker"
    samples_seen, most_epochs = 1_000_000, 600  # ReMasker: 600 epochs of a few thousand rows

    def open(self, spec: Any, options: Options) -> Source | None:
        if isinstance(spec, tuple) and len(spec) == 2 and _frame(spec[0]):
            spec, options = spec[0], replace(options, label=spec[1])
        if _frame(spec):
            return _from_columns(_framed(spec, options), options, "table", partial(self.open, spec), _ids(spec))
        if not isinstance(spec, (str, os.PathLike)):
            return None
        path = Path(spec).expanduser()
        if path.is_dir():
            return _open_folder(path, options)
        if path.suffix.lower() not in FILES or not os.access(path, os.R_OK):
            return None
        columns = _read(path, options)
        return None if columns is None else _from_columns(columns, options, path.name, partial(self.open, path))

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError("a table is one file or array with all rows, not a file for each")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if array.ndim != 2 or array.dtype.kind not in "biuf":
            return None
        if array.shape[1] < 2:
            raise DataError(f"{name} has {array.shape[1]} column; a cell is predicted from the others of its row, so "
                            "give a table with two or more")
        names = _array_names(array.shape[1])
        if isinstance(array, np.memmap):
            file = array.filename
            return TableColumn(array, names, mapped=True,
                               reopen=partial(np.load, file, mmap_mode="r", allow_pickle=False) if file else None)
        array = array.astype(np.float64)
        for n, column in enumerate(names):
            _cells._finite(_cells.Raw(name=column, numbers=array[:, n]), name)
        return TableColumn(array, names)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        ok = isinstance(example, (torch.Tensor, np.ndarray)) and example.ndim == 1 and len(example) > 1
        return _row if ok else None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None:
            raise DataError(f"'{name}' is a table, whose rows have no size; leave size= (--image-size) out")
        return TableMeter(name, getattr(column, "names", ()))

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        if np.isinf(batch).any():
            row, column = np.argwhere(np.isinf(batch))[0]
            raise DataError(f"row {names(int(row))} holds an infinite number in column {int(column)}; make it NaN, "
                            "which is missing, or leave the row out")

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        if value.shape != field.shape:
            raise DataError(f"a row of '{field.name}' has {len(value)} cells, the table has {field.shape[0]} columns")
        return value if augment is None or rng is None else augment(value, rng, field.shape)

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return self.fit(value, field, None, None)

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        return tensor(np.stack(values)), None

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def align(self, column: Column, field: Field) -> Column:
        names = getattr(column, "names", ())
        if not isinstance(column, TableColumn) or names == field.columns or not set(names) >= set(field.columns):
            return column  # where columns lack, `compare` has said so
        order = [names.index(name) for name in field.columns]
        return TableColumn(np.asarray(column.array)[:, order], field.columns)

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        ours, theirs = set(trained.columns), set(given.columns)
        quoted = lambda names: some([f"'{name}'" for name in names], 6)
        lacking = [name for name in trained.columns if name not in theirs]
        if lacking:
            raise SchemaError(f"'{given.name}' lacks {len(lacking)} of the {len(ours)} columns that the model was "
                              f"trained on ({trained_on}): {quoted(lacking)} (columns of {given_by}: "
                              f"{quoted(given.columns)}); "
                              f"rename columns, or add them with empty cells, which count as missing")
        extra = [name for name in given.columns if name not in ours]
        if extra and _numbered(given.columns):
            raise SchemaError(f"'{given.name}' has {len(given.columns)} columns in {given_by}, the model was trained "
                              f"with {len(ours)} ({trained_on}); give an array of these, or a table with their names")
        if extra:
            return [f"columns of {given_by} that the model was not trained with are not used: {quoted(extra)}"]
        if trained.columns != given.columns:
            return [f"the columns of {given_by} are in another order than in training; they are matched by name"]
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        gaps = np.array(field.gaps)
        missing = "none" if not gaps.any() else f"{gaps.mean():.1%} of the cells, in {int((gaps > 0).sum())} columns"
        rows = [(field.name, f"{field.shape[0]} columns of numbers; missing: {missing}")]
        each = zip(field.columns, field.mean, field.std, field.lows, field.highs, field.gaps)
        for name, mean, std, low, high, gap in list(each)[:MOST_DESCRIBED]:
            text = f"{low:.4g} to {high:.4g}, mean {mean:.4g}, std {std:.4g}"
            rows.append((f"  {name}", text + (f", {gap:.1%} missing" if gap else "")))
        more = field.shape[0] - MOST_DESCRIBED
        return rows + [("  ...", f"and {more:,} more columns")] * (more > 0)

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        there = torch.isfinite(values)
        x = (values.double() - torch.tensor(field.mean).double()) / torch.tensor(field.std).double()
        x = torch.where(there, x, 0.0).float()
        return torch.cat([x, (~there).float()], 1) if any(field.gaps) else x

    def flattened(self, field: Field, limit: int) -> str:
        return "standardised" + ", with missing cells at the mean and an indicator for each" * any(field.gaps)

    def example_field(self, name: str) -> Field:
        meter = TableMeter(name, [f"column {n}" for n in range(EXAMPLE)])
        for row in correlated(64, EXAMPLE, 0):
            meter.add("", row)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        low, high = np.array(field.lows), np.array(field.highs)
        x = correlated(count, field.shape[0], seed)
        return torch.from_numpy((low + (np.tanh(x / 2) / 2 + 0.5) * (high - low)).astype(np.float32))

    def model_size(self, field: Field) -> str:
        return "micro"


MOST_DESCRIBED = 40  # columns


class TableMeter(Meter):
    """Range, mean, deviation and share of missing cells by column."""

    most = 100_000

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        self.name, self.columns, self.rows = name, tuple(columns), []

    rows: list[np.ndarray]

    def add(self, name: str, value: Value | None) -> None:
        if value is not None:
            if self.rows and value.shape != self.rows[0].shape:
                raise DataError(f"row {name} has {len(value)} cells, others have {len(self.rows[0])}; give every row "
                                "the same columns")
            self.rows.append(value)

    def field(self) -> Field:
        if not self.rows:
            raise DataError(f"no sample that was looked at has a readable '{self.name}'")
        x = np.stack(self.rows).astype(np.float64)
        there = np.isfinite(x)
        count = there.sum(0)
        if not count.any():
            raise DataError(f"all {x.size:,} cells of '{self.name}' are missing; look whether the file was read as "
                            "meant (--na, na_values=)")
        filled = np.where(there, x, 0.0)
        mean = filled.sum(0) / np.maximum(count, 1)
        std = np.sqrt((np.where(there, x - mean, 0.0) ** 2).sum(0) / np.maximum(count, 1))
        low = np.where(count > 0, np.where(there, x, np.inf).min(0), 0.0)
        high = np.where(count > 0, np.where(there, x, -np.inf).max(0), 0.0)
        flat, empty = high <= low, count == 0
        names = self.columns or tuple(f"column {n}" for n in range(x.shape[1]))
        told = {"have no cell that is not missing, so nothing is learnt of them": empty,
                "are constant; their deviation is taken as 1": flat & ~empty}
        notes = tuple(f"column(s) {some([f'{names[i]!r}' for i in np.flatnonzero(which)], 8)} of '{self.name}' {what}"
                      for what, which in told.items() if which.any())
        plain = lambda values: tuple(float(v) for v in values)
        return Field(name=self.name, kind="table", dtype="float32", shape=(x.shape[1],), sizes=((x.shape[1],),) * 3,
                     low=float(low.min()), high=float(high.max()), mean=plain(mean),
                     std=plain(np.where(flat, 1.0, std)), notes=notes, columns=names, lows=plain(low),
                     highs=plain(high), gaps=plain(1 - count / len(x)))


def correlated(count: int, columns: int, seed: int) -> np.ndarray:
    """(count, columns) float32 of three hidden factors, a fifth missing at random, two cells a row at least there."""
    factors = np.random.default_rng(7).normal(size=(3, columns))  # the same relations whatever the rows
    rng = np.random.default_rng([seed, 1])
    x = rng.normal(size=(count, 3)) @ factors + 0.1 * rng.normal(size=(count, columns))
    gone = rng.random((count, columns)).argsort(1) < rng.integers(0, 2 * columns // 5 + 1, (count, 1))
    return np.where(gone, np.nan, x).astype(np.float32)


def _row(item: Any, name: str) -> np.ndarray:
    return np.asarray(item.detach().cpu() if isinstance(item, torch.Tensor) else item, dtype=np.float32)


# Opening.


def _frame(spec: Any) -> bool:
    """Whether it is a DataFrame of pandas or polars, or an Arrow table."""
    return type(spec).__name__ in ("DataFrame", "Table") and type(spec).__module__.split(".")[0] in (
        "pandas", "polars", "pyarrow")


def _framed(spec: Any, options: Options) -> list[_cells.Raw]:
    if hasattr(spec, "iloc"):
        return _cells.from_frame(spec, options.na_values)
    return _cells.from_arrow(spec.to_arrow() if hasattr(spec, "to_arrow") else spec, options.na_values)


def _ids(spec: Any) -> list[str] | None:
    """A DataFrame's own row names."""
    index = getattr(spec, "index", None)
    return None if index is None or type(index).__name__ == "RangeIndex" else [str(name) for name in index]


def _read(path: Path, options: Options) -> list[_cells.Raw] | None:
    """The columns of a file; None for a parquet file whose samples are encoded (images)."""
    if path.suffix.lower() != ".parquet":
        return _cells.read_csv(path, options.na_values)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        binary = [f for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)
                  or pa.types.is_struct(f.type)]
        if binary or not any(pa.types.is_integer(f.type) or pa.types.is_floating(f.type) for f in schema):
            return None
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}); download or write it again") from error
    return _cells.from_arrow(table, options.na_values)


def _open_folder(root: Path, options: Options) -> Source | None:
    """train.csv, test.csv and so on in a folder; None where there is no train file of a table."""
    found = [root / (name + ending) for name in SPLIT_FILES for ending in FILES]
    files = {canonical_split(path.stem): path for path in found if os.path.isfile(path)}
    if "train" not in files:
        return None
    split = canonical_split(options.split) if options.split else "train"
    if split not in files:
        raise DataError(f"{root} has no split '{options.split}'; there are: {', '.join(files)}")
    source = KIND.open(files[split], replace(options, split=None))
    if source is None:
        return None
    source.name = f"{root.name}/{files[split].name}"
    makers = {s: partial(_open_folder, root, replace(options, split=s)) for s in files}
    return source.with_splits(split, makers)  # type: ignore[arg-type]


def _from_columns(columns: list[_cells.Raw], options: Options, name: str, again: Callable[[Options], Any],
                  ids: list[str] | None = None) -> Source:
    """A source of the columns that hold numbers, but for label, group and split. `again` opens another split."""
    if not columns or not len(columns[0]):
        raise DataError(f"{name} has no rows")
    columns = _cells.named(columns, name)
    for ignored in options.ignore:
        _cells.taken(columns, ignored, "ignore=", name)
    columns = [column for column in columns if column.name not in options.ignore]
    marks = _cells.marks_of(columns, options, name)
    features = [column for column in columns if all(column is not mark for mark in marks.columns)]
    kept, notes = _cells.numeric(features, name, strict=options.strict)
    array = np.stack([column.numbers for column in kept], 1)  # type: ignore[misc]
    table = TableColumn(array, [column.name for column in kept])
    source = Source(name=name, columns={KIND.name: table}, ids=ids, labels=marks.labels,
                    label_names=marks.names, groups=marks.groups, strict=options.strict, notes=notes,
                    targets=marks.targets)
    return _cells.splitted(source, marks.splits, options, again)


KIND = TableKind()
