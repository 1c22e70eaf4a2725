"""Sources from folders of files: class folders, metadata tables, split subfolders."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import open_npz_splits
from .columns import BlobColumn, FileBlobs
from .errors import DataError, some
from .kind import Kind, asked_kinds
from .labels import encode
from .options import Options
from .parquet import open_parquet_folder
from .source import Maker, Source, canonical_split

SPLITS = ("train", "test", "validation")
_TABLES = ("metadata.csv", "metadata.jsonl")


def open_folder(root: Path, options: Options) -> Source:
    """The source in a folder, by what is there: a metadata table, parquet files, split folders, or plain files."""
    entries = _listing(root)
    table = next((root / name for name in _TABLES if name in entries), None)
    if table is not None:
        return _open_table(root, table, options)
    if any(name.endswith(".parquet") for name in entries):
        return open_parquet_folder(root, options)
    arrays = open_npz_splits(root, options)
    if arrays is not None:
        return arrays
    found = {canonical_split(n): root / n for n in entries if (root / n).is_dir()}
    folders = {split: found[split] for split in SPLITS if split in found}
    if folders:
        return _open_splits(root, folders, options)
    if options.split is not None:
        raise DataError(f"{root} has no split '{options.split}': there is no folder of that name; open it without "
                        f"split=, or make one with split_source(source)")
    return _open_files(root, options)


def open_file(path: Path, options: Options) -> Source:
    """A source with the one sample in a file."""
    names = _by_kind([path.name], options)
    if not names:
        raise DataError(f"{path} has the ending '{path.suffix}', which nothing here reads; known: "
                        f"{_endings(options.kind)} and .parquet, .npz")
    kind, chosen = names[0]
    return _build(path.parent, kind, chosen, options, name=path.name)


def _open_splits(root: Path, folders: dict[str, Path], options: Options) -> Source:
    split = canonical_split(options.split) if options.split else next(s for s in SPLITS if s in folders)
    if split not in folders:
        raise DataError(f"{root} has no split '{options.split}'; there are: {', '.join(folders)}")
    makers: dict[str, Maker] = {
        s: partial(_open_splits, root, folders, replace(options, split=s)) for s in folders}
    plain = replace(options, split=None)
    if any((folders[split] / t).exists() for t in _TABLES):
        source = _open_table(folders[split], folders[split] / next(
            t for t in _TABLES if (folders[split] / t).exists()), plain)
    else:
        # class numbers must be the same in all splits
        classes = sorted(set().union(*({n.split("/")[0] for n in _walk(f) if "/" in n} for f in folders.values())))
        source = _open_files(folders[split], plain, classes)
    source.name = f"{root.name}/{folders[split].name}"
    return source.with_splits(split, makers)


def _open_files(root: Path, options: Options, classes: list[str] | None = None) -> Source:
    found = _walk(root)
    kinds = _by_kind(found, options)
    if not kinds:
        endings = Counter(Path(n).suffix.lower() or "none" for n in found)
        told = f": {len(found)} files with endings {some([e for e, _ in endings.most_common()], 4)}" if found else \
            ": the folder is empty"
        what = "files that anything here reads" if options.kind is None else f"files of kind {options.kind}"
        raise DataError(f"found 0 {what} in {root}{told}; such files end in {_endings(options.kind)}")
    if len(kinds) > 1:
        told = " and ".join(f"{len(names)} of kind {kind.name}" for kind, names in kinds)
        raise DataError(f"{root} holds files of several kinds ({told}); name the kind that is meant (--kind), give a "
                        "folder with one kind, or a metadata.csv")
    kind, names = kinds[0]
    return _build(root, kind, names, options, folders=classes)


def _build(root: Path, kind: Kind, names: list[str], options: Options, *, folders: list[str] | None = None,
           name: str = "") -> Source:
    if isinstance(options.label, str) or isinstance(options.group, str):
        raise DataError(f"{root} has no metadata.csv, so label= and group= cannot name a column; add a metadata.csv "
                        f"with file_name and the columns, or use class folders")
    labels, label_names = _class_folders(names, folders)
    return _from_files(root, kind, names, options, labels, label_names, name=name or root.name)


def _class_folders(names: list[str], classes: list[str] | None) -> tuple[np.ndarray | None, list[str] | None]:
    """Class numbers from the first folder of each name, if all files lie in folders and there are at least two."""
    first = [n.split("/")[0] if "/" in n else None for n in names]
    classes = classes or sorted({f for f in first if f is not None})
    if None in first or len(classes) < 2:
        return None, None
    number = {c: i for i, c in enumerate(classes)}
    return np.array([number[f] for f in first if f is not None], dtype=np.int64), classes


def _from_files(root: Path, kind: Kind, names: list[str], options: Options, labels: np.ndarray | None,
                label_names: list[str] | None, *, groups: np.ndarray | None = None, name: str,
                notes: list[str] | None = None) -> Source:
    blobs = FileBlobs(root, names)
    settled = kind.settle(blobs, options)
    source = Source(name=name, columns={kind.name: BlobColumn(kind, blobs, settled)}, ids=names, labels=labels,
                    label_names=label_names, groups=groups, strict=options.strict,
                    notes=[*settled.notes, *(notes or [])])
    for row, reason in settled.bad.items():
        source.mark_bad(row, reason)
    return source.without_bad()


def _open_table(root: Path, table: Path, options: Options) -> Source:
    """A folder with metadata.csv or metadata.jsonl as in Hugging Face's imagefolder: file_name and other columns. A
    column `split` makes splits; `label` is the label unless label= names another column."""
    rows = _read_table(table)
    names = [str(r["file_name"]) for r in rows]
    kinds = _by_kind(names, options)
    if len(kinds) != 1:
        raise DataError(f"{table}: file_name must name files of one kind; known endings are "
                        f"{_endings(options.kind)} (first: {names[0]})")
    labels, label_names, notes = _table_labels(rows, table, options)
    if options.kind is None:
        notes = notes + _beside(rows, table, kinds[0][0])
    groups = None
    if options.group is not None:
        groups = np.array([str(v) for v in _column(rows, options.group, table, "group")])
    splits = [canonical_split(str(r.get("split") or "train")) for r in rows]
    there = [s for s in dict.fromkeys((*SPLITS, *splits)) if s in splits]
    several = len(there) > 1
    if not several and options.split is not None and canonical_split(options.split) not in there:
        raise DataError(f"{table} has no split '{options.split}': add a column split, or open it without split=")
    split = canonical_split(options.split) if options.split else there[0]
    if split not in there:
        raise DataError(f"{table} has no split '{options.split}'; there are: {', '.join(there)}")
    at = np.flatnonzero(np.array(splits) == split)
    source = _from_files(root, kinds[0][0], [names[i] for i in at], options, None if labels is None else labels[at],
                         label_names, groups=None if groups is None else groups[at],
                         name=f"{root.name}/{split}" if several else root.name, notes=notes)
    makers: dict[str, Maker] = {
        s: partial(_open_table, root, table, replace(options, split=s)) for s in there}
    return source.with_splits(split, makers) if several else source


def _read_table(table: Path) -> list[dict[str, Any]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            if table.suffix == ".csv":
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read ({error}); it must be UTF-8 text, one row a sample") from error
    if not rows:
        raise DataError(f"{table} has no rows")
    gap = next((n for n, r in enumerate(rows) if not r.get("file_name")), None)
    if gap is not None:
        raise DataError(f"{table} needs a column file_name with a value in every row (row {gap + 1} has none; columns: "
                        f"{', '.join(str(c) for c in rows[0])})")
    return rows


def _column(rows: list[dict[str, Any]], name: Any, table: Path, what: str) -> list[Any]:
    if not isinstance(name, str) or name not in rows[0]:
        raise DataError(f"{table} has no column {name!r} for {what}=; columns: {', '.join(rows[0])}")
    return [r.get(name) for r in rows]


def _table_labels(rows: list[dict[str, Any]], table: Path,
                  options: Options) -> tuple[np.ndarray | None, list[str] | None, list[str]]:
    if options.label is not None:
        return *encode(_column(rows, options.label, table, "label"), f"column '{options.label}' of {table}"), []
    if "label" not in rows[0]:
        return None, None, []
    try:
        return *encode([r.get("label") for r in rows], "column 'label'"), []
    except DataError as error:  # nobody asked for these labels, and pre-training needs none
        return None, None, [f"no labels are used: {error}"]


def _beside(rows: list[dict[str, Any]], table: Path, kind: Kind) -> list[str]:
    """Which further parts of the samples the table holds."""
    found = ((other, name) for other in asked_kinds(None) if other is not kind for name in other.columns)
    return next(([f"column '{name}' of {table.name} is {other.name}, which is not used; --kind mix trains on both"]
                 for other, name in found if name in rows[0]), [])


def _listing(root: Path) -> list[str]:
    try:
        return sorted(n for n in os.listdir(root) if not n.startswith("."))
    except PermissionError as error:
        raise DataError(f"no permission to read the folder {root}; change it: chmod u+rx {root}") from error


def _walk(root: Path) -> list[str]:
    """Names of all files below a folder, with '/', sorted; hidden files and folders are left out."""
    found: list[str] = []

    def fail(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename} ({error.strerror}); give it reading permission or "
                        f"move it out of the data") from error

    for folder, folders, names in os.walk(root, onerror=fail, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        inside = Path(folder).relative_to(root).as_posix()
        found += [n if inside == "." else f"{inside}/{n}" for n in names if not n.startswith(".")]
    return sorted(found)


def _by_kind(names: list[str], options: Options) -> list[tuple[Kind, list[str]]]:
    """The kinds that read any of the files, each with its files; those whose files may lie beside others' (readme.txt)
    only where there are no others."""
    read = [(kind, _read_by(kind, options.kind)) for kind in asked_kinds(options.kind)]
    groups = ((kind, [n for n in names if Path(n).suffix.lower() in endings]) for kind, endings in read)
    found = [(kind, chosen) for kind, chosen in groups if chosen]
    return [(kind, chosen) for kind, chosen in found if not kind.incidental] or found


def files_by_kind(root: Path, options: Options) -> list[tuple[Kind, list[str]]]:
    """The kinds that read any of the files below a folder, each with the names of its files."""
    return _by_kind(_walk(root), options)


def _read_by(kind: Kind, asked: str | None) -> frozenset[str]:
    return kind.endings | kind.asked_endings if asked == kind.name else kind.endings


def _endings(asked: str | None) -> str:
    return " ".join(sorted(set().union(*(_read_by(kind, asked) for kind in asked_kinds(asked)))))
