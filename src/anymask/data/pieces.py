"""One part of a mix: its values, and the id of each."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import folder
from .columns import BlobColumn, Column, FileBlobs
from .errors import DataError, some
from .kind import Kind, all_kinds, kind_of
from .options import Options
from .source import Source, canonical_split

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
SLOTS = {"id": ".+", "label": "[^/]+", "split": "[^/]+"}


@dataclass
class Piece:
    """Values of one part: `rows` of the column that hold one, and the id of each. `numbered` says that ids are numbers
    of rows, `sorts` that they are best put in order."""

    column: Column
    rows: np.ndarray
    ids: list[str]
    required: bool = False
    numbered: bool = False
    sorts: bool = False
    bad: Mapping[int, str] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Samples:
    """The table of samples: an id in every row, and what else is known."""

    ids: list[str]
    labels: list[Any] | None = None
    groups: list[Any] | None = None
    splits: list[str] | None = None


def of_field(name: str, about: Mapping[str, Any], root: Path, options: Options) -> Piece:
    """The values of the part `name`, see `mix.mix`."""
    if options.kind is not None:
        kind_of(options.kind)
    if "data" in about:
        piece = _of_object(name, about["data"], about.get("ids"), options)
    else:
        piece = _of_path(name, str(about["path"]), about, root, options)
    if not len(piece.rows):
        raise DataError(f"the part '{name}' has no values")
    twice = _twice(piece.ids)
    if twice is not None:
        raise DataError(f"the part '{name}' has the id '{twice}' more than once; give each value its own")
    piece.required = bool(about.get("required", False))
    return piece


def _twice(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((key for key in ids if key in seen or seen.add(key)), None)  # type: ignore[func-returns-value]


def _of_path(name: str, path: str, about: Mapping[str, Any], root: Path, options: Options) -> Piece:
    place = root / Path(path).expanduser()
    if "{" in path or "*" in path:
        return of_files(name, root, path, options)
    if not place.exists():
        raise DataError(f"the part '{name}' has the path {place}, which does not exist; paths are relative to {root}")
    if place.is_dir():
        kinds = folder._by_kind(folder._walk(place), options)
        if kinds and "id" not in about:
            return of_files(name, place, "{id}.*", options)
    elif place.suffix.lower() in TABLES and ("column" in about or "id" in about):
        return _of_table(name, place, about, options)
    return _of_object(name, place, None, options)


# Files.


def of_files(name: str, root: Path, pattern: str, options: Options) -> Piece:
    """Files below a folder whose names fit a pattern: `{id}` is the id, `{label}` and `{split}` are folders or parts of
    a name that say so, `*` is anything within one."""
    found = matched(root, pattern)
    if not found:
        raise DataError(f"no file below {root} fits '{pattern}', the path of the part '{name}'; it holds "
                        f"{some(folder._walk(root), 3) or 'nothing'}")
    kind = kind_for(name, [file for file, _ in found], options, pattern)
    endings = kind.endings | kind.asked_endings
    found = [(file, slots) for file, slots in found if Path(file).suffix.lower() in endings]
    names = [file for file, _ in found]
    keys = ["/".join(slots[s] for s in ("split", "label", "id") if s in slots) for _, slots in found]
    twice = _twice(keys)
    if twice is not None:
        which = [file for file, key in zip(names, keys) if key == twice]
        raise DataError(f"the part '{name}' has several files for the id '{twice}': {some(which)}; give a pattern that "
                        'takes one of them, as path = "rgb/{id}.jpg"')
    blobs = FileBlobs(root, names)
    settled = kind.settle(blobs, replace(options, kind=kind.name))
    column = BlobColumn(kind, blobs, settled)
    labels = {key: slots["label"] for key, (_, slots) in zip(keys, found) if "label" in slots}
    splits = {key: canonical_split(slots["split"]) for key, (_, slots) in zip(keys, found) if "split" in slots}
    return Piece(column, np.arange(len(names)), keys, sorts=True, bad=settled.bad, labels=labels, splits=splits,
                 notes=[f"'{name}': {note}" for note in settled.notes])


def matched(root: Path, pattern: str) -> list[tuple[str, dict[str, str]]]:
    """Files below a folder that fit a pattern, and what stands for its slots."""
    unknown = [slot for slot in re.findall(r"{(.*?)}", pattern) if slot not in SLOTS]
    if unknown or "{id}" not in pattern:
        raise DataError(f"the pattern '{pattern}' needs {{id}}, and may have {{label}} and {{split}}" + (
            f"; {{{unknown[0]}}} is unknown" if unknown else ""))
    words = re.split(r"({\w+}|\*)", pattern)
    made = "".join("[^/]*" if w == "*" else f"(?P<{w[1:-1]}>{SLOTS[w[1:-1]]})" if w[:1] == "{" else re.escape(w)
                   for w in words)
    fits = re.compile(made)
    fixed = pattern[: re.search(r"[{*]", pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    base = root / fixed
    if not base.is_dir():
        return []
    names = (f"{fixed}/{file}" if fixed else file for file in folder._walk(base))
    return [(file, match.groupdict()) for file in names if (match := fits.fullmatch(file))]


def kind_for(name: str, files: Sequence[str], options: Options, where: str) -> Kind:
    """The kind of files: the one asked for, the one that folders of this name hold, or by their endings."""
    if options.kind is not None:
        return kind_of(options.kind)
    endings = {Path(file).suffix.lower() for file in files}
    called = [kind for kind in all_kinds().values() if name.lower() in kind.folders and endings & kind.asked_endings]
    if called:
        return called[0]
    kinds = folder._by_kind(list(files), options)
    if len(kinds) != 1:
        told = " and ".join(kind.name for kind, _ in kinds) or "no kind that anything here reads"
        raise DataError(f"the files of the part '{name}' ({where}) are of {told} (first: {files[0]}); name their kind, "
                        'as kind = "image"')
    return kinds[0][0]


# Tables.


def _of_table(name: str, path: Path, about: Mapping[str, Any], options: Options) -> Piece:
    """A column of texts or of file names, or all columns of numbers, with ids from another column."""
    from .kinds import _cells, _texts

    columns = _cells.named(_texts.read_columns(path, options), str(path))
    count = len(columns[0]) if columns else 0
    ids = _keys(path, about["id"], options) if "id" in about else [str(n) for n in range(count)]
    if "column" in about and options.kind != "table":
        cells = _as_text(_taken(columns, about["column"], path))
        rows = np.array([n for n, cell in enumerate(cells) if cell is not None and cell.strip()], dtype=np.int64)
        return _of_cells(name, path, cells, rows, [ids[n] for n in rows], "id" not in about, options)
    left = tuple(about[key] for key in ("id",) if key in about)
    source = all_kinds()["table"].open(path, replace(options, kind="table", ignore=(*options.ignore, *left)))
    assert isinstance(source, Source)
    (column,) = source.columns.values()
    return Piece(column, source.rows, [ids[n] for n in source.rows], numbered="id" not in about, notes=source.notes)


def _of_cells(name: str, path: Path, cells: list[str | None], rows: np.ndarray, ids: list[str], numbered: bool,
              options: Options) -> Piece:
    from .kinds import _vocabulary
    from .kinds.text import KIND as TEXT
    from .kinds.text import TextColumn

    names = [str(cells[n]) for n in rows]
    known = frozenset().union(*(kind.endings | kind.asked_endings for kind in all_kinds().values())) - {".txt", ""}
    if names and options.kind != "text" and all(Path(file).suffix.lower() in known for file in names[:100]):
        kind = kind_for(name, names, options, str(path))
        blobs = FileBlobs(path.parent, names)
        settled = kind.settle(blobs, replace(options, kind=kind.name))
        notes = [f"'{name}': {note}" for note in settled.notes]
        return Piece(BlobColumn(kind, blobs, settled), np.arange(len(names)), ids, numbered=numbered, bad=settled.bad,
                     notes=notes)
    if options.kind not in (None, "text"):
        raise DataError(f"the part '{name}' is to be of kind {options.kind}, and its column of {path} holds no names "
                        f"of such files (first: {names[0] if names else 'nothing'!r})")
    pieces = _vocabulary.pieces(options.tokenizer, options.vocabulary, options.cased)
    return Piece(TextColumn([cell or "" for cell in cells], pieces, TEXT), rows, ids, numbered=numbered)


def samples_of(about: Mapping[str, Any] | None, root: Path, options: Options) -> Samples | None:
    """The table of samples that a description names; label= and group= name other columns than it does."""
    from .kinds import _cells, _texts

    if about is None:
        return None
    wrong = next((key for key in about if key not in ("path", "id", "label", "group", "split")), None)
    if wrong is not None or "path" not in about:
        told = f", not {wrong!r}" if wrong else ""
        raise DataError(f"samples needs path, and may have id, label, group and split{told}")
    path = root / str(about["path"])
    if not path.is_file() or path.suffix.lower() not in TABLES:
        raise DataError(f"the table of samples {path} is not there, or is none of {', '.join(TABLES)}")
    columns = _cells.named(_texts.read_columns(path, options), str(path))
    given = {key: about.get(key) for key in ("label", "group", "split")}
    given |= {key: value for key, value in (("label", options.label), ("group", options.group)) if value is not None}
    found = {key: None if name is None else list(_taken(columns, name, path).values) for key, name in given.items()}
    ids = _keys(path, about["id"], options) if "id" in about else [str(n) for n in range(len(columns[0]))]
    splits = None if found["split"] is None else [canonical_split(str(s or "train")) for s in found["split"]]
    twice = _twice(ids)
    if twice is not None:
        raise DataError(f"the table of samples {path} has the id '{twice}' more than once; give each sample its own")
    return Samples(ids, found["label"], found["group"], splits)


def _taken(columns: Sequence[Any], name: Any, path: Path) -> Any:
    found = next((column for column in columns if column.name == name), None)
    if found is None:
        raise DataError(f"{path} has no column {name!r}; columns: {', '.join(column.name for column in columns)}")
    return found


def _as_text(column: Any) -> list[str | None]:
    return column.text if column.text is not None else [None if v is None else f"{v:g}" for v in column.values]


def _keys(path: Path, name: str, options: Options) -> list[str]:
    """A column of ids as it is written: '0012' stays so."""
    from .kinds import _cells, _texts

    if path.suffix.lower() in (".csv", ".tsv"):
        names, mark = _cells._header(path)
        if name not in names:
            raise DataError(f"{path} has no column {name!r} for id; columns: {', '.join(names)}")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file, delimiter=mark) if row][1:]
        keys = [row[names.index(name)].strip() for row in rows]
    else:
        values = _taken(_texts.read_columns(path, options), name, path).values
        keys = [f"{v:g}" if isinstance(v, float) else str(v or "") for v in values]
    empty = next((n for n, key in enumerate(keys) if not key), None)
    if empty is not None:
        raise DataError(f"row {empty + 1} of {path} has no id in column {name!r}; give it one")
    return keys


# Objects, and whatever else `open_source` takes.


def _of_object(name: str, data: Any, ids: Sequence[Any] | None, options: Options) -> Piece:
    from .open import open_source

    rows = None
    if isinstance(data, (list, tuple)) and any(item is None for item in data):
        rows = np.array([n for n, item in enumerate(data) if item is not None], dtype=np.int64)
        data = [data[n] for n in rows]
        if not data:
            raise DataError(f"the part '{name}' has no values")
        if not isinstance(data[0], str):
            data = np.stack([np.asarray(item) for item in data])
    given = {key: value for key, value in vars(options).items() if value not in (None, (), False)}
    source = data if isinstance(data, Source) else open_source(data, **given)
    if not isinstance(source, Source) or len(source.columns) != 1:
        raise DataError(f"the part '{name}' has to be data of one part; give one of its parts, or name all in the mix")
    (column,) = source.columns.values()
    called = source._ids is not None and isinstance(data, (Source, Path))
    keys = source.ids if called else [str(n) for n in (source.rows if rows is None else rows)]
    if ids is not None:
        if len(ids) != (len(source) if rows is None else int(rows.max()) + 1):
            raise DataError(f"the part '{name}' has {len(source)} values and {len(ids)} ids; give one each")
        keys = [str(ids[n]) for n in (range(len(source)) if rows is None else rows)]
    numbers = source.labels
    labels = {}
    if numbers is not None:
        names = source.label_names
        labels = {k: (names[n] if names else int(n)) for k, n in zip(keys, numbers.tolist()) if n >= 0}
    return Piece(column, source.rows, keys, numbered=not called and ids is None, labels=labels, bad=source.bad_rows,
                 notes=source.notes)
