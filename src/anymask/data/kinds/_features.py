"""Columns of any type to cells of a table: numbers, categories by number, dates as several numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import DataError, some
from . import _cells, _series
from ._cells import Raw

DAY = 86_400.0  # seconds
LONE = 0.5  # a column of text names its rows where more of its cells than this share are of no other row


class Feature(NamedTuple):
    """One column as training sees it."""

    name: str
    cells: np.ndarray  # (N,) float64, NaN = missing; of categories the place in `levels`
    levels: tuple[str, ...] | None = None  # names of the categories, sorted; None = numbers


def features(
    columns: list[Raw], where: str, *, strict: bool, categories: Sequence[str] = ()
) -> tuple[list[Feature], list[str]]:
    """The columns that can be learnt from, numbers first, and notes on those that are left out or turned into others.

    Categories are columns of text whose cells repeat, booleans, categoricals (of pandas and Arrow), and what
    `categories` names. Dates become numbers, see `of_dates`.

    Raises:
        DataError: text in a column of numbers, an infinite cell, fewer than two columns left; when `strict`, any column
            that would be left out.
    """
    made, out, notes = list[Feature](), list[Raw](), list[str]()
    for place, column in enumerate(columns):
        if place == 0 and _cells.counts_rows(column):
            notes.append("the first column, which has no name and counts the rows, is left out")
        elif column.typed or column.name in categories:
            made.append(of_categories(column))
        elif column.text is None:
            made.append(Feature(column.name, _numbers(_cells.finite(column, where))))
        elif dates := of_dates(column, where):
            made += dates
            notes.append(f"the dates of column '{column.name}' are read as numbers: {some([d.name for d in dates], 8)}")
        elif not any(cell is not None for cell in column.text):
            made.append(Feature(column.name, np.full(len(column), np.nan)))
        elif _cells.mostly_text(column, where) and not _names_rows(column):
            made.append(of_categories(column))
        else:
            out.append(column)
    notes += _left_out(out, where, strict)
    if len(made) < 2:
        have = some([f"'{feature.name}'" for feature in made], 1) or "none"
        raise DataError(f"{where} has fewer than two columns of numbers or categories (it has: {have}); a cell is "
                        "predicted from the others of its row, so give a table with two or more, or name the column of "
                        "texts: text= (--text)")  # fmt: skip
    return [*(f for f in made if f.levels is None), *(f for f in made if f.levels is not None)], notes


def _left_out(columns: list[Raw], where: str, strict: bool) -> list[str]:
    """Notes on columns of text that name their rows, or are sentences."""
    if not columns:
        return []
    names = [column.name for column in columns]
    quoted = some([f"'{name}'" for name in names], 8)
    if strict:
        raise DataError(f"{where} has columns whose text is another in nearly every row ({quoted}), of which nothing "
                        f"can be learnt; leave them out with ignore={names[:8]} (--ignore)")  # fmt: skip
    notes = [f"columns whose text is another in nearly every row, as names and numbers of rows are, are left out: "
             f"{quoted}"]  # fmt: skip
    prose = next((column.name for column in columns if _cells.is_prose(column)), None)
    return notes + ([f"text={prose!r} (--text) reads the sentences of that column instead"] if prose else [])


def _names_rows(column: Raw) -> bool:
    """Whether most cells of a column of text are in one row only."""
    there = [cell for cell in column.text or () if cell is not None]
    found, counts = np.unique(there, return_counts=True)
    return bool((counts == 1).sum() > LONE * len(there)) or len(found) < 1


def of_categories(column: Raw) -> Feature:
    """Cells as places in the sorted names of the categories."""
    if column.text is None:
        numbers = _numbers(column)
        found = np.unique(numbers[~np.isnan(numbers)])
        cells = np.where(np.isnan(numbers), np.nan, np.searchsorted(found, np.nan_to_num(numbers)))
        names = ("false", "true") if column.boolean else tuple(f"{value:.15g}" for value in found)
        return Feature(column.name, numbers if column.boolean else cells, names if len(found) else None)
    names = tuple(sorted({cell for cell in column.text if cell is not None}))
    place = {name: n for n, name in enumerate(names)}
    return Feature(column.name, np.array([np.nan if c is None else place[c] for c in column.text]), names or None)


def of_dates(column: Raw, where: str) -> list[Feature]:
    """A column of dates as numbers: days since 1970-01-01, with the time of day as its fraction; the month (1 to 12);
    the day of the week (0 = Monday); and the hour, where a cell has a time of day. Empty where it is no such column.

    Raises:
        DataError: a date that is none, such as 2024-02-30.
    """
    text = column.text or ()
    there = np.array([cell is not None for cell in text])
    if not there.any() or not all(cell is None or _series.DATE.match(cell) for cell in text):
        return []
    moments = _series.moments([cell for cell in text if cell is not None], f"column '{column.name}' of {where}")
    days = moments.astype(np.float64) / DAY  # of seconds
    months = moments.astype("datetime64[M]").astype(np.int64) % 12 + 1
    weekdays = (np.floor(days).astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    hours = (days - np.floor(days)) * 24
    parts = {"days": days, "month": months, "weekday": weekdays} | ({"hour": hours} if hours.any() else {})
    made = []
    for part, values in parts.items():
        cells = np.full(len(text), np.nan)
        cells[there] = values
        made.append(Feature(f"{column.name} ({part})", cells))
    return made


def _numbers(column: Raw) -> np.ndarray:
    assert column.numbers is not None
    return column.numbers
