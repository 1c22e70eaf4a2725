"""Tables: a row is a sample, (F,) float32 with NaN for a missing cell; numbers come first, then categories, each the
place of its name among those of its column."""

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
from ..kind import Kind, Meter, Settled
from ..options import Options
from ..schema import Field
from ..source import Source, canonical_split
from . import _cells, _features
from ._categories import Levels, TableMeter, categories_of, check_types, levels_of, renumbered, unseen

FILES = (".csv", ".tsv", ".parquet")
SPLIT_FILES = ("train", "training", "test", "testing", "validation", "valid", "val", "dev")
EXAMPLE = 9  # columns of the made-up table


class TableColumn(ArrayColumn):
    """Rows of one array (N, F); `names` are those of its columns, `levels` the names of the categories of each column
    that holds such. In memory, cells are kept in double precision."""

    def __init__(self, array: np.ndarray, names: Sequence[str], *, levels: Levels | None = None, mapped: bool = False,
                 reopen: Callable[[], np.ndarray] | None = None) -> None:
        super().__init__(KIND, array, dtype="float32", convert=_single, mapped=mapped, reopen=reopen)
        self.names, self.levels = tuple(names), dict(levels or {})

    def raw(self, row: int) -> bytes:
        """Names in place of numbers of categories, as these depend on what else there is."""
        own = [(n, self.levels[name]) for n, name in enumerate(self.names) if name in self.levels]
        cells = self.array[row]
        words = ["" if np.isnan(cells[n]) else names[int(cells[n])] for n, names in own]
        plain = np.delete(cells, [n for n, _ in own]) if own else cells
        return np.ascontiguousarray(plain).tobytes() + "\0".join(words).encode("utf-8", "surrogatepass")


def _numbered(names: Sequence[str]) -> bool:
    """Whether these are the names of the columns of an array, so that a further one may be any."""
    return tuple(names) == tuple(_array_names(len(names)))


def _array_names(count: int) -> list[str]:
    return [f"column {n}" for n in range(count)]


def table_of(source: Source) -> TableColumn:
    """The rows of a source that is one table."""
    (column,) = source.columns.values()
    assert isinstance(column, TableColumn)
    return column


def cells_of(source: Source) -> np.ndarray:
    """(N, F) float64 of a source that is one table."""
    return np.asarray(table_of(source).array)[source.rows].astype(np.float64)


def empty_of(cells: np.ndarray, names: Sequence[str]) -> list[str]:
    """The columns of (N, F) cells that hold none."""
    return [name for name, gone in zip(names, np.isnan(cells).all(0)) if gone]


def with_cells(source: Source, cells: np.ndarray, names: Sequence[str] | None = None, levels: Levels | None = None
               ) -> Source:  # fmt: skip
    """The same rows with other cells (N, F); `names` are those of their columns and `levels` of their categories, None
    = as before."""
    if names is None:
        names, levels = table_of(source).names, table_of(source).levels
    return Source(name=source.name, columns=dict.fromkeys(source.columns, TableColumn(cells, names, levels=levels)),
                  ids=source.ids, labels=source.labels, label_names=source.label_names, groups=source.groups,
                  targets=source.targets)


def with_target(source: Source, name: str) -> Source:
    """The same rows without the column of numbers `name`, which is what is to be predicted.

    Raises:
        DataError: there is no such column.
    """
    column = table_of(source)
    if name not in column.names or name in column.levels:
        have = some([other for other in column.names if other not in column.levels], 12)
        raise DataError(f"{source.name} has no column of numbers {name!r}; columns: {have}")
    cells, place = cells_of(source), column.names.index(name)
    others = [other for other in column.names if other != name]
    kept = TableColumn(np.delete(cells, place, 1), others, levels=column.levels)
    return Source(name=source.name, columns=dict.fromkeys(source.columns, kept), ids=source.ids,
                  groups=source.groups, targets=cells[:, place])


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


class TableKind(Kind):
    name = "table"
    held_in = "a table of numbers (.csv, .tsv, .parquet)"
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
            _cells.finite(_cells.Raw(name=column, numbers=array[:, n]), name)
        return TableColumn(array, names)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        ok = isinstance(example, (torch.Tensor, np.ndarray)) and example.ndim == 1 and len(example) > 1
        return _row if ok else None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None:
            raise DataError(f"'{name}' is a table, whose rows have no size; leave size= (--image-size) out")
        return TableMeter(name, getattr(column, "names", ()), getattr(column, "levels", {}))

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
        levels = levels_of(field)
        if not isinstance(column, TableColumn) or not set(column.names) >= set(field.columns):
            return column  # where columns lack, `compare` has said so
        if column.names == field.columns and column.levels == levels:
            return column
        array = np.asarray(column.array)[:, [column.names.index(name) for name in field.columns]]
        if levels or column.levels:
            array = array.astype(np.float64)
            check_types(field, column.levels, empty_of(array, field.columns), "the training data", "these")
        for place, name in enumerate(field.columns):
            if name in levels:
                array[:, place] = renumbered(array[:, place], column.levels.get(name, ()), field, name)
        return TableColumn(array, field.columns, levels=levels)

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        empty = [name for name, gap in zip(given.columns, given.gaps) if gap == 1.0]
        return self.compare_columns(trained, given.columns, levels_of(given), empty, trained_on, given_by)

    def compare_columns(self, trained: Field, names: Sequence[str], levels: Levels, empty: Sequence[str],
                        trained_on: str, given_by: str) -> list[str]:  # fmt: skip
        """As `compare`, of a table of which the columns are known, their categories and those without a cell."""
        ours, theirs = set(trained.columns), set(names)
        quoted = lambda names: some([f"'{name}'" for name in names], 6)
        lacking = [name for name in trained.columns if name not in theirs]
        if lacking:
            raise SchemaError(f"'{trained.name}' lacks {len(lacking)} of the {len(ours)} columns that the model was "
                              f"trained on ({trained_on}): {quoted(lacking)} (columns of {given_by}: {quoted(names)}); "
                              f"rename columns, or add them with empty cells, which count as missing")
        extra = [name for name in names if name not in ours]
        if extra and _numbered(names):
            raise SchemaError(f"'{trained.name}' has {len(names)} columns in {given_by}, the model was trained "
                              f"with {len(ours)} ({trained_on}); give an array of these, or a table with their names")
        check_types(trained, levels, empty, trained_on, given_by)
        notes = unseen(trained, levels, given_by)
        if extra:
            notes.append(f"columns of {given_by} that the model was not trained with are not used: {quoted(extra)}")
        elif trained.columns != tuple(names):
            notes.append(f"the columns of {given_by} are in another order than in training; they are matched by name")
        return notes

    def describe(self, field: Field) -> list[tuple[str, str]]:
        gaps = np.array(field.gaps)
        missing = "none" if not gaps.any() else f"{gaps.mean():.1%} of the cells, in {int((gaps > 0).sum())} columns"
        grouped = categories_of(field)
        numbers = field.shape[0] - len(grouped)
        what = [f"{numbers} columns of numbers"] * (numbers > 0) + [f"{len(grouped)} of categories"] * bool(grouped)
        rows = [(field.name, f"{', '.join(what)}; missing: {missing}")]
        each = zip(field.columns, field.mean, field.std, field.lows, field.highs, field.gaps)
        for name, mean, std, low, high, gap in list(each)[:MOST_DESCRIBED]:
            text = f"{low:.4g} to {high:.4g}, mean {mean:.4g}, std {std:.4g}"
            text = grouped[name].words() if name in grouped else text
            rows.append((f"  {name}", text + (f", {gap:.1%} missing" if gap else "")))
        more = field.shape[0] - MOST_DESCRIBED
        return rows + [("  ...", f"and {more:,} more columns")] * (more > 0)

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        there, grouped = torch.isfinite(values), list(categories_of(field).values())
        if grouped:
            return self._one_hot(values, field, [group.size for group in grouped])
        x = (values.double() - torch.tensor(field.mean).double()) / torch.tensor(field.std).double()
        x = torch.where(there, x, 0.0).float()
        return torch.cat([x, (~there).float()], 1) if any(field.gaps) else x

    def _one_hot(self, values: Tensor, field: Field, sizes: list[int]) -> Tensor:
        numbers = field.shape[0] - len(sizes)
        cut = replace(field, mean=field.mean[:numbers], std=field.std[:numbers], gaps=field.gaps[:numbers], more={})
        parts = [self.flat(values[:, :numbers], cut, 0)] if numbers else []
        for column, size in zip(values[:, numbers:].T, sizes):
            place = torch.where(column.isnan(), size, column).long()  # a missing cell is a category of its own
            parts.append(torch.nn.functional.one_hot(place, size + 1).float())
        return torch.cat(parts, 1)

    def flattened(self, field: Field, limit: int) -> str:
        text = "standardised" + ", with missing cells at the mean and an indicator for each" * any(field.gaps)
        return text + ", categories one-hot with missing as one of its own" * bool(categories_of(field))

    def example_field(self, name: str) -> Field:
        meter = TableMeter(name, [f"column {n}" for n in range(EXAMPLE)])
        for row in correlated(64, EXAMPLE, 0):
            meter.add("", row)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        low, high = np.array(field.lows), np.array(field.highs)
        x = low + (np.tanh(correlated(count, field.shape[0], seed) / 2) / 2 + 0.5) * (high - low)
        grouped = [n for n, name in enumerate(field.columns) if name in categories_of(field)]
        x[:, grouped] = np.round(x[:, grouped])
        return torch.from_numpy(x.astype(np.float32))

    def model_size(self, field: Field) -> str:
        return "micro"


MOST_DESCRIBED = 40  # columns


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
        if binary or not any(pa.types.is_integer(f.type) or pa.types.is_floating(f.type)
                                or pa.types.is_dictionary(f.type) or pa.types.is_boolean(f.type) for f in schema):
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
    """A source of the columns that can be learnt from, but for label, group and split. `again` opens another split."""
    if not columns or not len(columns[0]):
        raise DataError(f"{name} has no rows; give data that hold some")
    columns = _cells.named(columns, name)
    for ignored in options.ignore:
        _cells.taken(columns, ignored, "ignore=", name)
    columns = [column for column in columns if column.name not in options.ignore]
    marks = _cells.marks_of(columns, options, name)
    left = [column for column in columns if all(column is not mark for mark in marks.columns)]
    for asked in options.categories:
        _cells.taken(columns, asked, "categories=", name)
    kept, notes = _features.features(left, name, strict=options.strict, categories=options.categories)
    table = TableColumn(np.stack([feature.cells for feature in kept], 1), [feature.name for feature in kept],
                        levels={feature.name: feature.levels for feature in kept if feature.levels is not None})
    source = Source(name=name, columns={KIND.name: table}, ids=ids, labels=marks.labels,
                    label_names=marks.names, groups=marks.groups, strict=options.strict, notes=notes,
                    targets=marks.targets)
    return _cells.splitted(source, marks.splits, options, again)


KIND = TableKind()
__all__ = ["KIND", "TableColumn", "TableKind", "cells_of", "empty_of", "levels_of", "table_of",
           "with_cells", "with_target"]  # fmt: skip
