"""Time series from files: dated tables as one long record, and the .ts files of the UCR/UEA archive."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError, some
from ..options import Options
from . import _cells

DATE = re.compile(  # year first, or day.month.year; with a time of day or not
    r"^(\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{1,2}\.\d{1,2}\.\d{4})([ T]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?(Z|\+00:?00)?$"
)
UNIT = re.compile(r"^(.*\S)\s*[\[(]([^\[\]()]+)[\])]$")  # "temperature (K)", "p [mbar]"
MONTH = 30 * 86_400.0  # seconds: the custom of forecasting benchmarks
PARTS = ("train", "validation", "test")
SHARES = (0.6, 0.2, 0.2)


class Record(NamedTuple):
    """One long multivariate series, regular in time."""

    values: np.ndarray  # (C, T) float32, NaN where missing
    moments: np.ndarray  # (T,) datetime64[s]
    names: tuple[str, ...]
    units: tuple[str, ...]
    interval: float  # seconds
    notes: list[str]


# Dated tables.


def dated_column(columns: Sequence[_cells.Raw], where: str) -> int | None:
    """The place of the first column of dates; None where there is none.

    Raises:
        DataError: most cells of a column are dates and some are not, and no other column holds text, as in a table.
    """
    for place, column in enumerate(columns):
        if column.text is None:
            continue
        wrong = [row for row, cell in enumerate(column.text) if cell is None or not DATE.match(cell)]
        if not wrong and len(column):
            return place
        if 2 * len(wrong) < len(column) and not texts_beside(columns, (), place):
            raise DataError(f"column '{column.name}' of {where} holds dates, but not in {len(wrong):,} of "
                            f"{len(column):,} rows (first: row {wrong[0] + 1}, {column.text[wrong[0]]!r}); mend these, "
                            "or read it as a table (--kind table)")
    return None


def texts_beside(columns: Sequence[_cells.Raw], ignore: Sequence[str], place: int) -> bool:
    """Whether a column beside the dates holds text: then it is a table or texts, unless a series is asked for."""
    others = [column for n, column in enumerate(columns) if n != place and column.name not in ignore]
    shares = [np.mean([_cells._number(cell) is None for cell in column.text if cell]) for column in others
              if column.text is not None and any(column.text)]  # fmt: skip
    return any(share > 0.5 for share in shares)


def looks_dated(path: Path) -> bool:
    """Whether a cell of the first two lines below the header of a .csv or .tsv file is a date."""
    try:
        _, delimiter = _cells._header(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [file.readline() for _ in range(3)][1:]
    except (DataError, UnicodeDecodeError):  # whoever reads it in full says so
        return False
    return any(DATE.match(cell.strip().strip('"')) for line in lines for cell in line.split(delimiter))


def record_of(columns: list[_cells.Raw], options: Options, name: str) -> Record:
    """
    Raises:
        DataError: no number in it, text between numbers, dates that are not one after another at equal distances.
    """
    if not columns or not len(columns[0]):
        raise DataError(f"{name} has no rows; give data that hold some")
    columns = _cells.named(columns, name)
    for ignored in options.ignore:
        _cells.taken(columns, ignored, "ignore=", name)
    place = dated_column(columns, name)
    assert place is not None
    dates = moments(columns[place].text or (), f"column '{columns[place].name}' of {name}")
    kept, notes = [], []
    for n, column in enumerate(columns):
        if n == place or column.name in options.ignore:
            continue
        if column.text is None:
            kept.append(_cells.finite(column, name))
        elif _cells.mostly_text(column, name):
            notes.append(f"column '{column.name}' holds text and is left out")
    if not kept:
        raise DataError(f"{name} has dates and no column of numbers beside them; nothing can be learnt of it")
    values = np.stack([column.numbers for column in kept]).astype(np.float32)  # type: ignore[misc]
    units = [unit.group(2) if (unit := UNIT.match(column.name)) else "" for column in kept]
    return regular(values, dates, [column.name for column in kept], units, name, notes)


def moments(cells: Sequence[str | None], what: str) -> np.ndarray:
    """(T,) datetime64[s] of dates as text: year first, or day.month.year."""
    plain = []
    for cell in cells:
        assert cell is not None
        date, _, clock = re.sub(r"(Z|\+00:?00)$", "", cell.replace("T", " ")).partition(" ")
        pieces = date.split(".")[::-1] if "." in date else re.split("[-/]", date)
        clock = f"T{'0' * (clock.index(':') == 1)}{clock}" if clock else ""
        plain.append("-".join(piece.zfill(2) for piece in pieces) + clock)
    try:
        return np.array(plain, dtype="datetime64[s]")
    except ValueError as error:
        raise DataError(f"{what} holds a date that is none ({error}); write dates as 2016-07-01 00:00:00") from error


def regular(values: np.ndarray, dates: np.ndarray, names: Sequence[str], units: Sequence[str], name: str,
            notes: list[str]) -> Record:
    """The record with a value for every moment: rows that lack between regular ones are gaps.

    Raises:
        DataError: dates that do not rise, or are at unequal distances.
    """
    if len(dates) < 3:
        raise DataError(f"{name} has {len(dates)} moments, too few for a record; add rows, or read it as a table "
                        "(--kind table)")
    steps = np.diff(dates).astype(np.int64)
    if (steps <= 0).any():
        row = int(np.flatnonzero(steps <= 0)[0])
        raise DataError(f"the dates of {name} do not rise: {dates[row + 1]} follows {dates[row]} (row {row + 2}); sort "
                        "the rows and keep one for each moment, or read it as a table (--kind table)")
    months = np.diff(dates.astype("datetime64[M]")).astype(np.int64)
    if (months == 1).all() and (steps != steps[0]).any():
        return Record(values, dates, tuple(names), tuple(units), float(steps.mean()), notes)
    base = int(np.median(steps))
    if (steps % base).any():
        row = int(np.flatnonzero(steps % base)[0])
        raise DataError(f"the dates of {name} are not regular: most are {base} s apart, {dates[row]} and "
                        f"{dates[row + 1]} (row {row + 2}) are {steps[row]} s; bring the record to a regular interval, "
                        f"as by df.resample('{base}s').mean() of pandas, or read it as a table (--kind table)")
    place = np.concatenate([[0], np.cumsum(steps // base)])
    total = int(place[-1]) + 1
    if total > 2 * len(dates) + 1000:
        raise DataError(f"{name} has rows for {len(dates):,} of {total:,} moments ({base} s apart); give a record with "
                        "fewer gaps, or read it as a table (--kind table)")
    if total > len(dates):
        whole = np.full((len(values), total), np.nan, dtype=np.float32)
        whole[:, place] = values
        notes = [*notes, f"{total - len(dates):,} of {total:,} moments have no row and count as missing"]
        values, dates = whole, dates[0] + np.arange(total) * np.timedelta64(base, "s")
    return Record(values, dates, tuple(names), tuple(units), float(base), notes)


def spans(length: int, interval: float, parts: tuple[float, ...] | None, name: str) -> dict[str, tuple[int, int]]:
    """Moments (from, to) of training, validation and test, one after another.

    Args:
        parts: shares, or months of 30 days where one is 1 or more; None = 60, 20 and 20 %.
    """
    parts = parts or SHARES
    scale = length if max(parts) < 1 else MONTH / interval
    ends = np.round(np.cumsum(parts) * scale).astype(int).tolist()
    if ends[-1] > length:
        raise DataError(f"{name} has {length:,} moments, {interval:g} s apart, fewer than the {ends[-1]:,} of "
                        f"parts={','.join(f'{p:g}' for p in parts)} (--parts); lower them, or give shares")
    return {part: (start, end) for part, start, end in zip(PARTS, [0, *ends[:-1]], ends)}


# .ts files.


class Labelled(NamedTuple):
    """The series of a .ts file, and their classes or numbers."""

    series: list[np.ndarray]  # (C, T) float32 each, of their own lengths
    labels: np.ndarray | None  # (N,) int64
    label_names: list[str] | None
    targets: np.ndarray | None  # (N,) float64


def read_ts(path: Path) -> Labelled:
    """A .ts file: a header of @ lines, then one series a line, its dimensions and its label divided by colons, values
    by commas, ? for a missing one.

    Raises:
        DataError: what is no such file, naming the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); download it again") from error
    start = next((n for n, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if start is None:
        raise DataError(f"{path} has no line @data, after which the series come; it is not a .ts file, or was cut off")
    words = [line.split() for line in lines[:start] if line.startswith("@")]
    head = {key[1:].lower(): rest for key, *rest in words}
    if head.get("timestamps", ["false"])[0].lower() == "true":
        raise DataError(f"{path} has a time stamp with each value, which is not read; write values at regular times")
    classes = _classes(head, path)
    numbered = head.get("targetlabel", ["false"])[0].lower() == "true"
    series: list[np.ndarray] = []
    ends: list[str] = []
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if line.strip() and not line.startswith("#"):
            fields = line.strip().split(":")
            if classes or numbered:
                ends.append(fields.pop().strip())
            series.append(_values(fields, f"line {number} of {path}"))
    if not series:
        raise DataError(f"{path} holds no series after @data; download it again")
    wide = len(series[0]) if "dimensions" not in head else int(head["dimensions"][0])
    odd = next((n for n, one in enumerate(series) if len(one) != wide), None)
    if odd is not None:
        raise DataError(f"series {odd + 1} of {path} has {len(series[odd])} dimensions, not {wide}; the file was cut "
                        "off or mixed up: download it again")
    return Labelled(series, *_labels(ends, classes, numbered, path))


def _classes(head: dict[str, list[str]], path: Path) -> list[str]:
    words = head.get("classlabel", ["false"])
    if not words or words[0].lower() not in ("true", "false"):
        raise DataError(f"{path}: @classLabel is followed by true and the classes, or by false, not by "
                        f"{' '.join(words) or 'nothing'}")
    return words[1:] if words[0].lower() == "true" else []


def _values(fields: list[str], where: str) -> np.ndarray:
    rows = []
    for field in fields:
        try:
            row = np.array(field.replace("?", "nan").split(","), dtype=np.float64)
        except ValueError as error:
            raise DataError(f"{where} holds what is no number ({error}); download the file again") from error
        rows.append(row)
    if not rows:
        raise DataError(f"{where} has a label and no values, or the label lacks; download the file again")
    longest = max(len(row) for row in rows)
    values = np.full((len(rows), longest), np.nan)
    for row, given in zip(values, rows):
        row[: len(given)] = given
    if np.isinf(values).any() or (np.abs(values[~np.isnan(values)]) > _cells.LARGEST).any():
        raise DataError(f"{where} holds an infinite number; write ? for a missing value")
    return values.astype(np.float32)


def _labels(ends: list[str], classes: list[str], numbered: bool, path: Path
            ) -> tuple[np.ndarray | None, list[str] | None, np.ndarray | None]:
    if numbered:
        try:
            return None, None, np.array([np.nan if end == "?" else float(end) for end in ends])
        except ValueError as error:
            raise DataError(f"{path}: a target is no number ({error})") from error
    if not classes:
        return None, None, None
    number = {name: n for n, name in enumerate(classes)} | {"?": -1}
    unknown = sorted({end for end in ends if end not in number})
    if unknown:
        raise DataError(f"{path} has labels that @classLabel does not name: {some(unknown, 4)} (it names: "
                        f"{some(classes, 8)}); a line may be cut off")
    return np.array([number[end] for end in ends], dtype=np.int64), classes, None
