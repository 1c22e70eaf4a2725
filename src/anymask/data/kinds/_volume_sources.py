"""Volumes from folders: one volume a file, or cases with several scans; splits, classes and tables of labels."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, Unreadable, some
from ..folder import _TABLES, SPLITS, _class_folders, _column, _read_table, _table_labels, _walk
from ..options import Options
from ..source import Source, canonical_split
from . import _volumes
from ._volumes import Case, Scan, is_nifti, stem
from .volume import CROP, KIND, PLAIN, SMALLEST, Volumes

Files = list[tuple[str, Any]]  # modality, and where its scan is
LOOKED = 200  # entries of a folder that are looked at, to know whether it holds volumes
DEEP = 4  # folders below one another that are
LABELS = re.compile(r"(^|[_\-.])(d?seg|mask|labels?|brainmask|aseg|aparc|segmentation|gt)$", re.IGNORECASE)
NUMBERED = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")  # nnU-Net
MODALITIES = re.compile(  # by which a single case is known
    r"^(t1|t2|t1w|t2w|t1c|t1n|t2f|t1ce|t1gd|flair|pd|pdw|dwi|adc|ct|cta|pet|swi|mra|asl)$", re.IGNORECASE
)


def open_path(path: Path, options: Options) -> Source | None:
    """A NIfTI file or a folder of them; None where there are none. Files .npy where volumes are asked for."""
    if path.is_file():
        if not (is_nifti(path.name) or (path.suffix == ".npy" and options.kind == KIND.name)):
            return None
        if not os.access(path, os.R_OK):
            return None  # the opener of files says so
        return source_of(_arrays(path) if path.suffix == ".npy" else [(path.name, [(PLAIN, path)])], options, path.name)
    if not path.is_dir() or not (options.kind == KIND.name or _holds_volumes(path)):
        return None
    table = next((path / name for name in _TABLES if (path / name).is_file()), None)
    if table is not None:
        return _open_table(path, table, options)
    names = [name for name in _walk(path) if _readable(name, options)]
    if not names:
        return None  # the opener of folders says what there is
    parts: dict[str, list[str]] = defaultdict(list)
    for name in names:
        first, slash, _ = name.partition("/")
        parts[canonical_split(first) if slash else ""].append(name)
    there = [split for split in SPLITS if split in parts]
    if "train" not in there:
        if options.split is not None:
            raise DataError(f"{path} has no split '{options.split}': there is no folder of that name; open it without "
                            "split=, or make one with split_source(source)")
        return _open_names(path, names, options, path.name)
    split = canonical_split(options.split) if options.split else "train"
    if split not in there:
        raise DataError(f"{path} has no split '{options.split}'; there are: {', '.join(there)}")
    top = parts[split][0].partition("/")[0]
    inside = [name.partition("/")[2] for name in parts[split]]
    source = _open_names(path / top, inside, options, f"{path.name}/{split}")
    return source.with_splits(split, {s: partial(_split, path, replace(options, split=s)) for s in there})


def _split(path: Path, options: Options) -> Source:
    source = open_path(path, options)
    assert source is not None
    return source


def _readable(name: str, options: Options) -> bool:
    return is_nifti(name) or (options.kind == KIND.name and name.lower().endswith(".npy"))


def _holds_volumes(folder: Path, depth: int = DEEP) -> bool:
    """Whether there is a NIfTI file among the first entries of a folder, or of the first folders in it."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(islice((e for e in entries if not e.name.startswith(".")), LOOKED), key=lambda e: e.name)
            if any(is_nifti(entry.name) for entry in found):
                return True
            below = [Path(entry.path) for entry in found if entry.is_dir()][:4]
    except PermissionError:  # the opener of folders says what mends it
        return False
    return depth > 1 and any(_holds_volumes(one, depth - 1) for one in below)


def _open_names(root: Path, names: list[str], options: Options, called: str) -> Source:
    if isinstance(options.label, str) or isinstance(options.group, str):
        raise DataError(f"{root} has no metadata.csv, so label= and group= cannot name a column; add a metadata.csv "
                        "with file_name and the columns, or use class folders")
    masks = [name for name in names if LABELS.search(stem(name))]
    notes = []
    if masks and len(masks) < len(names):
        notes = [f"{len(masks):,} files are labels of voxels by their names and are left out: {some(masks)}"]
        names = [name for name in names if name not in set(masks)]
    found = cases(root, names)
    if found is not None:
        cases_, modalities, left = found
        notes += [f"{len(left):,} files belong to no modality of several cases and are left out: {some(left)}"] * bool(
            left)  # fmt: skip
        return source_of(cases_, options, called, modalities=modalities, notes=notes)
    labels, label_names = _class_folders(names, None)
    volumes = [(name, [(PLAIN, root / name)]) for name in names]
    return source_of(volumes, options, called, labels=labels, label_names=label_names, notes=notes)


def _open_table(root: Path, table: Path, options: Options) -> Source | None:
    """A folder with metadata.csv (file_name and label, split, other columns), one volume a row."""
    rows = _read_table(table)
    if not all(_readable(str(row["file_name"]), options) for row in rows):
        return None
    labels, label_names, notes = _table_labels(rows, table, options)
    given = None if options.group is None else _column(rows, options.group, table, "group")
    splits = [canonical_split(str(row.get("split") or "train")) for row in rows]
    there = [s for s in dict.fromkeys((*SPLITS, *splits)) if s in splits]
    split = canonical_split(options.split) if options.split else there[0]
    if split not in there:
        raise DataError(f"{table} has no split '{options.split}'; there are: {', '.join(there)}")
    at = [n for n, one in enumerate(splits) if one == split]
    volumes = [(str(rows[n]["file_name"]), [(PLAIN, root / str(rows[n]["file_name"]))]) for n in at]
    source = source_of(
        volumes, options, f"{root.name}/{split}" if len(there) > 1 else root.name, notes=notes, label_names=label_names,
        labels=None if labels is None else labels[at], groups=None if given is None else [str(given[n]) for n in at],
    )  # fmt: skip
    if len(there) == 1:
        return source
    return source.with_splits(split, {s: partial(_split, root, replace(options, split=s)) for s in there})


def _arrays(path: Path) -> list[tuple[str, Files]]:
    """The volumes of a .npy file (X, Y, Z) or (N, X, Y, Z)."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); write it anew with numpy.save") from error
    if array.ndim != 4:
        return [(path.name, [(PLAIN, path)])]
    return [(f"volume {n} of {path.name}", [(PLAIN, one)]) for n, one in enumerate(array)]


# Cases.


def cases(root: Path, names: Sequence[str]) -> tuple[list[tuple[str, Files]], tuple[str, ...], list[str]] | None:
    """Cases with scans of several modalities, the modalities, and the files that are of none; None where every file is
    a volume by itself. Cases are folders (CASE/t1.nii.gz, CASE/CASE_t1.nii.gz), or files CASE_0000.nii.gz as nnU-Net
    names them."""
    numbered = [NUMBERED.match(stem(name)) for name in names]
    if all(numbered) and len({match["channel"] for match in numbered if match}) > 1:
        called = _channel_names(root)
        table: dict[str, dict[str, Any]] = defaultdict(dict)
        for name, match in zip(names, numbered):
            assert match is not None
            table[match["case"]][called.get(match["channel"], match["channel"])] = root / name
        return _tabled(table, [])
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[name.rpartition("/")[0]].append(name)
    counts: Counter[str] = Counter()
    for files in folders.values():
        if len(files) > 1:
            counts.update(set(_ends([stem(name) for name in files])))
    if len(folders) == 1:
        known = [name for name in counts if MODALITIES.match(name)] if next(iter(folders)) else []
    else:
        known = [name for name, n in counts.items() if n > 1]
    if len(known) < 2:
        return None
    table, left = defaultdict(dict), []
    for folder, files in folders.items():
        for name in files:
            which = [m for m in known if stem(name) == m or re.search(rf"[_\-.]{re.escape(m)}$", stem(name))]
            if which:
                table[folder][max(which, key=len)] = root / name
            else:
                left.append(name)
    return _tabled(table, left) if len(left) < len(names) / 2 else None


def _tabled(table: dict[str, dict[str, Any]], left: list[str]
            ) -> tuple[list[tuple[str, Files]], tuple[str, ...], list[str]]:
    modalities = tuple(sorted({name for scans in table.values() for name in scans}))
    return [(case, list(scans.items())) for case, scans in sorted(table.items())], modalities, left


def _ends(stems: list[str]) -> list[str]:
    """What the names of a folder's files do not share: their ends, from a separator on."""
    first, last = min(stems), max(stems)  # what these share at the start, all share
    shared = next((n for n, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    start = max(first[:shared].rfind(mark) for mark in "_-.") + 1
    return [one[start:] for one in stems]


def _channel_names(root: Path) -> dict[str, str]:
    """'0000' -> 'T1' as nnU-Net's dataset.json has it, beside the files or one folder above."""
    for path in (root / "dataset.json", root.parent / "dataset.json"):
        if path.is_file():
            try:
                about = json.loads(path.read_text())
                names = about.get("channel_names") or about.get("modality") or {}
                return {f"{int(number):04d}": str(name) for number, name in names.items()}
            except (ValueError, AttributeError) as error:
                raise DataError(f"{path} does not name its channels as nnU-Net does ({error}); mend or remove it") \
                    from error
    return {}


# The source.


def source_of(given: Sequence[tuple[str, Files]], options: Options, called: str = "volumes", *,
              modalities: tuple[str, ...] = (PLAIN,), labels: np.ndarray | None = None,
              label_names: list[str] | None = None, groups: Sequence[str] | None = None, notes: Sequence[str] = (),
              ) -> Source:  # fmt: skip
    """Crops of the cases that can be read.

    Raises:
        DataError: none can be, or (with `strict`) not all; a crop that is too small.
    """
    crop = CROP if options.window is None else options.window
    stride = crop if options.stride is None else options.stride
    if crop < SMALLEST or stride < 1:
        raise DataError(f"window={crop} (--window) is the side of a crop in voxels, from {SMALLEST} on, and "
                        f"stride={stride} (--stride) from one to the next, from 1 on")
    found: list[Case] = []
    kept: list[int] = []
    bad: list[tuple[str, str]] = []
    for number, (name, files) in enumerate(given):
        scans, wrong = _surveyed(name, dict(files), modalities)
        bad += wrong
        if any(scans):
            found.append(Case(name, scans))
            kept.append(number)
    if bad and (options.strict or not found):
        raise DataError(f"{len(bad)} of {sum(len(files) for _, files in given)} scans of {called} cannot be read; "
                        f"first: {bad[0][0]} ({bad[0][1]}); mend or remove the files")
    notes = [*notes, *(f"left out, not readable: {name} ({reason})" for name, reason in bad[:5])]
    notes += [f"{len(bad) - 5:,} more scans are not readable and left out"] * (len(bad) > 5)
    spacing = _common([case.reference for case in found])
    scaling, mixed = _scaling(found, modalities)
    column = Volumes(found, modalities, spacing=spacing, crop=crop, stride=stride, scaling=scaling)
    rows = np.array([number for number, _ in column.rows])
    ids = [f"{found[n].name} at {','.join(map(str, start))}" for n, start in column.rows]
    group = [found[n].name if groups is None else groups[kept[n]] for n in rows]
    return Source(name=called, columns={KIND.name: column}, ids=ids, strict=options.strict, notes=[*notes, *mixed],
                  labels=None if labels is None else np.asarray(labels)[kept][rows], label_names=label_names,
                  groups=np.array(group))  # fmt: skip


def _surveyed(case: str, files: dict[str, Any], modalities: Sequence[str]
              ) -> tuple[tuple[Scan | None, ...], list[tuple[str, str]]]:
    """The scans of a case in the order of the modalities, and (name, reason) of what cannot be read."""
    scans: list[Scan | None] = []
    bad = []
    for name in modalities:
        scan, data = None, files.get(name, next(iter(files.values())) if len(modalities) == 1 else None)
        if data is not None:
            called = case if len(modalities) == 1 else f"{case}/{name}"
            try:
                scan = _volumes.survey(called, data)
            except Unreadable as error:
                bad.append((called, error.reason))
        scans.append(scan)
    return tuple(scans), bad


def _common(scans: Sequence[Scan]) -> tuple[float, ...]:
    """(3,) mm: the median over volumes along each axis, axes turned to right, anterior, superior (as nnU-Net,
    Isensee et al. 2021, does it). Two digits, so that a file more or less hardly changes it."""
    sides = np.median([_volumes.turned(scan)[1] for scan in scans], axis=0)
    return tuple(float(f"{side:.2g}") for side in sides)


def _scaling(found: Sequence[Case], modalities: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """How each modality is scaled, and notes: Hounsfield units are kept where all its scans are in them."""
    scaling, notes = [], []
    for n, name in enumerate(modalities):
        units = [scan.hounsfield for case in found if (scan := case.scans[n]) is not None]
        scaling.append("hounsfield" if units and all(units) else "percentiles")
        if any(units) and not all(units):
            notes.append(f"{sum(units)} of {len(units)} scans of '{name}' are in Hounsfield units, others are not: all "
                         "are scaled by percentiles; put CT into a folder of its own to keep its units")
    return tuple(scaling), notes
