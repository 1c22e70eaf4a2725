"""Time series as columns of sources, and what a schema says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..columns import ArrayColumn, Column
from ..errors import DataError, nothing_readable, some
from ..kind import Meter, Value, kind_of
from ..schema import Field
from . import _series

LONGEST = 1024  # moments of a training sample of labelled series, unless asked for


class SeriesColumn(Column):
    """Series of several lengths, held in memory."""

    dtype, shape, in_memory = "float32", None, True

    def __init__(self, series: Sequence[np.ndarray], names: Sequence[str]) -> None:
        self.kind, self.series, self.names = kind_of("series"), list(series), tuple(names)

    def __len__(self) -> int:
        return len(self.series)

    def read(self, row: int) -> Value | None:
        return self.series[row]

    def nbytes(self, row: int) -> int:
        return self.series[row].nbytes


class EqualColumn(ArrayColumn):
    """Series of one length: an array (N, C, T), or (N, T) of one variable."""

    def __init__(self, array: np.ndarray, names: Sequence[str] | None = None, *, mapped: bool = False) -> None:
        array = array[:, None] if array.ndim == 2 else array
        super().__init__(kind_of("series"), array, dtype="float32", convert=_single, mapped=mapped)
        self.names = tuple(names or numbered(array.shape[1]))


class WindowColumn(Column):
    """Windows (C, length) of one long record, from the moments `starts`, all within `spans[part]`."""

    dtype, in_memory = "float32", True

    def __init__(self, record: _series.Record, spans: dict[str, tuple[int, int]], part: str, length: int, stride: int):
        self.kind, self.record, self.spans, self.part, self.stride = kind_of("series"), record, spans, part, stride
        first, last = spans[part]
        self.starts = np.arange(first, last - length + 1, stride)
        self.names, self.units, self.interval = record.names, record.units, record.interval
        self.shape, self.length = (len(record.values), length), length

    @property
    def measured(self) -> np.ndarray:
        """(C, n) the part of the record that windows are cut from."""
        first, last = self.spans[self.part]
        return self.record.values[:, first:last]

    def ordered(self, order: list[int]) -> WindowColumn:
        """The same windows with the variables in another order."""
        pick = lambda words: tuple(words[n] for n in order)
        record = self.record._replace(
            values=self.record.values[order], names=pick(self.record.names), units=pick(self.record.units))
        return WindowColumn(record, self.spans, self.part, self.length, self.stride)

    def __len__(self) -> int:
        return len(self.starts)

    def read(self, row: int) -> Value | None:
        start = self.starts[row]
        return self.record.values[:, start : start + self.length].copy()

    def batch(self, rows: np.ndarray) -> np.ndarray | None:
        place = self.starts[rows][:, None] + np.arange(self.length)
        return np.ascontiguousarray(self.record.values[:, place].swapaxes(0, 1))

    def nbytes(self, row: int) -> int:
        return 4 * len(self.record.values) * self.length


def numbered(count: int) -> list[str]:
    return [f"variable {n}" for n in range(count)]


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


class SeriesMeter(Meter):
    """Lengths, and range, mean, deviation and share of missing values by variable; of windows, over the part of the
    record that they are cut from, each moment once."""

    def __init__(self, name: str, size: int | None, column: Column | None) -> None:
        self.name, self.size, self.column = name, size, column
        self.lengths: list[int] = []
        self.count = self.total = self.square = np.zeros(0)
        self.low = self.high = np.zeros(0)
        self.moments = 0
        self.shift: np.ndarray | None = None

    def add(self, name: str, value: Value | None) -> None:
        if value is None:
            return
        self.lengths.append(value.shape[1])
        if isinstance(self.column, WindowColumn):
            value, self.full = self.column.measured, True
        x = np.asarray(value, dtype=np.float64)
        there = np.isfinite(x)
        if np.isinf(x).any():
            raise DataError(f"{name} holds an infinite number; make it NaN, which is missing")
        if self.shift is None:
            filled = np.where(there, x, 0.0)
            self.shift = (filled.sum(1) / np.maximum(there.sum(1), 1))[:, None]
            self.count = self.total = self.square = np.zeros(len(x))
            self.low, self.high = np.full(len(x), np.inf), np.full(len(x), -np.inf)
        if len(x) != len(self.count):
            raise DataError(f"series {name} has {len(x)} variables, others have {len(self.count)}; give all the same")
        gap = np.where(there, x - self.shift, 0.0)  # shifted sums lose no digits
        self.count = self.count + there.sum(1)
        self.total, self.square = self.total + gap.sum(1), self.square + (gap**2).sum(1)
        self.low = np.minimum(self.low, np.where(there, x, np.inf).min(1, initial=np.inf))
        self.high = np.maximum(self.high, np.where(there, x, -np.inf).max(1, initial=-np.inf))
        self.moments += x.shape[1]

    def field(self) -> Field:
        if self.shift is None:
            raise nothing_readable(self.name)
        if not self.count.any():
            raise DataError(f"all values of '{self.name}' are missing; look whether the file was read as meant (--na)")
        lengths = sorted(self.lengths)
        length = self.size or min(lengths[-1], LONGEST)
        if length < 4:
            raise DataError(f"the series of '{self.name}' have {lengths[-1]} moments; to hide some, at least 4 are "
                            "needed")
        known = np.maximum(self.count, 1)
        mean = self.total / known
        std = np.sqrt(np.maximum(self.square / known - mean**2, 0.0))
        empty = self.count == 0
        flat = ~empty & (self.high <= self.low)
        names = tuple(getattr(self.column, "names", ())) or tuple(numbered(len(mean)))
        told = {"have no value, so nothing is learnt of them": empty,
                "are constant; their deviation is taken as 1": flat}
        notes = [f"variable(s) {some([f'{names[i]!r}' for i in np.flatnonzero(which)], 8)} of '{self.name}' {what}"
                 for what, which in told.items() if which.any()]
        if self.size is None and lengths[-1] > LONGEST:
            notes.append(f"series have up to {lengths[-1]:,} moments; training cuts out {LONGEST:,} (--image-size)")
        plain = lambda values: tuple(float(v) for v in values)
        low, high = (np.where(empty, 0.0, values) for values in (self.low, self.high))
        return Field(name=self.name, kind="series", dtype="float32", shape=(len(mean), length),
                     sizes=tuple((lengths[n],) for n in (0, len(lengths) // 2, -1)), low=float(low.min()),
                     high=float(high.max()), mean=plain(np.where(empty, 0.0, mean + self.shift[:, 0])),
                     std=plain(np.where(flat | empty, 1.0, std)), notes=tuple(notes), columns=names, lows=plain(low),
                     highs=plain(high), gaps=plain(1 - self.count / max(self.moments, 1)),
                     interval=getattr(self.column, "interval", None), units=tuple(getattr(self.column, "units", ())))
