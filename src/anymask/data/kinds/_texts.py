"""Files and objects that hold texts, as columns; which column is the text, and when a table is one of texts."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, some
from ..options import Options
from ._cells import LOOKED_AT, MISSING, Raw, from_arrow, from_frame, from_text, is_prose, taken

TABLES = (".csv", ".tsv", ".parquet")
FILES = (".txt", ".jsonl", *TABLES)
# What a column of texts is called, the likeliest first.
NAMES = ("text", "texts", "sentence", "document", "content", "body", "review", "abstract", "passage", "title",
         "caption", "captions", "description", "prompt")
HEADER = 6  # words: a longer cell in the first line is a text, no name of a column
WORDS, LETTERS = 80, 640  # of a window, at most


# Plain text.


def read_text(path: Path) -> str:
    """
    Raises:
        DataError: it is no UTF-8 text.
    """
    try:
        return decoded(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is no text ({error}); save it as UTF-8 (iconv -f latin1 -t utf-8)") from error


def decoded(data: bytes) -> str:
    """
    Raises:
        ValueError: bytes that are no UTF-8 text.
    """
    if b"\0" in data:
        raise ValueError(f"byte {data.index(0)} is 0, as in a binary file")
    return data.decode("utf-8-sig")


def paragraphs(text: str) -> tuple[list[str], list[str]]:
    """The documents of a plain text file, and notes: paragraphs between empty lines or, where there are none, lines;
    longer ones are cut into windows of at most 80 words."""
    blocks = [" ".join(block.split()) for block in re.split(r"\n[ \t\r\f\v]*\n", text)]
    blocks, unit = [block for block in blocks if block], "paragraphs between empty lines"
    if len(blocks) < 2:
        blocks, unit = [" ".join(line.split()) for line in text.splitlines() if line.strip()], "lines"
    cut = [window for block in blocks for window in windows(block)]
    long = sum(1 for block in blocks if len(windows(block)) > 1)
    notes = [f"texts are the {unit}"]
    if long:
        notes.append(f"{long:,} of {len(blocks):,} {unit.partition(' ')[0]} are cut into windows of at most {WORDS} "
                     "words")
    return cut, notes


def windows(text: str) -> list[str]:
    """Parts of at most 80 words and 640 characters, cut between words where there are any."""
    found: list[str] = []
    now: list[str] = []
    length = 0
    for word in text.split():
        for start in range(0, len(word), LETTERS):  # languages without spaces
            piece = word[start : start + LETTERS]
            if len(now) == WORDS or length + len(piece) > LETTERS:
                found.append(" ".join(now))
                now, length = [], 0
            now.append(piece)
            length += len(piece) + 1
    return [*found, " ".join(now)] if now else found


# Tables.


def read_columns(path: Path, options: Options, limit: int | None = None) -> list[Raw]:
    """The columns of a .csv, .tsv, .parquet or .jsonl file; of the first `limit` rows."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _read_parquet(path, options, limit)
    if ending == ".jsonl":
        return _of_rows(list(islice(_objects(path), limit)))
    return _read_csv(path, options, limit)


def _read_csv(path: Path, options: Options, limit: int | None) -> list[Raw]:
    """A .tsv file knows no quotes, unless its rows fit together only with them."""
    tabs = path.suffix.lower() == ".tsv"
    text = read_text(path) if limit is None else _head(path, limit)
    lines = text.splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise DataError(f"{path} is empty")
    mark = "\t" if tabs and "\t" in first else max((",", ";", "\t", "|"), key=first.count)
    before = csv.field_size_limit(sys.maxsize)
    try:
        rows = list(csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL))
        if tabs and len({len(row) for row in rows if row}) > 1:
            rows = list(csv.reader(lines, delimiter=mark))
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table ({error}); write it again as UTF-8 .csv or .jsonl") \
            from error
    finally:
        csv.field_size_limit(before)
    rows = [row for row in rows if row]
    rows = rows[: None if limit is None else limit]
    wrong = next((n for n, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if wrong is not None:
        raise DataError(f"{path} has {len(rows[0])} cells in its first row and {len(rows[wrong])} in row {wrong + 1}, "
                        f"divided by {mark!r}; put texts that hold it into quotes")
    if tabs:
        rows = [[_unquoted(cell) for cell in row] for row in rows]
    names = [cell.strip() for cell in rows[0]]
    if _is_header(names):
        return [from_text(name, cells) for name, cells in zip(names, _cells(rows[1:], len(names), options))]
    columns = [from_text(f"column {n}", cells) for n, cells in enumerate(_cells(rows, len(names), options))]
    return _named(columns)


def _head(path: Path, limit: int) -> str:
    """As many lines as hold `limit` rows; whole quotes."""
    with path.open("rb") as file:
        data = b"".join(islice(file, limit))
    try:
        text = decoded(data)
    except ValueError as error:
        raise DataError(f"{path} is no text ({error}); save it as UTF-8 (iconv -f latin1 -t utf-8)") from error
    cut = text.count('"') % 2 and path.suffix.lower() != ".tsv"  # within a quoted cell: its row is left out
    return text[: text.rfind("\n", 0, text.rfind('"'))] if cut else text


def _cells(rows: list[list[str]], width: int, options: Options) -> list[list[str | None]]:
    """Cells by column, None where missing."""
    gone = MISSING | {word.strip().lower() for word in options.na_values}
    columns = [[row[n].strip() for row in rows] for n in range(width)]
    return [[None if cell.lower() in gone else cell for cell in column] for column in columns]


def _unquoted(cell: str) -> str:
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"'
    return cell[1:-1].replace('""', '"') if whole else cell


def _is_header(cells: list[str]) -> bool:
    """Whether a first row holds names: no number, nothing empty but the first, no sentence."""
    number = from_text("", [cell or None for cell in cells])
    return number.text is not None and all(
        len(cell.split()) <= HEADER and from_text("", [cell or None]).numbers is None for cell in cells[1:] or cells
    )


def _named(columns: list[Raw]) -> list[Raw]:
    """Names for columns without: the texts, and the classes, where one other column has few values."""
    prose = [column for column in columns if is_prose(column)]
    if len(prose) != 1:
        return columns
    others = [column for column in columns if column is not prose[0]]
    few = len(others) == 1 and len(set(others[0].values)) <= max(2, len(others[0]) // 10)
    rename = {prose[0].name: "text"} | ({others[0].name: "label"} if few else {})
    return [Raw(name=rename.get(c.name, c.name), numbers=c.numbers, text=c.text) for c in columns]


def _read_parquet(path: Path, options: Options, limit: int | None) -> list[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        plain = [f.name for f in file.schema_arrow if not (pa.types.is_nested(f.type) or pa.types.is_binary(f.type))]
        if limit is None:
            return from_arrow(file.read(columns=plain), options.na_values)
        batch = next(file.iter_batches(limit, columns=plain), None)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}); download or write it again") from error
    return [] if batch is None else from_arrow(pa.Table.from_batches([batch]), options.na_values)


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a .jsonl file."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise DataError(f"line {number} of {path} is no JSON ({error}); mend or remove it, or download the "
                                "file again") from error
            if not isinstance(row, dict):
                raise DataError(f"line {number} of {path} is {type(row).__name__}; every line needs an object, as "
                                '{"text": "...", "label": 0}')
            yield row


def _of_rows(rows: list[dict[str, Any]]) -> list[Raw]:
    """Columns of text and numbers of JSON objects; what holds lists or objects is left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = []
    for name in names:
        cells = [row.get(name) for row in rows]
        if any(isinstance(cell, (dict, list)) for cell in cells):
            continue
        texts = any(isinstance(cell, str) for cell in cells)
        if texts:
            columns.append(Raw(name=name, text=[None if c is None or c == "" else str(c) for c in cells]))
        else:
            numbers = np.array([np.nan if c is None else float(c) for c in cells], dtype=np.float64)
            columns.append(Raw(name=name, numbers=numbers))
    return columns


def of_frame(spec: Any, options: Options) -> list[Raw]:
    """The columns of a DataFrame or an Arrow table."""
    if hasattr(spec, "iloc"):
        return from_frame(spec, options.na_values)
    return from_arrow(spec.to_arrow() if hasattr(spec, "to_arrow") else spec, options.na_values)


# Which column.


def text_column(columns: Sequence[Raw], options: Options, where: str) -> Raw | None:
    """The column of texts: the one asked for; else one of sentences, by its name or as the longest, unless there are
    two or more columns of numbers beside label and group, which make it a table of numbers. None = no texts.

    Raises:
        DataError: there is no column of the name asked for.
    """
    if options.text is not None:
        column = taken(list(columns), options.text, "text=", where)
        if column.text is not None:
            return column
        return Raw(name=column.name, text=[None if v is None else f"{v:g}" for v in column.values])
    apart = {str(options.label), str(options.group), "label", "split", "_id", "id", "idx", "", *options.ignore}
    others = [column for column in columns if column.name not in apart]
    if sum(column.numbers is not None for column in others) >= 2:
        return None
    prose = [column for column in others if is_prose(column)]
    known = {name: n for n, name in enumerate(NAMES)}
    named = sorted((c for c in prose if c.name.lower() in known), key=lambda c: known[c.name.lower()])
    size = lambda column: sum(len(cell or "") for cell in islice(column.text, LOOKED_AT))
    return named[0] if named else max(prose, key=size, default=None)


def holds_texts(path: Path, options: Options) -> bool:
    """Whether a file is one of texts rather than numbers, judged by its first rows."""
    ending = path.suffix.lower()
    if ending not in FILES or not os.access(path, os.R_OK):
        return False
    if ending in (".txt", ".jsonl") or options.text is not None:
        return True
    try:
        columns = read_columns(path, options, LOOKED_AT)
    except DataError:
        return False  # whoever else reads it says what is wrong
    return text_column(columns, options, path.name) is not None


def pick(columns: list[Raw], options: Options, where: str) -> Raw:
    """The column of texts of data that are known to be texts.

    Raises:
        DataError: there is none.
    """
    found = text_column(columns, options, where)
    if found is None:
        have = some([f"'{column.name}'" for column in columns], 8) or "none"
        raise DataError(f"{where} has no column of sentences (columns: {have}); name the column of the texts: "
                        "text= (--text)")
    return found
