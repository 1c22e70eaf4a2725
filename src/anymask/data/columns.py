"""Where values come from: a column gives the value of one part of a sample by row number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .errors import Unreadable
from .kind import Blob, Kind, Settled, Value

if TYPE_CHECKING:
    from .schema import Field


class Blobs(Protocol):
    """Encoded samples by row: files, the cells of a parquet column, ..."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Blob: ...

    def nbytes(self, row: int) -> int:
        """Encoded size; 0 for an empty file, -1 where it is not known without reading."""
        ...


class FileBlobs:
    """Files below a root, by name."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, list(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Blob:
        return Blob(self.names[row], self.root / self.names[row])

    def nbytes(self, row: int) -> int:
        try:
            return (self.root / self.names[row]).stat().st_size
        except OSError:  # gone, or its folder may not be entered: as good as empty, and reported as unreadable
            return 0


class Column(ABC):
    """Values of one kind by row. `shape` and `dtype` are those of every value, or None where they vary."""

    kind: Kind
    shape: tuple[int, ...] | None
    dtype: str | None
    in_memory: bool = False  # True: reading costs nothing
    record: Any = None  # the long record that values are windows of

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, row: int) -> Value | None:
        """The value, or None where this part is missing. Raises Unreadable."""

    def batch(self, rows: np.ndarray) -> np.ndarray | None:
        """(B, ...) values of many rows in one step where they lie in memory; None: read them one by one."""
        return None

    def lengths(self) -> np.ndarray | None:
        """(N,) length of every value of a kind that varies in length; None where it is not known without reading."""
        return None

    def raw(self, row: int) -> bytes:
        """Content for the fingerprint, as stored."""
        value = self.read(row)
        return b"" if value is None else value.tobytes()

    def nbytes(self, row: int) -> int | None:
        """Stored size of a row, None where it is not known without reading."""
        return None

    @property
    def origin(self) -> Column:
        """The column that knows the names, pieces and so on of what it holds: itself, unless it picks from another."""
        return self

    def aligned(self, field: Field) -> Column:
        """This column with its values laid out as in the field, see `Kind.align`."""
        return self.kind.align(self, field)


class BlobColumn(Column):
    """Values decoded from blobs."""

    def __init__(self, kind: Kind, blobs: Blobs, settled: Settled) -> None:
        self.kind, self.blobs, self.decode = kind, blobs, settled.decode
        self.shape, self.dtype = settled.shape, settled.dtype

    def __len__(self) -> int:
        return len(self.blobs)

    def read(self, row: int) -> Value | None:
        return self.decode(self.blobs[row])

    def raw(self, row: int) -> bytes:
        return self.blobs[row].read()

    def nbytes(self, row: int) -> int:
        return self.blobs.nbytes(row)


class ArrayColumn(Column):
    """Rows of one array (N, ...), in memory or memory-mapped.

    `convert` changes the dtype of what is read, never of the whole. With `reopen`, a worker that gets this column by
    pickling maps the file again instead of receiving the content.
    """

    def __init__(self, kind: Kind, array: np.ndarray, *, dtype: str, convert: Callable[[np.ndarray], np.ndarray],
                 mapped: bool = False, reopen: Callable[[], np.ndarray] | None = None) -> None:
        self.kind, self.array, self.convert, self.mapped, self.reopen = kind, array, convert, mapped, reopen
        self.in_memory = not mapped
        self.dtype = dtype
        self.shape = tuple(int(n) for n in array.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": None} if self.reopen else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.array is None and self.reopen:
            self.array = self.reopen()

    def __len__(self) -> int:
        return len(self.array)

    def read(self, row: int) -> Value | None:
        return self.convert(self.array[row])

    def batch(self, rows: np.ndarray) -> np.ndarray | None:
        return self.convert(self.array[rows])

    def raw(self, row: int) -> bytes:
        return np.ascontiguousarray(self.array[row]).tobytes()

    def nbytes(self, row: int) -> int:
        return int(np.prod(self.array.shape[1:])) * self.array.dtype.itemsize


class Picked(Column):
    """Rows of another column, by number; -1 where this part of a sample is missing."""

    def __init__(self, column: Column, rows: np.ndarray) -> None:
        self.column, self.rows = column, np.asarray(rows, dtype=np.int64)
        self.kind, self.shape, self.dtype = column.kind, column.shape, column.dtype
        self.in_memory = column.in_memory

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> Value | None:
        return None if self.rows[row] < 0 else self.column.read(int(self.rows[row]))

    def batch(self, rows: np.ndarray) -> np.ndarray | None:
        at = self.rows[rows]
        return None if (at < 0).any() else self.column.batch(at)

    def lengths(self) -> np.ndarray | None:
        known = self.column.lengths()
        return None if known is None else np.where(self.rows < 0, 0, known[self.rows])

    def raw(self, row: int) -> bytes:
        return b"" if self.rows[row] < 0 else self.column.raw(int(self.rows[row]))

    def nbytes(self, row: int) -> int | None:
        return 0 if self.rows[row] < 0 else self.column.nbytes(int(self.rows[row]))

    @property
    def origin(self) -> Column:
        return self.column.origin

    def aligned(self, field: Field) -> Column:
        inner = self.column.aligned(field)
        return self if inner is self.column else Picked(inner, self.rows)


class Absent(Column):
    """A part that no sample has."""

    def __init__(self, kind: Kind, count: int) -> None:
        self.kind, self.count, self.shape, self.dtype = kind, count, None, None
        self.in_memory = True

    def __len__(self) -> int:
        return self.count

    def read(self, row: int) -> None:
        return None

    def nbytes(self, row: int) -> int:
        return 0

    def aligned(self, field: Field) -> Column:
        return self


class ItemColumn(Column):
    """Values picked out of the items of a map-style dataset object.

    `pick` takes the part out of an item, `reader` makes a value of it. Items are taken to be the same at each reading;
    a dataset with random transforms gets another fingerprint each time.
    """

    def __init__(self, kind: Kind, items: Any, pick: Callable[[Any], Any], reader: Callable[[Any, str], Value]) -> None:
        self.kind, self.items, self.pick, self.reader = kind, items, pick, reader
        self.shape = self.dtype = None

    def __len__(self) -> int:
        return len(self.items)

    def read(self, row: int) -> Value | None:
        try:
            part = self.pick(self.items[row])
        except OSError as error:  # datasets of files; other exceptions are the dataset's own faults and must be seen
            raise Unreadable(f"item {row}", str(error)) from error
        return None if part is None else self.reader(part, f"item {row}")
