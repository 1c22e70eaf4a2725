"""Electrocardiograms as columns of sources, and what a schema says of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..columns import BlobColumn, Column
from ..errors import DataError, Unreadable
from ..kind import Blob, Settled, kind_of
from ..schema import Field
from . import _ecg
from ._series_columns import SeriesMeter

SECONDS = 9.0  # of a window (ST-MEM, arXiv:2402.09450: 2,250 moments at 250 Hz)
BEAT, BEFORE = 1.6, 0.625  # seconds of a window about a beat, and the share of it before the R peak
HELD_BYTES = 2**30  # of signals that are kept in memory


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob (a header file) to (L, T) with the set's leads, at its rate. Raises Unreadable."""

    leads: tuple[str, ...]
    rate: float

    def __call__(self, blob: Blob) -> np.ndarray:
        if isinstance(blob.data, bytes):
            raise Unreadable(blob.name, "a wfdb record is two files or more in a folder; bytes hold one of them")
        header = _ecg.read_header(blob.data)
        if not set(header.leads) & set(self.leads):
            raise Unreadable(blob.name, f"it has none of the leads {', '.join(self.leads)}")
        return _ecg.read_signals(header, self.leads, self.rate)


class Windows(Column):
    """Windows (L, length) of records: window n is of record `of[n]`, from moment `starts[n]` at `rate`; a lead that a
    record lacks, and what is before its beginning or behind its end, is NaN."""

    dtype = "float32"

    def __init__(self, records: Sequence[_ecg.Header], leads: tuple[str, ...], rate: float, length: int,
                 of: np.ndarray, starts: np.ndarray) -> None:
        self.kind, self.records, self.leads, self.rate = kind_of("ecg"), list(records), leads, rate
        self.length, self.of, self.starts = length, of, starts
        self.shape = (len(leads), length)
        self._size = sum(4 * len(leads) * _ecg.moments(record, rate) for record in records)
        self.in_memory = self._size <= HELD_BYTES
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}

    def __len__(self) -> int:
        return len(self.starts)

    def signals(self, number: int) -> np.ndarray:
        """(L, T) of a whole record. Raises Unreadable."""
        if number not in self._held:
            found = _ecg.read_signals(self.records[number], self.leads, self.rate)
            while self._held and sum(one.nbytes for one in self._held.values()) + found.nbytes > HELD_BYTES:
                self._held.popitem(last=False)
            self._held[number] = found
        return self._held[number]

    def read(self, row: int) -> np.ndarray:
        whole, start = self.signals(int(self.of[row])), int(self.starts[row])
        out = np.full((len(self.leads), self.length), np.nan, dtype=np.float32)
        first, last = max(0, start), min(whole.shape[1], start + self.length)
        out[:, first - start : last - start] = whole[:, first:last]
        return out

    def batch(self, rows: np.ndarray) -> np.ndarray | None:
        if not self.in_memory:
            return None
        try:
            return np.stack([self.read(int(row)) for row in rows])
        except Unreadable:  # one by one, so that it is left out
            return None

    def nbytes(self, row: int) -> int:
        return 4 * len(self.leads) * self.length

    def arranged(self, leads: tuple[str, ...], rate: float) -> Windows:
        """The same windows with other leads, at another rate."""
        factor = rate / self.rate
        starts = np.round(self.starts * factor).astype(np.int64)
        return Windows(self.records, leads, rate, round(self.length * factor), self.of, starts)


def arranged(column: Column, leads: tuple[str, ...], rate: float) -> Column:
    """A column with these leads, at this rate."""
    if isinstance(column, Windows):
        return column if (column.leads, column.rate) == (leads, rate) else column.arranged(leads, rate)
    decode = getattr(column, "decode", None)
    if not isinstance(decode, Decoder) or (decode.leads, decode.rate) == (leads, rate):
        return column
    assert isinstance(column, BlobColumn)
    settled = Settled(replace(decode, leads=leads, rate=rate), column.shape, column.dtype, {}, [])
    return BlobColumn(column.kind, column.blobs, settled)


class EcgMeter(SeriesMeter):
    """What `SeriesMeter` says, with leads and rate."""

    most = 400

    def __init__(self, name: str, size: int | None, column: Column | None) -> None:
        about = getattr(column, "decode", None) or column
        if not hasattr(about, "leads"):
            raise DataError(f"'{name}' says nothing of its leads; open the records themselves")
        self.leads, self.rate = about.leads, float(about.rate)  # type: ignore[union-attr]
        super().__init__(name, size or getattr(column, "length", None), column)

    def field(self) -> Field:
        if self.size is None and self.lengths:
            self.size = min(max(self.lengths), round(SECONDS * self.rate))
        found = super().field()
        notes = tuple(note for note in found.notes if "have no value" not in note)  # leads of records not looked at
        return replace(
            found, kind="ecg", columns=self.leads, units=("mV",) * len(self.leads), interval=1 / self.rate, notes=notes,
            more={"rate": self.rate, "band": list(_ecg.BAND)},
        )  # fmt: skip
