"""Events of stays from long tables: which columns hold what, which rows are of which stay, and outcomes beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, some
from ..labels import classes_or_numbers
from ..options import Options
from ..source import Source, canonical_split
from . import _cells, _series

FILES = (".csv", ".tsv", ".parquet")
# Names of columns by what they hold, in the order in which they are preferred; letters and digits count.
NAMES: dict[str, tuple[str, ...]] = {
    "id": ("stayid", "icustayid", "recordid", "encounterid", "admissionid", "hadmid", "visitid", "patientunitstayid",
           "patientid", "subjectid", "personid", "patient", "stay", "encounter", "admission", "id"),
    "time": ("minutes", "hours", "seconds", "days", "charttime", "time", "timestamp", "datetime", "measurementdatetime",
             "observationoffset", "labresultoffset", "offset", "minute", "hour", "day", "date"),
    "code": ("parameter", "itemid", "code", "labcode", "labname", "measurementconceptid", "conceptid", "variable",
             "test", "lab", "concept", "measurement", "feature", "item"),
    "value": ("valuenum", "valueasnumber", "value", "val", "labresult", "result", "measurementvalue"),
}  # fmt: skip
OUTCOMES = ("label", "inhospitaldeath", "mortality", "death", "hospitalexpireflag", "outcome", "target")
HOURS = {"second": 1 / 3600, "minute": 1 / 60, "hour": 1.0, "day": 24.0}  # of one unit that a column's name says


class Roles(NamedTuple):
    """The columns of a long table; `time` is None where a stay is a bag without times."""

    id: str
    time: str | None
    code: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Events:
    """Rows of a long table, those of a stay one after another, in the order of their times."""

    codes: np.ndarray  # (E,) int32, places in `names`
    values: np.ndarray  # (E,) float32, NaN where missing
    hours: np.ndarray  # (E,) float32
    ends: np.ndarray  # (N,) int64 where the rows of each stay end
    ids: list[str]
    names: tuple[str, ...]
    notes: list[str]


def plain(name: str) -> str:
    """Letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def roles_of(names: Sequence[str], asked: str | None, where: str) -> Roles | None:
    """Which column holds what, by `asked` ("id,time,code,value", or three without the time) or by their names; None
    where names do not tell.

    Raises:
        DataError: `asked` names no such columns.
    """
    if asked is not None:
        words = [word.strip() for word in asked.split(",")]
        missing = [word for word in words if word not in names]
        if missing or len(words) not in (3, 4):
            raise DataError(f"events={asked!r} (--events) is for the columns of stay, time, code and value, or without "
                            f"the time; {where} has: {some(list(names), 12)}")  # fmt: skip
        return Roles(words[0], words[1] if len(words) == 4 else None, words[-2], words[-1])
    bare = {plain(name): name for name in reversed(names)}
    found = {role: next((bare[known] for known in order if known in bare), None) for role, order in NAMES.items()}
    if None in (found["id"], found["code"], found["value"]):
        return None
    return Roles(found["id"], found["time"], found["code"], found["value"])  # type: ignore[arg-type]


# Reading.


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a file; empty where it has no such."""
    if path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowInvalid, OSError):  # whoever reads it in full says so
            return []
    try:
        return _cells._header(path)[0]
    except (DataError, UnicodeDecodeError, OSError):
        return []


def table_of(path: Path) -> Any:
    """A file as an Arrow table; cells of .csv files that stand for a missing one are None."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path)
        _, delimiter = _cells._header(path)
        words = sorted({form for word in _cells.MISSING for form in (word, word.upper(), word.capitalize())})
        convert = csv.ConvertOptions(null_values=words, strings_can_be_null=True)
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter), convert_options=convert)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as a table of events ({error}); download or write it again, as UTF-8 "
                        "text with a cell for every column") from error  # fmt: skip


def events_of(table: Any, roles: Roles, where: str) -> Events:
    """
    Raises:
        DataError: no rows, rows without a stay or a code, a column that holds something else, infinite values.
    """
    if not table.num_rows:
        raise DataError(f"{where} has no rows")
    ids, stays = _words(table.column(roles.id), f"column '{roles.id}' of {where}")
    names, codes = _words(table.column(roles.code), f"column '{roles.code}' of {where}")
    values, notes = _values(table.column(roles.value), f"column '{roles.value}' of {where}")
    hours = np.zeros(len(values)) if roles.time is None else _hours(table.column(roles.time), roles.time, where)
    if np.isnan(hours).any():
        bad = int(np.isnan(hours).sum())
        raise DataError(f"column '{roles.time}' of {where} has no time in {bad:,} of {len(hours):,} rows (first: row "
                        f"{int(np.flatnonzero(np.isnan(hours))[0]) + 1}); fill or remove these rows")  # fmt: skip
    order = np.lexsort((hours, stays))
    stays, codes, values, hours = stays[order], codes[order], values[order], hours[order]
    ends = np.searchsorted(stays, np.arange(len(ids)), side="right")
    if roles.time is not None and _absolute(table.column(roles.time)):
        hours = hours - hours[np.concatenate([[0], ends[:-1]])][stays]  # since the first event of the stay
    values, more = _sentinels(values, codes, names)
    return Events(codes=codes.astype(np.int32), values=values.astype(np.float32), hours=hours.astype(np.float32),
                  ends=ends, ids=ids, names=tuple(names), notes=[*notes, *more])


def _words(column: Any, what: str) -> tuple[list[str], np.ndarray]:
    """Distinct words of a column, sorted (numbers as such), and the place of each row's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if column.null_count:
        row = int(np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{what} is empty in {column.null_count:,} rows (first: row {row + 1}); fill or remove these")
    coded = column.dictionary_encode()
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    found, places = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
    order = sorted(range(len(found)), key=lambda n: found[n])
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found))
    return [str(found[n]).strip() for n in order], rank[places]


def _values(column: Any, what: str) -> tuple[np.ndarray, list[str]]:
    """(E,) float64, NaN where there is no number; and notes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        values, notes = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64), []
    else:
        cells = [None if cell is None else str(cell).strip() for cell in column.to_pylist()]
        numbers = [np.nan if c is None or c.lower() in _cells.MISSING else _cells._number(c) for c in cells]
        wrong = [n for n, number in enumerate(numbers) if number is None]
        values = np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
        if len(wrong) == len(values):
            raise DataError(f"{what} holds no number (first: {cells[wrong[0]]!r}); name the column of values: events= "
                            "(--events ID,TIME,CODE,VALUE)")  # fmt: skip
        notes = [f"{what} holds text in {len(wrong):,} rows (first: {cells[wrong[0]]!r}); these values are left out "
                 "as missing"] if wrong else []  # fmt: skip
    bad = np.flatnonzero(np.abs(values) > _cells.LARGEST)
    if len(bad):
        raise DataError(f"{what} holds infinite numbers, or beyond {_cells.LARGEST:.1e}, in {len(bad):,} rows (first: "
                        f"row {int(bad[0]) + 1}); make those cells empty, which is missing")  # fmt: skip
    return values, notes


def _absolute(column: Any) -> bool:
    """Whether times are dates, not a number since the start."""
    import pyarrow as pa

    kind = column.type
    return not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_duration(kind))


def _hours(column: Any, name: str, where: str) -> np.ndarray:
    """(E,) float64 hours: of numbers in the unit that the column's name says (hours where it says none), or of dates,
    since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_temporal(kind):
        absolute = pa.duration("ms") if pa.types.is_duration(kind) else pa.timestamp("ms")
        stamps = pc.cast(column, absolute, safe=False)
        return np.asarray(pc.cast(stamps, pa.int64()).to_numpy(), dtype=np.float64) / 3.6e6
    if not _absolute(column):
        unit = next((factor for word, factor in HOURS.items() if word in name.lower()), 1.0)
        return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64) * unit
    cells = [None if cell is None else str(cell) for cell in column.to_pylist()]
    wrong = [n for n, cell in enumerate(cells) if cell is None or not _series.DATE.match(cell)]
    if wrong:
        raise DataError(f"column '{name}' of {where} holds neither numbers nor dates in {len(wrong):,} rows (first: "
                        f"row {wrong[0] + 1}, {cells[wrong[0]]!r}); write times as 2016-07-01 00:00:00")  # fmt: skip
    return _series.moments(cells, f"column '{name}' of {where}").astype(np.float64) / 3600


def _sentinels(values: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Values with -1 made missing for codes whose only value below 0 it is: there it stands for "not known"."""
    minus = values == -1
    if not minus.any():
        return values, []
    count = lambda rows: np.bincount(codes[rows], minlength=len(names))
    chosen = (count(minus) > 0) & (count(values < 0) == count(minus)) & (count(values >= 0) > 0)
    if not chosen.any():
        return values, []
    told = some([f"'{names[n]}'" for n in np.flatnonzero(chosen).tolist()], 8)
    gone = minus & chosen[codes]
    return np.where(gone, np.nan, values), [f"-1, the only value below 0 of {told}, counts as missing there ("
                                            f"{int(gone.sum()):,} values)"]  # fmt: skip


# Opening.


def open_events(spec: Any, options: Options, make: Any) -> Source | None:
    """A source of a file, a folder or a DataFrame; None where it holds no events. `make` turns `Events` into a column
    of a source."""
    asked = options.kind is not None or options.events is not None
    if type(spec).__name__ in ("DataFrame", "Table") and not isinstance(spec, (str, Path)):
        names = [str(name) for name in getattr(spec, "column_names", getattr(spec, "columns", ()))]
        roles = _told(names, options, "table", asked)
        return None if roles is None else _source(_framed(spec), roles, None, "table", options, make)
    if not isinstance(spec, (str, Path)):
        return None
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(path, options, make, asked) if os.access(path, os.R_OK | os.X_OK) else None
    if path.suffix.lower() not in FILES or not path.is_file():
        return None
    roles = _told(columns_of(path), options, path.name, asked)
    return None if roles is None else _source(table_of(path), roles, None, path.name, options, make)


def _told(names: Sequence[str], options: Options, where: str, asked: bool) -> Roles | None:
    """The roles of a table's columns, where it is one of events: asked for, or with a time beside the others."""
    roles = roles_of(names, options.events, where)
    if roles is None and asked:
        raise DataError(f"{where} has no columns of stay, code and value that are known by their names; name them: "
                        f"events= (--events ID,TIME,CODE,VALUE); columns: {some(list(names), 12)}")  # fmt: skip
    return roles if asked or (roles is not None and roles.time is not None) else None


def _framed(spec: Any) -> Any:
    """A DataFrame of pandas or polars as an Arrow table."""
    import pyarrow as pa

    if isinstance(spec, pa.Table):
        return spec
    try:
        return spec.to_arrow() if hasattr(spec, "to_arrow") else pa.Table.from_pandas(spec, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the table cannot be read as one of events ({error}); give each column one type") from error


def _open_folder(root: Path, options: Options, make: Any, asked: bool) -> Source | None:
    """A folder with one long table, or one a split, and a table of outcomes with a row for each stay."""
    found = sorted(name for name in os.listdir(root) if name.lower().endswith(FILES))
    files = [root / name for name in found if (root / name).is_file()]
    if not files and options.kind is not None:
        raise DataError(f"{root} holds no .csv, .tsv or .parquet file with a table of measurements; add one")
    if not files or len(files) > 20:
        return None
    names = {path: columns_of(path) for path in files}
    long = {path: roles for path in files if (roles := _roles_in(names[path], options)) is not None}
    if not long:
        if asked and options.kind is not None:
            raise DataError(f"{root} holds no table with columns of stay, time, code and value; name them: events= "
                            "(--events ID,TIME,CODE,VALUE)")  # fmt: skip
        return None
    splits = {canonical_split(path.stem): path for path in long}
    if len(splits) < len(long) or (len(long) > 1 and not set(splits) <= set(_series.PARTS)):
        raise DataError(f"{root} holds {len(long)} tables of events ({some([p.name for p in long], 6)}); give one of "
                        "them, or call them train, validation and test")  # fmt: skip
    split = "train" if "train" in splits else next(iter(splits))
    split = canonical_split(options.split) if options.split and len(long) > 1 else split
    if split not in splits:
        raise DataError(f"{root} has no split '{options.split}'; there are: {', '.join(splits)}")
    path, roles = splits[split], long[splits[split]]
    beside = [other for other in files if other not in long and roles.id in names[other]]
    if len(beside) > 1 and options.label is not None:
        beside = [other for other in beside if options.label in names[other]]
    outcome = beside[0] if beside else None
    source = _source(table_of(path), roles, outcome, f"{root.name}/{path.name}", options, make)
    if len(splits) == 1:
        return source
    again = {s: partial(_open_folder, root, replace(options, split=s), make, asked) for s in splits}
    return source.with_splits(split, again)  # type: ignore[arg-type]


def _roles_in(names: Sequence[str], options: Options) -> Roles | None:
    if options.events is not None and not {word.strip() for word in options.events.split(",")} <= set(names):
        return None  # another file of the folder has them
    roles = roles_of(names, options.events, "")
    return roles if roles is not None and (options.events is not None or roles.time is not None) else None


def _source(table: Any, roles: Roles, outcome: Path | None, where: str, options: Options, make: Any) -> Source:
    events = events_of(table, roles, where)
    labels = label_names = targets = groups = None
    notes = list(events.notes)
    if outcome is not None:
        columns = {column.name: column for column in _cells.named(_read(outcome, options), outcome.name)}
        label = options.label or next((name for known in OUTCOMES for name in columns if plain(name) == known), None)
        if label is None:
            notes.append(f"{outcome.name} has no column that is known as an outcome; name one: label= (--label); "
                         f"columns: {some([name for name in columns if name != roles.id], 8)}")  # fmt: skip
        else:
            labels, label_names, targets = classes_or_numbers(_by_stay(columns, roles.id, label, events, outcome.name))
        if options.group is not None:
            groups = np.array([str(v) for v in _by_stay(columns, roles.id, options.group, events, outcome.name)])
    elif options.label is not None or options.group is not None:
        raise DataError(f"{where} has no table of outcomes beside it, so label= and group= cannot name a column; put "
                        "both into a folder, the outcomes with a row for each stay")  # fmt: skip
    return Source(name=where, columns={"ehr": make(events)}, ids=events.ids, labels=labels, label_names=label_names,
                  groups=groups, targets=targets, strict=options.strict, notes=notes)


def _read(path: Path, options: Options) -> list[_cells.Raw]:
    if path.suffix.lower() == ".parquet":
        return _cells.from_arrow(table_of(path), options.na_values)
    return _cells.read_csv(path, options.na_values)


def _by_stay(columns: dict[str, _cells.Raw], key: str, name: str, events: Events, where: str) -> list[Any]:
    """The values of a column of outcomes in the order of the stays, None where a stay has no row.

    Raises:
        DataError: no such column, a stay with two rows, or no stay with one.
    """
    column = _cells.taken(list(columns.values()), name, "label= or group=", where)
    words = [f"{v:.15g}" if isinstance(v, float) else str(v) for v in columns[key].values]
    held = dict(zip(words, column.values))
    if len(held) < len(words):
        twice = next(word for word in words if words.count(word) > 1)
        raise DataError(f"{where} has several rows for the stay {twice!r}; give each stay one row")
    found = [held.get(word) for word in events.ids]
    if not any(word in held for word in events.ids):
        raise DataError(f"no stay of the events is in {where}: '{key}' is {events.ids[0]!r} in one and {words[0]!r} in "
                        "the other; give the outcomes of these stays")  # fmt: skip
    return found
