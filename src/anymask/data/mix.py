"""Samples of several parts: an image, its depth and a caption; any of them may be missing.

    mix.toml            a description: [fields.NAME] with path, kind, id, column, from, derive, required; [samples]
    {"fields": {...}}   the same as a dict, with `data` in place of paths
    {"rgb": array, "text": [...]}     parts by name, matched by their numbers
    a folder of folders (rgb/0001.jpg, depth/0001.png), or one with metadata.csv and a column of texts (`finding`)

Parts are matched by id. A part that a sample lacks reads as None.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .columns import Column, Picked
from .derive import derive
from .errors import DataError, some
from .folder import _class_folders
from .labels import classes_or_numbers
from .options import Options
from .pieces import Piece, Samples, of_field, samples_of
from .source import Source, canonical_split

MIX = "mix"  # as a kind that is asked for (kind=, --kind)
FILES = ("mix.toml", "mix.json")
TOP = ("name", "fields", "samples", "pairs")
FIELD = ("path", "data", "kind", "id", "ids", "column", "required", "from", "derive")
OPTIONS = ("channels", "layout", "na_values", "ignore", "tokenizer", "vocabulary", "cased", "window", "stride")


def open_mix(spec: Any, options: Options) -> Source | None:
    """A source of several parts, from a description or what is asked for as kind="mix"; None for anything else."""
    from . import finding

    if type(spec) is dict:
        about = spec if isinstance(spec.get("fields"), Mapping) else {"fields": spec}
        return mix(about, root=Path(), options=_plain(options))
    path = Path(spec).expanduser() if isinstance(spec, (str, os.PathLike)) else None
    if path is not None and path.is_dir():
        inside = next((path / name for name in FILES if (path / name).is_file()), None)
        if inside is not None and options.kind in (None, MIX):
            path = inside
    if path is not None and path.is_file() and path.suffix in (".toml", ".json") and options.kind in (None, MIX):
        about = read_description(path)
        name = path.parent.name if path.name in FILES else path.stem
        return mix({"name": name, **about}, root=path.parent, options=_plain(options))
    if options.kind == MIX and path is not None and path.is_dir():
        return finding.asked(path, _plain(options))
    if options.kind == MIX:
        raise DataError("kind='mix' (--kind) is for a folder, a description (mix.toml, mix.json) or a dict of parts, "
                        f"not for {spec if path else type(spec).__name__}")
    return finding.with_texts(path, options) if path is not None and options.text and path.is_dir() else None


def _plain(options: Options) -> Options:
    return replace(options, kind=None)


def read_description(path: Path) -> dict[str, Any]:
    """
    Raises:
        DataError: no TOML or JSON, or no fields in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        about = json.loads(text) if path.suffix == ".json" else _toml(text)
    except (ValueError, OSError) as error:  # both decoders' errors are ValueErrors
        raise DataError(f"{path} cannot be read ({error}); it is a description of parts, as [fields.rgb] with "
                        'path = "rgb"') from error
    if not isinstance(about, dict) or not isinstance(about.get("fields"), dict):
        raise DataError(f"{path} describes no parts; give at least one table [fields.NAME] with a path")
    return about


def _toml(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ImportError:
        raise DataError("a description in TOML needs Python 3.11; write it as mix.json instead") from None
    return tomllib.loads(text)


def mix(about: Mapping[str, Any], *, root: str | Path = ".", options: Options | None = None) -> Source:
    """The source that a description gives.

    Args:
        about: `fields` maps the name of a part to what it is: a mapping with `path` (relative to `root`: a folder, a
            pattern of files such as "color/{id}.jpg", a table, or whatever `open_source` takes) or `data` (an object),
            `kind`, `id` (the column of a table that holds ids; rows are numbered without), `column` (of texts, or of
            file names), `ids` (a list, of `data`), `required` (samples without it are left out), or `from` and `derive`
            (made from another part, see `derive`); options of `open_source` are passed on. Anything else than a mapping
            is taken as `data`. `samples` is a table of all samples: path, id, label, group, split. `pairs` keeps all
            parts of this share of the samples only, see `unpaired`.
        root: folder of the paths.

    Raises:
        DataError: an unknown key, a part without values, ids that occur twice, or parts that share no sample.
    """
    options, root = options or Options(), Path(root)
    _known(about, TOP, "a mix")
    described = {name: _described(name, one) for name, one in about["fields"].items()}
    if len(described) < 1:
        raise DataError("a mix has no parts; give at least one under fields")
    pieces = {n: of_field(n, one, root, _given(one, options)) for n, one in described.items() if "from" not in one}
    samples = samples_of(about.get("samples"), root, options)
    joined = _joined(pieces, samples)
    for name, one in described.items():
        if "from" in one:
            if one["from"] not in joined.columns:
                raise DataError(f"'{name}' is derived from '{one['from']}', which is no part with a path; there is: "
                                f"{', '.join(joined.columns)}")
            joined.columns[name] = derive(joined.columns[one["from"]], str(one.get("derive", name)), one["from"])
    columns = {name: joined.columns[name] for name in described}
    source = _source(str(about.get("name") or "mix"), columns, joined, pieces, options)
    if "pairs" in about:
        source = unpaired(source, pairs=about["pairs"])
    return _split(source, joined.splits, options)


def _described(name: str, given: Any) -> dict[str, Any]:
    if not name or not all(c.isalnum() or c in "_-" for c in name) or hasattr(nn.ModuleDict, name):
        raise DataError(f"a part cannot be called {name!r}; give it a name of letters, digits, - and _")
    one = dict(given) if isinstance(given, Mapping) else {"data": given}
    _known(one, (*FIELD, *OPTIONS), f"the part '{name}'")
    if sum(key in one for key in ("path", "data", "from")) != 1:
        raise DataError(f"the part '{name}' needs one of path (files), data (an object) and from (another part)")
    return one


def _known(given: Mapping[str, Any], keys: Sequence[str], what: str) -> None:
    wrong = next((key for key in given if key not in keys), None)
    if wrong is not None:
        near = difflib.get_close_matches(str(wrong), keys, n=1)
        raise DataError(f"{what} has no {wrong!r}" + (f"; did you mean {near[0]!r}?" if near else
                                                      f"; there is: {', '.join(keys)}"))


def _given(one: Mapping[str, Any], options: Options) -> Options:
    """Options of one part."""
    own = {key: one[key] for key in OPTIONS if key in one}
    own |= {key: tuple(own[key]) for key in ("na_values", "ignore") if isinstance(own.get(key), list)}
    return replace(options, split=None, label=None, group=None, text=None, kind=one.get("kind"), **own)


# Joining by id.


@dataclass
class Joined:
    """Samples by id, and where each finds its parts."""

    ids: list[str]
    columns: dict[str, Column]
    rows: np.ndarray  # those that are kept
    splits: list[str] | None
    samples: Samples | None
    bad: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _joined(pieces: Mapping[str, Piece], samples: Samples | None) -> Joined:
    ids = list(samples.ids if samples else dict.fromkeys(i for piece in pieces.values() for i in piece.ids))
    if samples is None and any(piece.sorts for piece in pieces.values()):
        ids.sort()
    place = {name: n for n, name in enumerate(ids)}
    at = {name: np.full(len(ids), -1, dtype=np.int64) for name in pieces}
    bad: dict[int, str] = {}
    lost = 0
    for name, piece in pieces.items():
        for row, key in zip(piece.rows.tolist(), piece.ids):
            n = place.get(key)
            if n is None:
                lost += 1
                continue
            at[name][n] = row
            if row in piece.bad:
                bad[n] = piece.bad[row]
    there = np.stack([rows >= 0 for rows in at.values()], 1)  # samples, parts
    if len(pieces) > 1 and not (there.sum(1) > 1).any() and not all(piece.numbered for piece in pieces.values()):
        firsts = "; ".join(f"{name} has {some([repr(key) for key in piece.ids], 2)}" for name, piece in pieces.items())
        raise DataError(f"no sample has two of the parts: their ids differ ({firsts}); give patterns that take the "
                        'same id out of the names, as path = "depth/{id}_depth.png"')
    needed = [n for n, piece in enumerate(pieces.values()) if piece.required]
    kept: np.ndarray = np.logical_and(there.any(1), there[:, needed].all(1))
    if not kept.any():
        raise DataError("no sample has the parts that are required; look whether ids match, or leave `required` out")
    splits = None
    if samples is not None and samples.splits is not None:
        splits = samples.splits
    elif any(piece.splits for piece in pieces.values()):
        known = {key: split for piece in pieces.values() for key, split in piece.splits.items()}
        splits = [known.get(key, "train") for key in ids]
    columns: dict[str, Column] = {name: Picked(piece.column, at[name]) for name, piece in pieces.items()}
    return Joined(ids, columns, np.flatnonzero(kept), splits, samples, bad,
                  _notes(pieces, there, np.asarray(kept), lost))


def _notes(pieces: Mapping[str, Piece], there: np.ndarray, kept: np.ndarray, lost: int) -> list[str]:
    notes = [note for piece in pieces.values() for note in piece.notes]
    whole, count = int(there[kept].all(1).sum()), int(kept.sum())
    if whole < count:
        lacking = [f"'{name}' in {count - int(there[kept, n].sum()):,}" for n, name in enumerate(pieces)
                   if not there[kept, n].all()]
        notes.append(f"{whole:,} of {count:,} samples have every part; missing is {some(lacking, 6)}")
    notes += [f"{lost:,} values belong to no sample of the table of samples and are not used"] * (lost > 0)
    gone = int((~kept).sum())
    return notes + [f"{gone:,} samples lack a part that is required, or all parts, and are left out"] * (gone > 0)


def _source(name: str, columns: Mapping[str, Column], joined: Joined, pieces: Mapping[str, Piece], options: Options
            ) -> Source:
    labels, names, targets, groups = _marks(joined, pieces, options)
    numbered = all(piece.numbered for piece in pieces.values()) and joined.samples is None
    source = Source(name=name, columns=columns, ids=None if numbered else joined.ids, labels=labels, label_names=names,
                    targets=targets, groups=groups, rows=joined.rows, strict=options.strict, notes=joined.notes)
    for row, reason in joined.bad.items():
        source.mark_bad(row, reason)
    return source.without_bad()


def _marks(joined: Joined, pieces: Mapping[str, Piece], options: Options) -> tuple[Any, Any, Any, Any]:
    """Labels, their names, targets and groups: of the table of samples, else of a part, else of class folders."""
    samples = joined.samples
    groups = None
    if options.group is not None or (samples is not None and samples.groups is not None):
        if samples is None or samples.groups is None:
            raise DataError(f"group={options.group!r} (--group) names a column of the table of samples, and the mix "
                            "has none; add [samples] with path and id")
        groups = np.array([str(value) for value in samples.groups])
    if samples is not None and samples.labels is not None:
        return *classes_or_numbers(samples.labels), groups
    if options.label is not None:
        raise DataError(f"label={options.label!r} (--label) names a column of the table of samples, and the mix has "
                        "none; add [samples] with path and id")
    known = next((piece.labels for piece in pieces.values() if piece.labels), None)
    if known is not None:
        return *classes_or_numbers([known.get(key) for key in joined.ids]), groups
    split = any(piece.splits for piece in pieces.values())  # which ids begin with
    labels, names = _class_folders([key.partition("/")[2] if split else key for key in joined.ids], None)
    return labels, names, None, groups


# Splits.


def _split(source: Source, splits: list[str] | None, options: Options) -> Source:
    names = [] if splits is None else [canonical_split(str(split)) for split in splits]
    there = [s for s in dict.fromkeys(("train", "test", "validation", *names)) if s in names]
    if len(there) < 2:
        if options.split is not None and canonical_split(options.split) not in there:
            raise DataError(f"{source.name} has no split '{options.split}'; give the table of samples a column split, "
                            "or open it without split=")
        return source
    wanted = canonical_split(options.split) if options.split else there[0]
    if wanted not in there:
        raise DataError(f"{source.name} has no split '{options.split}'; there are: {', '.join(there)}")
    of = np.array(names)[source.rows]
    return _part(source, of, there, wanted)


def _part(whole: Source, of: np.ndarray, there: Sequence[str], split: str) -> Source:
    source = whole.subset(np.flatnonzero(of == split))
    source.name = f"{whole.name}/{split}"
    return source.with_splits(split, {s: partial(_part, whole, of, there, s) for s in there})


def unpaired(source: Source, *, pairs: float = 0.0, seed: int = 0) -> Source:
    """The source with all parts of a share of its samples only; of every other sample one part is kept, each part as
    often as any other. What would be learnt without pairs, or with few of them."""
    if not 0.0 <= pairs <= 1.0:
        raise DataError(f"pairs={pairs} is a share of the samples, 0 to 1")
    order = np.random.default_rng(seed).permutation(len(source))
    alone = order[round(pairs * len(source)) :]
    columns: dict[str, Column] = {}
    for n, (name, column) in enumerate(source.columns.items()):
        rows = np.arange(len(column))
        rows[source.rows[alone[np.arange(len(alone)) % len(source.columns) != n]]] = -1
        columns[name] = Picked(column, rows)
    return source.with_columns(columns)


def only(source: Source, parts: Iterable[str]) -> Source:
    """The source with these parts alone. Raises DataError for a part that it does not have."""
    names = list(parts)
    lacking = [name for name in names if name not in source.columns]
    if lacking or not names:
        raise DataError(f"{source.name} has no part '{lacking[0] if lacking else ''}'; it has: "
                        f"{', '.join(source.columns)}")
    return source.with_columns({name: source.columns[name] for name in names})
