"""Categories of tables: which of a column are told apart, how they are numbered, and what tables are measured by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, SchemaError, nothing_readable, some
from ..kind import Meter, Value
from ..schema import Field

Levels = Mapping[str, tuple[str, ...]]  # column -> names of its categories, in the order of their numbers
MOST = 100  # categories of a column that are told apart
REST = "(others)"  # the name of what the rarer ones share


class Group(NamedTuple):
    """The categories of one column as in training: names and how often each occurs; where `rest`, the last is what all
    other ones share."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    rest: bool

    @property
    def size(self) -> int:
        """At least 1, also where no cell of the column was there in training."""
        return len(self.names) or 1

    def words(self) -> str:
        total, count = max(sum(self.counts), 1), len(self.names)
        order = sorted(range(count), key=lambda n: -self.counts[n])
        told = [f"{self.names[n]} {self.counts[n] / total:.0%}" for n in order[:4]]
        more = f" and {count - 4} more" if count > 4 else ""
        return f"{count} categor{'y' if count == 1 else 'ies'}: {', '.join(told)}{more}"


def categories_of(field: Field) -> dict[str, Group]:
    """Column -> its categories, of the columns that hold such."""
    held: Mapping[str, Any] = field.more.get("categories", {})
    return {name: Group(tuple(g["names"]), tuple(g["counts"]), bool(g["rest"])) for name, g in held.items()}


def levels_of(field: Field) -> dict[str, tuple[str, ...]]:
    return {name: group.names for name, group in categories_of(field).items()}


def grouped(names: Sequence[str], counts: np.ndarray) -> Group:
    """The categories that occur, in the order of `names`; of more than `MOST` the most frequent ones, and what the
    others share as the last."""
    there = [n for n in range(len(names)) if counts[n] > 0]
    if len(there) <= MOST:
        return Group(tuple(names[n] for n in there), tuple(int(counts[n]) for n in there), False)
    kept = sorted(sorted(there, key=lambda n: (-counts[n], names[n]))[: MOST - 1])
    shared = int(counts.sum() - counts[kept].sum())
    return Group((*(names[n] for n in kept), REST), (*(int(counts[n]) for n in kept), shared), True)


def renumbered(cells: np.ndarray, names: Sequence[str], field: Field, column: str) -> np.ndarray:
    """(N,) numbers among `names` as numbers among the categories of training; one that was not met there is what the
    rare ones share, or missing where there is no such."""
    group = categories_of(field)[column]
    place = {name: float(n) for n, name in enumerate(group.names)}
    unknown = float(group.size - 1) if group.rest else np.nan
    table = np.array([place.get(name, unknown) for name in names] + [np.nan])
    return table[np.where(np.isnan(cells), len(names), cells).astype(np.int64)]


def check_types(trained: Field, given: Levels, empty: Collection[str], trained_on: str, given_by: str) -> None:
    """Raises SchemaError where a column is of numbers in one table and of categories in the other; `empty` are columns
    without a cell, which may be either."""
    ours = categories_of(trained)
    for name in trained.columns:
        if (name in ours) != (name in given) and name not in empty:
            kinds = ("categories", "numbers") if name in ours else ("numbers", "categories")
            raise SchemaError(f"column '{name}' holds {kinds[1]} in {given_by} and {kinds[0]} in {trained_on}, which "
                              f"the model was trained on; give it as {kinds[0]} (categories=, --category)")  # fmt: skip


def unseen(trained: Field, given: Levels, given_by: str) -> list[str]:
    """Notes on categories that were not met in training."""
    notes = []
    for name, group in categories_of(trained).items():
        new = [f"'{level}'" for level in given.get(name, ()) if level not in group.names]
        if new:
            what = f"count as '{REST}'" if group.rest else "count as missing"
            notes.append(f"column '{name}' of {given_by} has categories that were not met in training, or were rare "
                         f"there; they {what}: {some(new, 6)}")  # fmt: skip
    return notes


class TableMeter(Meter):
    """Range, mean, deviation and share of missing cells by column; categories and how often they occur."""

    most = 100_000

    def __init__(self, name: str, columns: Sequence[str], levels: Levels | None = None) -> None:
        self.name, self.columns, self.levels, self.rows = name, tuple(columns), dict(levels or {}), []

    rows: list[np.ndarray]

    def add(self, name: str, value: Value | None) -> None:
        if value is not None:
            if self.rows and value.shape != self.rows[0].shape:
                raise DataError(f"row {name} has {len(value)} cells, others have {len(self.rows[0])}; give every row "
                                "the same columns")
            self.rows.append(value)

    def field(self) -> Field:
        if not self.rows:
            raise nothing_readable(self.name)
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
        groups = {name: self._group(x, name) for name in self.levels}
        for name, group in groups.items():
            n = self.columns.index(name)
            mean[n], std[n], low[n], high[n] = 0.0, 1.0, 0.0, max(group.size - 1, 0)
        flat, empty = high <= low, count == 0
        names = self.columns or tuple(f"column {n}" for n in range(x.shape[1]))
        told = {"have no cell that is not missing, so nothing is learnt of them": empty,
                "are constant; their deviation is taken as 1": flat & ~empty}
        notes = tuple(f"column(s) {some([f'{names[i]!r}' for i in np.flatnonzero(which)], 8)} of '{self.name}' {what}"
                      for what, which in told.items() if which.any())
        notes += tuple(
            f"column '{name}' of '{self.name}' has {len(self.levels[name]):,} categories: the {MOST - 1} most frequent "
            f"are told apart, the others share one ({group.counts[-1] / max(sum(group.counts), 1):.0%} of the cells)"
            for name, group in groups.items() if group.rest
        )  # fmt: skip
        more = {"categories": {name: {"names": list(g.names), "counts": list(g.counts), "rest": g.rest}
                               for name, g in groups.items()}} if groups else {}  # fmt: skip
        plain = lambda values: tuple(float(v) for v in values)
        return Field(name=self.name, kind="table", dtype="float32", shape=(x.shape[1],), sizes=((x.shape[1],),) * 3,
                     low=float(low.min()), high=float(high.max()), mean=plain(mean),
                     std=plain(np.where(flat, 1.0, std)), notes=notes, columns=names, lows=plain(low),
                     highs=plain(high), gaps=plain(1 - count / len(x)), more=more)

    def _group(self, x: np.ndarray, name: str) -> Group:
        cells = x[:, self.columns.index(name)]
        names = self.levels[name]
        return grouped(names, np.bincount(cells[~np.isnan(cells)].astype(np.int64), minlength=len(names)))


