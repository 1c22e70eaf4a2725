"""A map-style source: samples by number, with labels, groups, ids and further splits."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from torch.utils.data import get_worker_info

from .columns import ArrayColumn, Column, Picked
from .errors import DataError, Unreadable
from .fingerprints import fingerprint
from .kind import Kind
from .labels import TokenLabels

if TYPE_CHECKING:
    from .stream import StreamSource

AnySource = Union["Source", "StreamSource"]
Sample = dict[str, "np.ndarray | None"]
Maker = Callable[[], "Source"]

CACHE_BYTES = 2**30  # sets that are no larger than this when decoded are kept in memory
_ALIASES = {"val": "validation", "valid": "validation", "validate": "validation", "dev": "validation",
            "training": "train", "testing": "test"}


def canonical_split(name: str) -> str:
    """In lower case, with 'val', 'valid', 'validate' and 'dev' as 'validation'; other names stay."""
    return _ALIASES.get(name.lower(), name.lower())


class Source:
    """Samples by number: `source[i]` is a dict of parts, `{"image": (C, H, W) array}`.

    `columns` give the parts by row, and `rows` says which rows this source has, in order. `ids`, `labels` and `groups`
    are by row; so are `targets`, numbers to predict, and `token_labels`. `bad` maps rows that cannot be read to the
    reason; reading one gives the next readable sample instead.
    """

    def __init__(self, *, name: str, columns: Mapping[str, Column], ids: Sequence[str] | None = None,
                 labels: np.ndarray | Callable[[], np.ndarray | None] | None = None,
                 label_names: list[str] | None = None, groups: np.ndarray | None = None,
                 rows: np.ndarray | None = None, bad: Mapping[int, str] | None = None, strict: bool = False,
                 notes: Sequence[str] = (), targets: np.ndarray | None = None,
                 token_labels: TokenLabels | None = None) -> None:
        self.name, self.columns, self.strict, self.notes = name, dict(columns), strict, list(notes)
        self.label_names = label_names
        if targets is not None and np.isinf(targets).any():
            self.notes.append(f"{int(np.isinf(targets).sum()):,} targets are infinite and left out")
            targets = np.where(np.isinf(targets), np.nan, targets)
        self.current_split: str | None = None
        self._ids, self._row_labels, self._row_groups, self._row_targets = ids, labels, groups, targets
        self._row_token_labels = token_labels
        self._bad: dict[int, str] = dict(bad or {})
        self.rows = np.arange(self.total) if rows is None else np.asarray(rows, dtype=np.int64)
        self.judged: Any = None  # of queries: what is relevant to which, see `anymask.evaluation.tasks.retrieve`
        self._splits: dict[str, Maker] = {}
        self._cache: Source | None = None
        self._fingerprint: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_splits": {}, "_cache": None}  # workers read samples only

    # ---- what there is

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def count(self) -> int | None:
        """The number of samples; None for a stream."""
        return len(self.rows)

    @property
    def total(self) -> int:
        """The number of rows of the columns, those of other splits and subsets among them."""
        return len(next(iter(self.columns.values())))

    @property
    def kinds(self) -> dict[str, Kind]:
        return {name: column.kind for name, column in self.columns.items()}

    @property
    def labels(self) -> np.ndarray | None:
        """(N,) int64, -1 where a sample has none; None where no sample has one."""
        if callable(self._row_labels):
            # some datasets know their labels only by reading every item: done once, if asked for
            self._row_labels = self._row_labels()
        return None if self._row_labels is None else self._row_labels[self.rows]

    @property
    def targets(self) -> np.ndarray | None:
        """(N,) float64 numbers to predict, NaN where a sample has none; None where the label is no number."""
        return None if self._row_targets is None else self._row_targets[self.rows]

    @property
    def token_labels(self) -> TokenLabels | None:
        """Labels of the tokens of each sample (nodes, points, residues), or None."""
        return None if self._row_token_labels is None else self._row_token_labels.of(self.rows)

    @property
    def groups(self) -> np.ndarray | None:
        """(N,) group of each sample (patient, recording, scene), or None."""
        return None if self._row_groups is None else self._row_groups[self.rows]

    @property
    def ids(self) -> list[str]:
        """File name, or row number as text, of each sample."""
        return [self._id(row) for row in self.rows]

    def id_of(self, index: int) -> str:
        """The id of one sample."""
        return self._id(int(self.rows[index]))

    def called(self, index: int) -> str:
        """What messages call one sample: its id, or its number and the name of the source."""
        return self.id_of(index) if self._ids is not None else f"sample {self.id_of(index)} of {self.name}"

    def _id(self, row: int) -> str:
        return str(row) if self._ids is None else self._ids[row]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of everything found unreadable up to now, also in workers of a loader that has been read."""
        return [(self._id(row), reason) for row, reason in self._bad.items()]

    # ---- splits and subsets

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are besides this one."""
        return tuple(name for name in self._splits if name != self.current_split)

    def split(self, name: str) -> Source:
        """Another split. Raises DataError naming those there are."""
        wanted = canonical_split(name)
        if wanted == self.current_split:
            return self
        if wanted not in self._splits:
            have = ", ".join(self._splits) or "none"
            raise DataError(f"{self.name} has no split '{name}' (splits: {have}); open it without split=, or make one: "
                            "split_source(source)")
        return self._splits[wanted]()

    def with_splits(self, current: str, makers: Mapping[str, Maker]) -> Source:
        """This source, knowing its split's name and how to open the others."""
        self.current_split, self._splits = current, dict(makers)
        return self

    def subset(self, indices: Sequence[int] | np.ndarray) -> Source:
        """The samples with these numbers, in this order. Raises DataError for numbers that are not there."""
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise DataError(f"subset of {self.name}: numbers must be 0..{len(self) - 1}, "
                            f"got {chosen.min()}..{chosen.max()}")
        part = Source(name=self.name, columns=self.columns, ids=self._ids, labels=self._row_labels,
                      label_names=self.label_names, groups=self._row_groups, rows=self.rows[chosen], bad=self._bad,
                      strict=self.strict, notes=self.notes, targets=self._row_targets,
                      token_labels=self._row_token_labels)
        part.judged = self.judged
        return part

    def with_columns(self, columns: Mapping[str, Column]) -> Source:
        """The same samples with their parts from other columns."""
        copy = self.subset(np.arange(len(self)))
        copy.columns = dict(columns)
        return copy.with_splits(self.current_split or "", self._splits) if self._splits else copy

    # ---- reading

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} holds {len(self)} samples; there is no number {index}")
        return self.read(index % len(self))[0]

    def fetch(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Several samples."""
        return [self[int(i)] for i in indices]

    def read(self, index: int) -> tuple[Sample, int]:
        """A sample and its number: the number asked for or, where that cannot be read, the next readable one's.

        Raises DataError if nothing can be read, and for the first unreadable sample when strict.
        """
        for step in range(len(self)):
            actual = (index + step) % len(self)
            sample = self.try_read(actual)
            if sample is not None:
                return sample, actual
        raise DataError(f"none of the {len(self)} samples of {self.name} can be read; first: "
                        f"{': '.join(self.skipped[0])}; mend them, or give other data")

    def try_read(self, index: int, parts: Collection[str] | None = None) -> Sample | None:
        """A sample, or some parts of it, or None where it cannot be read (then it is named in `skipped`; DataError when
        strict)."""
        row = int(self.rows[index])
        if row in self._bad and not self.strict:
            return None
        try:
            return {n: column.read(row) for n, column in self.columns.items() if parts is None or n in parts}
        except Unreadable as error:
            self.mark_bad(row, error.reason)
            return None

    def mark_bad(self, row: int, reason: str) -> None:
        """Notes that a row cannot be read: warns once and names it, or raises DataError when strict."""
        if self.strict:
            raise DataError(f"{self._id(row)} in {self.name} cannot be read ({reason}); mend or remove the file, or "
                            f"open the data with strict=False to leave it out")
        if row not in self._bad:
            self._bad[row] = reason
            if get_worker_info() is None:  # workers hand it to the loader, which warns once for all
                warnings.warn(f"left out {self._id(row)} of {self.name}: {reason}", stacklevel=2)

    def without_bad(self) -> Source:
        """This source without the rows that opening found unreadable. Raises DataError if none is left."""
        self.rows = np.array([row for row in self.rows.tolist() if row not in self._bad], dtype=np.int64)
        if not len(self.rows):
            raise DataError(f"none of the {len(self._bad)} samples of {self.name} can be read; first: "
                            f"{': '.join(self.skipped[0])}; mend them, or give other data")
        return self

    @property
    def bad_rows(self) -> dict[int, str]:
        """Row -> reason of what is known to be unreadable (a copy; loaders carry it from workers to this process)."""
        return dict(self._bad)

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray] | None:
        """Many samples in one step, where all parts lie in memory and all are readable; else None."""
        rows = self.rows[indices]
        if self._bad and any(int(row) in self._bad for row in rows):
            return None
        parts = {name: column.batch(rows) for name, column in self.columns.items()}
        return None if any(part is None for part in parts.values()) else parts  # type: ignore[return-value]

    def sample(self, limit: int, seed: int = 0) -> Iterator[tuple[int, Sample]]:
        """Up to `limit` readable samples with their numbers, a seeded choice in random order."""
        order = np.random.default_rng(seed).permutation(len(self))
        for index in order[:limit]:
            sample = self.try_read(int(index))
            if sample is not None:
                yield int(index), sample

    # ---- memory

    @property
    def in_memory(self) -> bool:
        return all(column.in_memory for column in self.columns.values())

    def cached(self) -> Source:
        """The same samples decoded into memory, if they are of one size and no larger than 1 GiB; else this source.

        Decoding is done once, by threads (Pillow releases the interpreter lock): about 4 s for CIFAR-10 on 2 cores.
        """
        if self._cache is None:
            self._cache = _decoded(self) or self
        return self._cache

    # ---- identity

    def fingerprint(self) -> str:
        """sha256 over names, labels and content.

        All content as stored where that is at most 64 MiB; of larger sets the names, the stored sizes and the content
        of 256 seeded samples. Equal content in another container (PNG against an array) has another fingerprint.
        """
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self)
        return self._fingerprint

    def content_hash(self, index: int) -> str:
        """sha256 of the decoded values: equal for equal pixels, however they are stored."""
        digest = hashlib.sha256()
        try:
            for name, value in (self.try_read(index) or {"unreadable": np.array(self.id_of(index))}).items():
                if value is not None:
                    content = value.tobytes()
                    digest.update(f"{name} {value.dtype} {value.shape}".encode())
                    digest.update(content)
        except Unreadable as error:  # of a value that is read as far as it is needed
            digest.update(f"unreadable {error}".encode())
        return digest.hexdigest()


def of_split_files(root: Path, files: Mapping[str, Path], asked: str | None, open_one: Callable[[Path], Source]
                   ) -> Source:
    """The split that is asked for (else that of training, else the first) of a folder with one file a split, knowing
    the others. Raises DataError naming those there are."""
    split = canonical_split(asked) if asked else "train" if "train" in files else next(iter(files))
    if split not in files:
        raise DataError(f"{root} has no split '{asked}'; there are: {', '.join(files)}")
    source = open_one(files[split])
    source.name = f"{root.name}/{files[split].name}"
    return source.with_splits(split, {s: partial(of_split_files, root, files, s, open_one) for s in files})


def _decoded(source: Source) -> Source | None:
    """A copy of the source with all columns in memory, or None where it does not qualify."""
    columns: dict[str, Column] = {}
    if source.in_memory or not len(source):
        return None
    total = 0
    for column in source.columns.values():
        if column.in_memory:
            continue
        if column.shape is None or column.dtype is None:
            return None
        total += len(source) * int(np.prod(column.shape)) * np.dtype(column.dtype).itemsize
    if total > CACHE_BYTES:
        return None
    known = source.bad_rows
    bad = {i: known[row] for i, row in enumerate(source.rows.tolist()) if row in known}
    for name, column in source.columns.items():
        if column.in_memory:
            columns[name] = Picked(column, source.rows)
            continue
        array = np.zeros((len(source), *column.shape), dtype=column.dtype)  # type: ignore[misc]
        there = _fill(array, column, source, bad)
        if there is None:
            return None
        columns[name] = ArrayColumn(column.kind, array, dtype=str(array.dtype), convert=_same)
        columns[name].about = column.about
        if not there.all():
            columns[name] = Picked(columns[name], np.where(there, np.arange(len(array)), -1))
    copy = Source(name=source.name, columns=columns, ids=source.ids, labels=source.labels,
                  label_names=source.label_names, groups=source.groups, bad=bad, strict=source.strict,
                  notes=source.notes, targets=source.targets, token_labels=source.token_labels)
    copy._fingerprint = source.fingerprint()
    return copy.with_splits(source.current_split or "", source._splits) if source._splits else copy


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _fill(array: np.ndarray, column: Column, source: Source, bad: dict[int, str]) -> np.ndarray | None:
    """Decodes a column into `array` by threads: (N,) which samples have this part. None if a value has another shape
    after all (mixed sizes)."""
    there = np.ones(len(array), dtype=bool)

    def read(index: int) -> Unreadable | bool:
        if index in bad:
            return True
        try:
            value = column.read(int(source.rows[index]))
        except Unreadable as error:
            return error
        if value is None:
            there[index] = False
            return True
        if value.shape != array.shape[1:] or value.dtype != array.dtype:
            return False
        array[index] = value
        return True

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for index, result in enumerate(pool.map(read, range(len(array)), chunksize=64)):
            if isinstance(result, Unreadable):
                source.mark_bad(int(source.rows[index]), result.reason)
                bad[index] = result.reason
            elif not result:
                pool.shutdown(cancel_futures=True)
                return None
    return there
