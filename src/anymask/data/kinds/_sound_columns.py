"""Columns of sounds, each at one sampling rate, which `about["rate"]` says; and readers of files and objects."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..columns import ArrayColumn, Column
from ..errors import DataError, Unreadable
from ..kind import Blob, Kind
from ..source import CACHE_BYTES
from . import _sounds


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to waveform at the set's rate."""

    rate: int

    def __call__(self, blob: Blob) -> np.ndarray:
        return _sounds.read(blob, self.rate)

    @property
    def about(self) -> dict[str, Any]:
        return {"rate": self.rate}


@dataclass(frozen=True, kw_only=True)
class Mono:
    """Arrays (..., T), or (..., C, T) where there are channels, to float32 waveforms (..., T)."""

    channels: bool
    name: str

    def __call__(self, array: np.ndarray) -> np.ndarray:
        wave = _sounds.plain(array)
        return _sounds.finite((wave.mean(-2) if self.channels else wave).ravel(), self.name).reshape(
            array.shape[:-2] + array.shape[-1:] if self.channels else array.shape)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ObjectReader:
    """An item of a dataset, a waveform (T,) or (C, T) or a dict of `array` and `sampling_rate`, to a waveform."""

    rate: int

    def __call__(self, item: Any, name: str) -> np.ndarray:
        own = self.rate
        if isinstance(item, Mapping):
            item, own = item["array"], int(item["sampling_rate"])
        array = as_array(item)
        if array.ndim not in (1, 2) or array.dtype.kind not in "iuf" or not array.size:
            raise Unreadable(name, f"it has shape {array.shape} and type {array.dtype}; a sound has (T,) or (C, T)")
        return _sounds.resampled(Mono(channels=array.ndim == 2, name=name)(array), own, self.rate)

    @property
    def about(self) -> dict[str, Any]:
        return {"rate": self.rate}


class ListColumn(Column):
    """Waveforms of several lengths, in memory."""

    dtype, shape, in_memory = "float32", None, True

    def __init__(self, kind: Kind, sounds: Sequence[np.ndarray], rate: int) -> None:
        self.kind, self.sounds, self.about = kind, list(sounds), {"rate": rate}

    def __len__(self) -> int:
        return len(self.sounds)

    def read(self, row: int) -> np.ndarray:
        return self.sounds[row]

    def lengths(self) -> np.ndarray:
        return np.array([len(sound) for sound in self.sounds], dtype=np.int64)


class HeldColumn(Column):
    """Another column's sounds at a rate, each decoded and resampled once where they fit the memory."""

    dtype, shape = "float32", None

    def __init__(self, column: Column, rate: int) -> None:
        self.kind, self.column, self.about, self.own = column.kind, column, {"rate": rate}, rate_of(column)
        total = self.lengths()
        self.in_memory = total is not None and 4 * int(total.sum()) <= CACHE_BYTES
        self.held: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.column)

    def lengths(self) -> np.ndarray | None:
        known = self.column.lengths()
        return None if known is None else _sounds.length_at(known, self.own, self.about["rate"])

    def read(self, row: int) -> np.ndarray | None:
        found = self.held.get(row)
        if found is None:
            value = self.column.read(row)
            if value is None:
                return None
            found = _sounds.resampled(value, self.own, self.about["rate"])
            if self.in_memory:
                self.held[row] = found
        return found

    def raw(self, row: int) -> bytes:
        return self.column.raw(row)

    def nbytes(self, row: int) -> int | None:
        return self.column.nbytes(row)


_HELD: weakref.WeakKeyDictionary[Column, HeldColumn] = weakref.WeakKeyDictionary()


def held(column: Column, rate: int) -> Column:
    """The same sounds at a rate; made once for all sources that share the column."""
    if isinstance(column, (ListColumn, HeldColumn, ArrayColumn)) and rate_of(column) == rate:
        return column
    if column not in _HELD or rate_of(_HELD[column]) != rate:
        _HELD[column] = HeldColumn(column, rate)
    return _HELD[column]


def rate_of(column: Column | None) -> int:
    """
    Raises:
        DataError: a stream, whose records do not say it.
    """
    rate = None if column is None else column.about.get("rate")
    if rate is None:
        raise DataError("the sampling rate of a stream of sounds is not known; open the data without streaming=True, "
                        "or give files")
    return int(rate)


def as_array(item: Any) -> np.ndarray:
    return np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item)
