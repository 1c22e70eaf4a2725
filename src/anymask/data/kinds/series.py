"""Time series: (C, T) float32, a row a variable, NaN where a value is missing. Series of several lengths are padded
with NaN at their end, so that padding and gaps are one thing."""

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

from ..arrays import one_a_sample
from ..collate import tensor
from ..columns import Blobs, Column
from ..errors import DataError, SchemaError, some
from ..kind import Kind, Meter, Settled
from ..labels import classes_or_numbers
from ..options import Options
from ..schema import Field
from ..source import Source, canonical_split, of_split_files
from . import _cells, _series
from ._series_columns import EqualColumn, SeriesColumn, SeriesMeter, WindowColumn, numbered
from .table import _frame, _framed

WINDOW = 512  # moments of a sample of a long record (PatchTST, arXiv:2211.14730, section 4.1)
PATCH = 12  # moments (PatchTST, section 4.2) ...
TOKENS, SHORT = 12, 20  # ... or fewer, so that a series of fewer than 20 such patches has about 12
MOST_DESCRIBED = 40  # variables
PEEKED = 20  # folders in a folder that are looked into
EXAMPLE = (2, 48)  # variables and moments of made-up series


class SeriesKind(Kind):
    name = "series"
    endings: frozenset[str] = frozenset()  # a file holds many samples
    asked_endings = frozenset({".npy"})
    recipe = "patchtst"
    renderer = "anymask.reports.series:Lines"
    samples_seen, most_epochs = 100_000, 400

    def open(self, spec: Any, options: Options) -> Source | None:
        if _frame(spec):
            return _from_frame(spec, options)
        if options.kind == self.name and isinstance(spec, (list, tuple)):
            return _from_list(spec, options)
        if options.kind == self.name and isinstance(spec, (np.ndarray, Tensor)) and spec.ndim == 1:
            values = np.asarray(spec)[None]
            made = np.datetime64(0, "s") + np.arange(values.shape[1])
            return _from_record(_series.Record(_checked(values, "array"), made, ("variable 0",), ("",), 1.0, []),
                                options, "array", partial(self.open, spec))
        if not isinstance(spec, (str, os.PathLike)):
            return None
        path = Path(spec).expanduser()
        if path.is_dir():
            return _open_folder(path, options)
        if not os.access(path, os.R_OK):
            return None
        if path.suffix.lower() == ".ts":
            return _from_ts(path, options)
        if path.suffix.lower() in (".csv", ".tsv"):
            return _from_csv(path, options)
        return None

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError("time series are one file or array with all samples, not a file for each; stack them into an "
                        "array (N, C, T), or give a list of arrays with kind='series'")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if options.kind != self.name or array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
            return None  # an array (N, F) is a table, (N, H, W) are images, unless kind="series" is asked for
        if isinstance(array, np.memmap):
            return EqualColumn(array, mapped=True)
        return EqualColumn(_checked(array, name))

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        ok = isinstance(example, (Tensor, np.ndarray)) and example.ndim in (1, 2) and options.kind == self.name
        return _object if ok else None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None and not isinstance(size, int):
            raise DataError(f"'{name}' is a time series, which has one size; give size= (--image-size) as one number")
        if size is not None and isinstance(column, WindowColumn):
            raise DataError(f"'{name}' is cut into windows of {column.length} moments; give another length as "
                            "window= (--window), not as size= (--image-size)")
        return SeriesMeter(name, size, column)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        if np.isinf(batch).any():
            row, variable, _ = np.argwhere(np.isinf(batch))[0]
            raise DataError(f"{names(int(row))} holds an infinite number in variable {int(variable)}; make it NaN, "
                            "which is missing")

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape[1:]

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        """Longer series are cut at a random place, or in the middle; shorter ones end in NaN."""
        c, length = field.shape
        if len(value) != c:
            raise DataError(f"a series of '{field.name}' has {len(value)} variables, others have {c}")
        if augment is not None and rng is not None:
            value = augment(value, rng, field.shape)
        spare = value.shape[1] - length
        if spare > 0:
            start = spare // 2 if rng is None else int(rng.integers(spare + 1))
            value = value[:, start : start + length]
        return _longer(value, length)

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return self.fit(value, replace(field, shape=(field.shape[0], min(value.shape[1], limit))), None, None)

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """NaN at the end says what is padded: no extents."""
        step = multiple if isinstance(multiple, int) else multiple[-1]
        longest = -(-max(value.shape[1] for value in values) // step) * step
        return tensor(np.stack([_longer(value, longest) for value in values])), None

    def align(self, column: Column, field: Field) -> Column:
        if not isinstance(column, WindowColumn) or column.names == field.columns:
            return column
        if sorted(column.names) != sorted(field.columns):
            return column  # other names, of which `compare` has said so
        return column.ordered([column.names.index(name) for name in field.columns])

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        ours, theirs = trained.columns, given.columns
        told = lambda names: some([f"'{name}'" for name in names], 6)
        if len(ours) != len(theirs):
            raise SchemaError(f"'{given.name}' has {len(theirs)} variables in {given_by} ({told(theirs)}); the model "
                              f"was trained with {len(ours)} ({trained_on}: {told(ours)}): give these")
        notes = []
        if ours != theirs and sorted(ours) == sorted(theirs):
            notes.append(f"the variables of {given_by} are in another order than in training; they are matched by name")
        elif ours != theirs:
            notes.append(f"the variables of {given_by} are called {told(theirs)}, in training {told(ours)}; they are "
                         "taken in this order")
        if trained.interval and given.interval and trained.interval != given.interval:
            notes.append(f"moments of {given_by} are {given.interval:g} s apart, in training {trained.interval:g} s")
        return notes

    def describe(self, field: Field) -> list[tuple[str, str]]:
        lengths = [str(size[0]) for size in field.sizes]
        seen = lengths[0] if len(set(lengths)) == 1 else f"{lengths[0]} to {lengths[2]}, median {lengths[1]}"
        apart = f", {_seconds(field.interval)} apart" if field.interval else ""
        missing = f"{np.mean(field.gaps):.1%} of the values" if any(field.gaps) else "none"
        count = len(field.columns)
        rows = [(field.name, f"{count} variable{'s' * (count != 1)}; missing: {missing}"),
                (f"{field.name} length", f"{seen} moments{apart}; trained at {field.shape[1]}")]
        units = field.units or ("",) * count
        each = zip(field.columns, field.mean, field.std, field.lows, field.highs, field.gaps, units)
        for name, mean, std, low, high, gap, unit in list(each)[:MOST_DESCRIBED]:
            text = f"{low:.4g} to {high:.4g}, mean {mean:.4g}, std {std:.4g}" + (f" {unit}" if unit else "")
            rows.append((f"  {name}", text + (f", {gap:.1%} missing" if gap else "")))
        return rows + [("  ...", f"and {count - MOST_DESCRIBED:,} more variables")] * (count > MOST_DESCRIBED)

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        x = (values - torch.tensor(field.mean)[:, None]) / torch.tensor(field.std)[:, None]
        step = _averaged(field, limit)
        if step > 1:
            x = torch.nn.functional.pad(x, (0, -x.shape[2] % step), value=torch.nan).unflatten(2, (-1, step)).nanmean(3)
        return x.nan_to_num().flatten(1).float()

    def flattened(self, field: Field, limit: int) -> str:
        step = _averaged(field, limit)
        return "standardised by variable, missing values at the mean" + f", averaged over {step} moments" * (step > 1)

    def example_field(self, name: str) -> Field:
        meter = SeriesMeter(name, None, None)
        for n, value in enumerate(waves(64, EXAMPLE, 0)):
            meter.add(str(n), value)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return torch.from_numpy(waves(count, field.shape, seed))

    def patch(self, field: Field) -> tuple[int, ...]:
        """12 moments; of short series about a twelfth of the length, and what divides it, if anything does."""
        length = field.shape[1]
        if length >= SHORT * PATCH:
            return (PATCH,)
        wanted = max(1, min(PATCH, length // TOKENS))
        near = [p for p in range(max(1, wanted // 2), wanted * 3 // 2 + 1) if length % p == 0]
        return (min(near, key=lambda p: (abs(p - wanted), p), default=wanted),)

    def model_size(self, field: Field) -> str:
        return "nano"


def _seconds(seconds: float) -> str:
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {word}"
    return f"{seconds:g} s"


def _averaged(field: Field, limit: int) -> int:
    """Moments that plain input is averaged over."""
    return max(1, -(-field.shape[0] * field.shape[1] // limit))


def _longer(value: np.ndarray, length: int) -> np.ndarray:
    if value.shape[1] == length:
        return value
    out = np.full((len(value), length), np.nan, dtype=np.float32)
    out[:, : value.shape[1]] = value
    return out


def waves(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(count, C, T) float32: waves with a trend, of related variables; single values and whole stretches missing."""
    rng = np.random.default_rng([seed, 2])
    c, length = shape
    t = np.arange(length) / length
    turns, phase = rng.uniform(1, 4, (count, 1, 1)), rng.uniform(0, 2 * np.pi, (count, 1, 1))
    x = np.sin(2 * np.pi * turns * t + phase + np.arange(c)[:, None]) + rng.normal(size=(count, c, 1)) * t
    x += 0.05 * rng.normal(size=x.shape)
    x[rng.random(x.shape) < 0.02] = np.nan
    for row in range(0, count, 3):
        start = int(rng.integers(length // 2))
        x[row, row % c, start : start + length // 3] = np.nan
    return x.astype(np.float32)


def _object(item: Any, name: str) -> np.ndarray:
    array = np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item, dtype=np.float32)
    return array[None] if array.ndim == 1 else array


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    out = array.astype(np.float32)
    if np.isinf(out).any():
        raise DataError(f"{name} holds infinite numbers, or beyond {_cells.LARGEST:.1e}; make them NaN, which is "
                        "missing")
    return out


# Opening.


def _from_csv(path: Path, options: Options) -> Source | None:
    if options.kind is None and not _series.looks_dated(path):
        return None
    columns = _cells.read_csv(path, options.na_values)
    place = _series.dated_column(columns, path.name)
    if options.kind is None and (place is None or _series.texts_beside(columns, options.ignore, place)):
        return None
    if place is None:
        raise DataError(f"{path} has no column of dates, as 2016-07-01 00:00:00 in every row, which a record needs; "
                        "add one, or give the values as an array (N, C, T) with kind='series'")
    return _from_record(_series.record_of(columns, options, path.name), options, path.name, partial(KIND.open, path))


def _from_frame(frame: Any, options: Options) -> Source | None:
    """A DataFrame whose index, or a column of which, is of dates."""
    if not hasattr(frame, "iloc") or not len(frame):
        return None
    if type(frame.index).__name__ == "DatetimeIndex":
        frame = frame.reset_index()
    if not any(_series.DATE.match(str(cell)) for cell in frame.iloc[0]):
        return None
    columns = _framed(frame, options)
    place = _series.dated_column(columns, "table")
    if place is None or (options.kind is None and _series.texts_beside(columns, options.ignore, place)):
        return None
    return _from_record(_series.record_of(columns, options, "table"), options, "table", partial(KIND.open, frame))


def _from_record(record: _series.Record, options: Options, name: str, again: Callable[[Options], Any]) -> Source:
    """Windows of a part of a record; `again` opens another part."""
    if options.label is not None or options.group is not None:
        raise DataError(f"{name} is one record in time, whose windows have no labels or groups; leave label= and "
                        "group= out, or read it as a table (--kind table)")
    total = record.values.shape[1]
    spans = _series.spans(total, record.interval, options.parts, name)
    split = canonical_split(options.split or "train")
    if split not in spans:
        raise DataError(f"{name} has no split '{options.split}'; there are: {', '.join(spans)}")
    least = min(last - first for first, last in spans.values())
    length = options.window or min(WINDOW, least // 2)
    if length < 4 or length > spans[split][1] - spans[split][0]:
        first, last = spans[split]
        raise DataError(f"{name} has {last - first:,} moments in its part '{split}', which windows of {length} "
                        "(--window) do not fit; give shorter windows of at least 4 moments, or other parts (--parts)")
    stride = 1 if options.stride is None else options.stride
    if stride < 1:
        raise DataError(f"stride={stride} (--stride) counts moments from 1")
    column = WindowColumn(record, spans, split, length, stride)
    ids = [str(moment) for moment in record.moments[column.starts]]
    source = Source(name=name if split == "train" else f"{name}/{split}", columns={KIND.name: column}, ids=ids,
                    strict=options.strict, notes=record.notes)
    return source.with_splits(split, {s: partial(again, replace(options, split=s)) for s in spans})


def _from_list(spec: Any, options: Options) -> Source:
    labels = options.label
    if isinstance(spec, tuple) and len(spec) == 2:
        spec, labels = spec
    if isinstance(spec, (np.ndarray, Tensor)):
        spec = list(spec)
    if not spec:
        raise DataError("the list of series is empty")
    series = []
    for n, item in enumerate(spec):
        value = _object(item, f"series {n}")
        if value.ndim != 2:
            raise DataError(f"series {n} has shape {value.shape}; give (C, T), or (T,) of one variable")
        series.append(_checked(value, f"series {n}"))
    numbers = names = targets = None
    if labels is not None:
        numbers, names, targets = classes_or_numbers(one_a_sample(labels, len(series), "labels", "list"))
    return Source(name="series", columns={KIND.name: _column(series)}, labels=numbers, label_names=names,
                  targets=targets, strict=options.strict)


def _column(series: list[np.ndarray]) -> Column:
    counts = sorted({len(one) for one in series})
    if len(counts) > 1:
        raise DataError(f"the series have {some([str(n) for n in counts], 6)} variables; give all the same")
    if len({one.shape for one in series}) == 1:
        return EqualColumn(np.stack(series))
    return SeriesColumn(series, numbered(counts[0]))


def _from_ts(path: Path, options: Options) -> Source:
    if options.label is not None:
        raise DataError(f"{path.name} names its labels itself; leave label= (--label) out")
    found = _series.read_ts(path)
    return Source(name=path.name, columns={KIND.name: _column(found.series)}, labels=found.labels,
                  label_names=found.label_names, targets=found.targets, strict=options.strict)


def _open_folder(root: Path, options: Options) -> Source | None:
    """NAME_TRAIN.ts and NAME_TEST.ts in a folder; None where there is no .ts file in it."""
    try:
        names = sorted(os.listdir(root))
    except PermissionError:  # whoever opens the folder says so
        return None
    files = [root / name for name in names if name.endswith(".ts")]
    if not files:
        below = [name for name in names[:PEEKED] if (root / name / f"{name}_TRAIN.ts").is_file()]
        if below:
            raise DataError(f"{root} holds data sets of time series ({some(below, 6)}); name one: {root / below[0]}")
        return None
    parts = {canonical_split(file.stem.rpartition("_")[2]): file for file in files}
    if len(parts) != len(files) or not set(parts) <= set(_series.PARTS) or "train" not in parts:
        raise DataError(f"{root} holds {some([file.name for file in files], 4)}; a folder needs NAME_TRAIN.ts, and may "
                        "have NAME_TEST.ts: name one of the files")
    return of_split_files(root, parts, options.split, partial(_from_ts, options=options))


KIND = SeriesKind()
