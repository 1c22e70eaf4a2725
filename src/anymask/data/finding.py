"""Folders that hold several parts of each sample without a description."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import folder, mix
from .columns import FileBlobs
from .errors import DataError
from .kind import kind_of
from .options import Options
from .pieces import kind_for
from .source import Source, canonical_split

ENOUGH = 0.5  # of the files of a folder that have their like in another one


def asked(root: Path, options: Options) -> Source:
    """The mix in a folder, asked for as kind="mix". Raises DataError where there is none."""
    found = of_table(root, options)
    if found is not None:
        return mix.mix(found, root=root, options=options)
    parts = _folders(root)
    if len(parts) < 2:
        split = _split_folders(root)
        inside = _folders(split) if split else {}
        if len(inside) < 2:
            raise DataError(f"{root} holds no parts of samples: give folders with matching names of files "
                            "(rgb/0001.jpg, depth/0001.png), a metadata.csv with file_name and a column of texts, or a "
                            "mix.toml")
        return mix.mix(_described(root, inside, "{split}/"), root=root, options=options)
    return mix.mix(_described(root, parts, ""), root=root, options=options)


def with_texts(root: Path, options: Options) -> Source | None:
    """A folder of files with a metadata table that has the column `text=` names; None where there is no such table."""
    found = of_table(root, options)
    return None if found is None else mix.mix(found, root=root, options=options)


def found(root: Path, options: Options) -> Source | None:
    """A mix that a folder cannot but be: folders whose files match by name and are of different kinds or types, as
    colour pictures and depth. None for all others; folders of classes hold files of one form."""
    if options.kind is not None or options.label is not None or options.group is not None:
        return None
    split = _split_folders(root)
    parts = _folders(split or root)
    base = split or root
    if len(parts) < 2 or len({_form(base, name, first, options) for name, first in parts.items()}) < len(parts):
        return None
    stems = {name: {Path(file).with_suffix("").as_posix() for file in folder._walk(base / name)} for name in parts}
    for name, mine in stems.items():
        others = set().union(*(theirs for other, theirs in stems.items() if other != name))
        if len(mine & others) < ENOUGH * len(mine):
            return None
    source = mix.mix(_described(root, parts, "{split}/" if split else ""), root=root, options=options)
    kinds = ", ".join(f"{name} ({kind.name})" for name, kind in source.kinds.items())
    source.notes.insert(0, f"the folders are parts of each sample: {kinds}; --kind reads files of one kind only")
    return source


def _described(root: Path, parts: Mapping[str, str], before: str) -> dict[str, Any]:
    return {"name": root.name, "fields": {name: {"path": f"{before}{name}/{{id}}.*"} for name in parts}}


def _split_folders(root: Path) -> Path | None:
    """The folder of the first split, where there are folders for splits only."""
    names = [n for n in folder._listing(root) if (root / n).is_dir()]
    splits = [n for n in names if canonical_split(n) in folder.SPLITS]
    return root / splits[0] if splits and len(splits) == len(names) else None


def _folders(root: Path) -> dict[str, str]:
    """Folders directly below, each with its first file, as far as anything reads it."""
    out = {}
    for name in folder._listing(root):
        if (root / name).is_dir():
            first = _first(root / name)
            if first is not None:
                out[name] = first
    return out


def _first(root: Path) -> str | None:
    for place, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(names):
            if not name.startswith(".") and folder._by_kind([name], Options()):
                return (Path(place) / name).relative_to(root).as_posix()
    return None


def _form(root: Path, name: str, first: str, options: Options) -> tuple[Any, ...]:
    """What tells parts apart: the kind, and the type of the values of the first file."""
    try:
        kind = kind_for(name, [first], options, name)
        settled = kind.settle(FileBlobs(root / name, [first]), options)
    except DataError:  # whoever reads it says what is wrong
        return ("unknown",)
    return kind.name, settled.dtype


def of_table(root: Path, options: Options) -> dict[str, Any] | None:
    """The description of a folder with a metadata table: columns `file_name` and `..._file_name` are files, and one
    column is texts."""
    table = next((root / name for name in folder._TABLES if (root / name).is_file()), None)
    if table is None:
        return None
    from .kinds import _texts

    columns = {column.name: column for column in _texts.read_columns(table, options)}
    files = {"": "file_name"} if "file_name" in columns else {}
    files |= {name.removesuffix("_file_name"): name for name in columns if name.endswith("_file_name")}
    known = kind_of("text").columns
    text = options.text or next((n for n in known if n in columns and columns[n].text is not None), None)
    if not files or (text is None and len(files) < 2):
        return None
    if text is not None and text not in columns:
        raise DataError(f"{table} has no column {text!r} for text= (--text); columns: {', '.join(columns)}")
    first = columns[next(iter(files.values()))].values
    keyed = {"id": next(iter(files.values()))} if None not in first and len(set(first)) == len(first) else {}
    fields: dict[str, Any] = {}
    for name, column in files.items():
        named = [str(value) for value in columns[column].values if value is not None]
        called = name or kind_for("", named[:100] or [""], options, str(table)).name
        fields[called] = {"path": table.name, "column": column, **keyed}
    if text is not None:
        called = "text" if text in known else text
        fields[called] = {"path": table.name, "column": text, "kind": "text", **keyed}
    samples = {"path": table.name, **keyed}
    samples |= {key: key for key in ("label", "split") if key in columns}
    return {"name": root.name, "fields": fields, "samples": samples}
