"""A streaming source: samples one after another, of unknown number, perhaps larger than the disk."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from torch.utils.data import get_worker_info

from .columns import Column
from .errors import DataError, Unreadable
from .kind import Kind


class Records(Protocol):
    """Where a stream comes from."""

    def open(self, start: int) -> Iterator[Any]:
        """Undecoded records from number `start` on."""
        ...


class StreamSource:
    """Samples in the stream's own order.

    `records.open(start)` gives undecoded records, `parts` turn a record into the parts of a sample and `label` into a
    label (int, -1 for none). Reading `start` samples ahead costs what the records' own skipping costs: nothing for
    arrays, files and parquet, a pass over the undecoded records for Hugging Face and torch streams.
    """

    labels: None = None  # known by reading only; batches carry them
    token_labels: None = None
    groups: None = None
    splits: tuple[str, ...] = ()
    count: None = None

    def __init__(self, *, name: str, records: Records, kinds: Mapping[str, Kind],
                 parts: Callable[[Any, int], dict[str, Any]], label: Callable[[Any], int] | None = None,
                 label_names: list[str] | None = None, identity: str = "", strict: bool = False,
                 notes: list[str] | None = None) -> None:
        self.name, self.records, self.kinds, self.strict = name, records, dict(kinds), strict
        self.label_names, self.notes, self.skipped = label_names, list(notes or []), []  # type: ignore[var-annotated]
        self._parts, self.label_of, self._identity = parts, label, identity
        self.columns: dict[str, Column] = {}  # of the source that it reads in order, where there is one
        self.length: int | None = None  # known once the stream has been read to its end

    def __len__(self) -> int:
        raise TypeError(f"the length of the stream {self.name} is unknown; use source.count (None for streams)")

    def decode(self, record: Any, position: int) -> dict[str, Any] | None:
        """The sample of a record, or None where it cannot be read (named in `skipped`; DataError when strict)."""
        try:
            return self._parts(record, position)
        except Unreadable as error:
            self.unreadable(error)
            return None

    def unreadable(self, error: Unreadable) -> None:
        """Notes that a record cannot be read; DataError when strict."""
        if self.strict:
            raise DataError(f"{error.name} in {self.name} cannot be read ({error.reason}); mend it or open the data "
                            "with strict=False to leave it out") from error
        self.mark_bad(error.name, error.reason)

    def mark_bad(self, name: str, reason: str) -> None:
        """Notes that a sample cannot be read, and warns, once."""
        if (name, reason) not in self.skipped:
            self.skipped.append((name, reason))
            if get_worker_info() is None:  # workers hand it to the loader, which warns once for all
                warnings.warn(f"left out {name} of {self.name}: {reason}", stacklevel=2)

    def iterate(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """Samples from number `start` of one pass on; unreadable ones are left out but counted, so resuming is
        exact."""
        for position, record in enumerate(self.records.open(start), start):
            sample = self.decode(record, position)
            if sample is not None:
                yield sample

    def endless(self, start: int) -> Iterator[tuple[int, Any]]:
        """(number within the pass, record) over and over. Starting beyond the first pass costs one pass over the
        undecoded records, to learn the length. Raises DataError for an empty stream."""
        position = start if self.length is None else start % self.length
        while True:
            n = position
            for n, record in enumerate(self.records.open(position), position + 1):
                yield n - 1, record
            if n == position:  # nothing there: beyond the end, or empty
                self.length = self.length or sum(1 for _ in self.records.open(0))
                if not self.length:
                    raise DataError(f"the stream {self.name} is empty; give data that hold something")
                position %= self.length
            else:
                self.length, position = n, 0

    def fingerprint(self) -> str:
        """sha256 over the name, what the stream says of itself, and the content of its first 64 samples."""
        digest = hashlib.sha256(f"{self.name} {self._identity}".encode())
        for n, sample in enumerate(self.iterate(0)):
            if n == 64:
                break
            for name, value in sorted(sample.items()):
                digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()
