"""Tables of any container to columns of numbers: what is a number, what is missing, what is neither."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import one_a_sample
from ..errors import DataError, some
from ..labels import classes_or_numbers
from ..options import Options
from ..source import Source, canonical_split

# What stands for a missing cell, in any case: what pandas takes for it, and what UCI's and R's files hold.
MISSING = frozenset(
    ("", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "none", "nil", "?", "-", ".", "missing")
)
BOOLEAN = {"true": 1.0, "false": 0.0}
DELIMITERS = (",", ";", "\t", "|")
SPLITS = ("train", "test", "validation")
SENTENCE = 3.0  # words that the cells of a column of texts hold, in the mean
LOOKED_AT = 1_000  # rows that decide whether a column is one of texts
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """One column as it came: numbers (NaN = missing), or text (None = missing). `typed` says that the file or the
    object declares its values to be categories; booleans are 0 and 1."""

    name: str
    numbers: np.ndarray | None = None
    text: list[str | None] | None = None
    typed: bool = False
    boolean: bool = False

    @property
    def values(self) -> list[Any]:
        """As labels: numbers or text, None where missing."""
        if self.text is not None:
            return list(self.text)
        assert self.numbers is not None
        return [None if np.isnan(v) else float(v) for v in self.numbers]

    def __len__(self) -> int:
        held = self.numbers if self.text is None else self.text
        assert held is not None
        return len(held)


def read_csv(path: Path, na_values: Sequence[str]) -> list[Raw]:
    """The columns of a .csv or .tsv file; `;`, tab and `|` separate as well, and a comma may then stand for the decimal
    point. A first line of numbers only is no header."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    head, delimiter = _header(path)
    numbered = [str(n) for n in range(len(head))]
    plain = all(_number(cell) is not None for cell in head) and head != numbered
    try:
        table = arrow.read_csv(
            path,
            read_options=arrow.ReadOptions(column_names=numbered, skip_rows=0 if plain else 1),
            parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow.ConvertOptions(
                column_types={name: pa.string() for name in numbered}, strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}); every row needs {len(head)} cells, divided by "
                        f"{delimiter!r}, in UTF-8 text") from error
    names = [f"column {n}" for n in numbered] if plain else head
    missing = MISSING | {word.strip().lower() for word in na_values}
    return [_parsed(name, table.column(n), missing, decimal_comma=delimiter != ",") for n, name in enumerate(names)]


def _header(path: Path) -> tuple[list[str], str]:
    """Cells of the first line, and what divides them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); save it as UTF-8") from error
    if not line.strip():
        raise DataError(f"{path} is empty; give data that hold something")
    tabs = path.suffix.lower() == ".tsv" and "\t" in line
    delimiter = "\t" if tabs else max(DELIMITERS, key=line.count)
    return [cell.strip() for cell in next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter))], delimiter


def _parsed(name: str, column: Any, missing: frozenset[str], *, decimal_comma: bool) -> Raw:
    """A column of text as numbers, where all that is not missing is one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pc.utf8_trim_whitespace(column.combine_chunks())
    gone = pc.is_in(pc.utf8_lower(cells), value_set=pa.array(sorted(missing)))
    cells = pc.if_else(gone, pa.scalar(None, pa.string()), cells)
    tries = [cells]
    if decimal_comma:
        tries.append(pc.replace_substring(cells, ",", "."))
    for attempt in tries:
        try:
            return Raw(name=name, numbers=pc.cast(attempt, pa.float64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            continue
    return from_text(name, cells.to_pylist())


def from_text(name: str, cells: list[str | None]) -> Raw:
    """Text as numbers where all of it is (true and false are 1 and 0), else as it is."""
    numbers = [np.nan if cell is None else _number(cell) for cell in cells]
    if all(number is not None for number in numbers):
        words = {cell.lower() for cell in cells if cell is not None}
        boolean = bool(words) and words <= BOOLEAN.keys()
        return Raw(name=name, numbers=np.array(numbers, dtype=np.float64), typed=boolean, boolean=boolean)
    return Raw(name=name, text=cells)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return BOOLEAN.get(cell.lower())


def from_arrow(table: Any, na_values: Sequence[str]) -> list[Raw]:
    """The columns of an Arrow table; times, lists and what else is no number are text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = MISSING | {word.strip().lower() for word in na_values}
    columns = []
    for name, column in zip(table.column_names, table.columns):
        kind = column.type
        typed, boolean = pa.types.is_dictionary(kind), pa.types.is_boolean(kind)
        if typed:
            column, kind = pc.cast(column, kind.value_type), kind.value_type
        if boolean:
            column, kind, typed = pc.cast(column, pa.int8()), pa.int8(), True
        numeric_types = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
        if any(holds(kind) for holds in numeric_types):
            numbers = pc.cast(column, pa.float64(), safe=False).to_numpy()
            numbers = np.asarray(numbers, dtype=np.float64)
            columns.append(Raw(name=str(name), numbers=numbers, typed=typed, boolean=boolean))
            continue
        cells = [None if v is None or str(v).strip().lower() in missing else str(v).strip() for v in column.to_pylist()]
        columns.append(Raw(name=str(name), text=cells, typed=True) if typed else from_text(str(name), cells))
    return columns


def from_frame(frame: Any, na_values: Sequence[str]) -> list[Raw]:
    """The columns of a pandas DataFrame."""
    missing = MISSING | {word.strip().lower() for word in na_values}
    columns = []
    for place, name in enumerate(frame.columns):
        column = frame.iloc[:, place]
        typed = type(column.dtype).__name__ == "CategoricalDtype"
        form = getattr(column.dtype.categories.dtype if typed else column.dtype, "kind", "O")
        if form in "biuf":
            values = column.astype("float64") if typed else column
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
            columns.append(Raw(name=str(name), numbers=numbers, typed=typed or form == "b", boolean=form == "b"))
            continue
        gone = column.isna().to_numpy()
        cells = [None if none or str(v).strip().lower() in missing else str(v).strip() for v, none in zip(column, gone)]
        columns.append(Raw(name=str(name), text=cells, typed=True) if typed else from_text(str(name), cells))
    return columns


# Which columns are features.


def named(columns: list[Raw], where: str) -> list[Raw]:
    """The same columns, each name there once.

    Raises:
        DataError: two columns have one name.
    """
    name, times = Counter(column.name for column in columns).most_common(1)[0] if columns else ("", 0)
    if times > 1:
        raise DataError(f"{where} has {times} columns named '{name}'; give each a name of its own")
    return columns


def taken(columns: list[Raw], name: Any, what: str, where: str) -> Raw:
    """The column that label= or group= names."""
    found = next((column for column in columns if column.name == str(name)), None)
    if found is None:
        have = some([column.name for column in columns], 12)
        raise DataError(f"{where} has no column {str(name)!r} for {what}; columns: {have}")
    return found


def counts_rows(column: Raw) -> bool:
    if column.numbers is None or (column.name.strip() and not column.name.startswith("Unnamed:")):
        return False
    count = np.arange(len(column))
    return bool((column.numbers == count).all() or (column.numbers == count + 1).all())


def mostly_text(column: Raw, where: str) -> bool:
    """True for a column of text; raises for text that stands between numbers."""
    assert column.text is not None
    there = [(row, cell) for row, cell in enumerate(column.text) if cell is not None]
    wrong = [(row, cell) for row, cell in there if _number(cell) is None]
    if 2 * len(wrong) > len(there):
        return True
    row, cell = wrong[0]
    share = f"{len(wrong):,} of {len(column):,} rows"
    raise DataError(f"table column '{column.name}' of {where} holds text in {share} "
                    f"(first: row {row + 1}, '{cell}'); pass na_values=['{cell}'] (--na) if that stands for a missing "
                    f"cell, ignore=['{column.name}'] (--ignore) to leave the column out, or turn it into numbers")


def finite(column: Raw, where: str) -> Raw:
    assert column.numbers is not None
    bad = np.flatnonzero(np.abs(column.numbers) > LARGEST)
    if len(bad):
        raise DataError(f"table column '{column.name}' of {where} holds infinite numbers, or beyond {LARGEST:.1e}, in "
                        f"{len(bad):,} of {len(column):,} rows (first: row {int(bad[0]) + 1}); make them "
                        f"empty, which is missing, or take the logarithm")
    return column


def is_prose(column: Raw) -> bool:
    """Whether cells are sentences, judged by the first ones."""
    cells = [cell for cell in islice(column.text or (), LOOKED_AT) if cell is not None]
    return bool(cells) and sum(len(cell.split()) for cell in cells) >= SENTENCE * len(cells)


# Which columns say something of the rows: label, group, split.


class Marks(NamedTuple):
    """What columns say of the rows, and these columns."""

    labels: np.ndarray | None
    names: list[str] | None
    targets: np.ndarray | None
    groups: np.ndarray | None
    splits: Raw | None
    columns: list[Raw]


def marks_of(columns: list[Raw], options: Options, where: str) -> Marks:
    """The label (the one asked for, else the column `label`), the group and the column `split` of words."""
    label, used = options.label, list[Raw]()
    if label is None and any(column.name == "label" for column in columns):
        label = "label"
    numbers = names = targets = groups = None
    if label is not None:
        numbers, names, targets = classes_or_numbers(_one_each(columns, label, "label", where, used))
    if options.group is not None:
        groups = np.array([str(v) for v in _one_each(columns, options.group, "group", where, used)])
    splits = next((c for c in columns if c.name.lower() == "split" and c.text is not None and c not in used), None)
    return Marks(numbers, names, targets, groups, splits, [*used, splits] if splits is not None else used)


def _one_each(columns: list[Raw], asked: Any, what: str, where: str, used: list[Raw]) -> Any:
    """Values of a column by name, which is then used, or as they are given."""
    if not isinstance(asked, (str, int)):
        return one_a_sample(asked, len(columns[0]), f"{what}s", where)
    column = taken(columns, asked, f"{what}=", where)
    used.append(column)
    return column.values


def splitted(source: Source, splits: Raw | None, options: Options, again: Callable[[Options], Any]) -> Source:
    """One split of a source with a column `split` that says for each row which; training by default. `again` opens
    another one."""
    if splits is None:
        if options.split is not None:
            raise DataError(f"{source.name} has no split '{options.split}': it has no column split; open it without "
                            "split=, or make one: split_source(source)")
        return source
    each = [canonical_split(cell or "train") for cell in splits.text or ()]
    there = [s for s in dict.fromkeys((*SPLITS, *each)) if s in each]
    split = canonical_split(options.split) if options.split else there[0]
    if split not in there:
        raise DataError(f"{source.name} has no split '{options.split}'; there are: {', '.join(there)}")
    chosen = source.subset(np.flatnonzero(np.array(each)[source.rows] == split))
    return chosen.with_splits(split, {s: partial(again, replace(options, split=s)) for s in there})
