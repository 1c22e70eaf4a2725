"""Streams from webdataset shards: .tar files whose samples are files with one name up to the first dot, in a row."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from .columns import HeldBlobs
from .errors import DataError, Unreadable, some
from .kind import Blob, Kind, Settled, asked_kinds
from .options import Options
from .source import canonical_split
from .stream import StreamSource

ENDING = ".tar"
CLASS = "cls"  # ending of the file with a sample's class number
EXAMPLES = 64  # samples that settle how all are decoded


class Record(NamedTuple):
    """A sample as stored: ending -> bytes. `broken` says why its shard cannot be read from here on."""

    name: str
    files: dict[str, bytes]
    broken: str = ""


class ShardRecords:
    """Samples of shards, in order. Skipping reads the headers of the tar files, not the content."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = list(shards)

    def open(self, start: int) -> Iterator[Record]:
        skip = start
        for shard in self.shards:
            count = 0
            try:
                with tarfile.open(shard) as archive:
                    for key, members in _samples(archive):
                        count += 1
                        if skip:
                            skip -= 1
                            continue
                        files = {ending: archive.extractfile(m).read()  # type: ignore[union-attr]  # they are files
                                 for ending, m in members.items()}
                        yield Record(f"{shard.name}/{key}", files)
            except (tarfile.TarError, EOFError, OSError) as error:
                if skip:
                    skip -= 1
                else:
                    why = str(error).splitlines()[0]
                    yield Record(shard.name, {}, f"it ends or breaks after {count} samples: {why}")


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(name, ending -> member) of each sample: members in a row that share their name up to the first dot."""
    key = ""
    members: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        folder, _, file = member.name.rpartition("/")
        name, _, ending = file.partition(".")
        if not member.isfile() or not name:
            continue
        if members and f"{folder}/{name}" != key:
            yield key.lstrip("/"), members
            members = {}
        key = f"{folder}/{name}"
        members[ending.lower()] = member
    if members:
        yield key.lstrip("/"), members


def open_shards(shards: Sequence[Path], options: Options, name: str) -> StreamSource:
    """A stream of the shards of one split: those named after it where any are (train-000.tar), else all.

    The part of a sample is its file of the kind that is asked for, or of the only kind that has one. Labels are the
    numbers in .cls files, or in `label`, a key of the .json files.
    """
    shards = _of_split(sorted(shards), options, name)
    records = ShardRecords(shards)
    first = list(islice(records.open(0), EXAMPLES))
    whole = [record for record in first if record.files]
    if not whole:
        why = first[0].broken if first else "it is empty"
        raise DataError(f"no sample can be read from {shards[0]}: {why}; give .tar files of samples whose files share "
                        "a name, as 0001.jpg with 0001.cls")
    kind, ending = _part(whole, options, name)
    blobs = HeldBlobs([_blob(record, ending) for record in whole if ending in record.files])
    settled: Settled = kind.settle(blobs, options)
    label = _label(whole, options, name)
    sizes = "".join(f"{shard.name} {shard.stat().st_size};" for shard in shards)
    return StreamSource(
        name=name, records=records, kinds={kind.name: kind}, strict=options.strict, notes=settled.notes,
        parts=partial(_parts, kind.name, ending, settled.decode), label=label,
        identity=hashlib.sha256(sizes.encode()).hexdigest(),
    )  # fmt: skip


def _of_split(shards: Sequence[Path], options: Options, name: str) -> list[Path]:
    found: dict[str, list[Path]] = {}
    for shard in shards:
        word = canonical_split(shard.name.replace("_", "-").split("-")[0].split(".")[0])
        found.setdefault(word if word in ("train", "validation", "test") else "", []).append(shard)
    if options.split is None:
        return found.get("train") or found.get("") or list(shards)
    asked = canonical_split(options.split)
    if asked not in found:
        there = ", ".join(sorted(filter(None, found))) or "none"
        raise DataError(f"no shard of {name} is named after the split '{options.split}' ({asked}-000.tar); splits "
                        f"there: {there}")
    return found[asked]


def _part(records: Sequence[Record], options: Options, name: str) -> tuple[Kind, str]:
    """The kind of the part, and the ending of its files."""
    endings = list(dict.fromkeys(ending for record in records for ending in record.files))
    taken = lambda kind: kind.endings | (kind.asked_endings if options.kind else frozenset())
    able = [(kind, ending) for kind in asked_kinds(options.kind) for ending in endings
            if f".{ending.rpartition('.')[2]}" in taken(kind)]
    able = [pair for pair in able if not pair[0].incidental] or able
    kinds = list(dict.fromkeys(kind.name for kind, _ in able))
    if len(kinds) > 1:
        raise DataError(f"samples of {name} hold files of several kinds ({', '.join(kinds)}); name the kind that is "
                        "meant (--kind)")
    if not able:
        raise DataError(f"samples of {name} hold files ending in {some(endings, 6)}, none of which is "
                        f"{'read here' if options.kind is None else 'of kind ' + options.kind}")
    return able[0]


def _label(records: Sequence[Record], options: Options, name: str) -> Any:
    if options.label is None:
        return _class_of if any(CLASS in record.files for record in records) else None
    there = {key for record in records for key in _facts(record)}
    if options.label not in there:
        raise DataError(f"no .json file of {name} has the key '{options.label}' (label=); there: "
                        f"{some(sorted(there), 6) or 'none'}")
    label = partial(_fact_of, options.label)
    for record in records:
        label(record)
    return label


def _facts(record: Record) -> dict[str, Any]:
    try:
        found = json.loads(record.files.get("json", b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _class_of(record: Record) -> int:
    text = record.files.get(CLASS, b"").strip()
    return int(text) if text.lstrip(b"-").isdigit() else -1


def _fact_of(key: str, record: Record) -> int:
    value = _facts(record).get(key)
    if value is not None and not isinstance(value, int):
        raise DataError(f"'{key}' (label=) of {record.name} is {value!r}; labels of a stream are class numbers")
    return -1 if value is None else value


def _blob(record: Record, ending: str) -> Blob:
    return Blob(f"{record.name}.{ending}", record.files[ending])


def _parts(kind: str, ending: str, decode: Any, record: Record, position: int) -> dict[str, Any]:
    if record.broken:
        raise Unreadable(record.name, record.broken)
    if ending not in record.files:
        raise Unreadable(record.name, f"it has no .{ending} file")
    return {kind: decode(_blob(record, ending))}
