"""Sources from parquet files in the Hugging Face layout: a column of {bytes, path} or bytes, a column of labels."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .columns import BlobColumn
from .errors import DataError
from .kind import Blob, Kind, all_kinds
from .labels import encode
from .options import Options
from .source import Maker, Source, canonical_split

IN_MEMORY = 2**31  # encoded bytes kept in memory; of larger sets row groups are read as they are needed
_KEPT = 4  # row groups held of a large set
_SHARD = re.compile(r"(?P<split>[A-Za-z_]+)(-\d+-of-\d+)?\.parquet$")
# First bytes of the encodings, for cells without a path: a name with an ending is what decoders go by.
_MAGIC = {b"II*\0": ".tif", b"MM\0*": ".tif", b"\x93NUMPY": ".npy"}


class ParquetBlobs:
    """Cells of one column over several files. Up to 2 GiB is read into memory at the first use."""

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self.files, self.column = list(files), column
        counts, sizes, self._groups = [], 0, []
        for number, file in enumerate(self.files):
            meta = _file(file).metadata
            for group in range(meta.num_row_groups):
                counts.append(meta.row_group(group).num_rows)
                sizes += meta.row_group(group).total_byte_size
                self._groups.append((number, group))
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self.small = sizes <= IN_MEMORY

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}  # a worker started afresh reads for itself

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def _cell(self, row: int) -> Any:
        group = int(np.searchsorted(self._ends, row, side="right"))
        cells = self._kept.get(group)
        if cells is None:
            number, inside = self._groups[group]
            cells = _file(self.files[number]).read_row_group(inside, columns=[self.column]).column(0).combine_chunks()
            if not self.small and len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
            self._kept[group] = cells
        return cells[row - (int(self._ends[group - 1]) if group else 0)].as_py()

    def __getitem__(self, row: int) -> Blob:
        return cell_blob(self._cell(row), row)

    def nbytes(self, row: int) -> int:
        if not self.small:
            return -1  # unknown without reading a whole row group
        data = cell_blob(self._cell(row), row).data
        return len(data) if isinstance(data, bytes) else data.stat().st_size


def cell_blob(cell: Any, row: int) -> Blob:
    """The blob of a cell: {bytes, path}, bytes, or a path. An empty cell is an empty blob, hence unreadable."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, str):
        path, data = data, None
    if data is None and path:
        return Blob(str(path), Path(path))
    data = data or b""
    ending = Path(path).suffix if path else next((e for m, e in _MAGIC.items() if data.startswith(m)), "")
    return Blob(f"row {row}" + (f" ({path})" if path else ending), data)


def open_parquet_folder(root: Path, options: Options) -> Source:
    """A folder of <split>-00000-of-00001.parquet files."""
    shards: dict[str, list[Path]] = {}
    for file in sorted(root.glob("*.parquet")):
        match = _SHARD.match(file.name)
        shards.setdefault(canonical_split(match["split"]) if match else "train", []).append(file)
    shards = {s: shards[s] for s in sorted(shards, key=lambda s: (s != "train", s != "test", s))}
    split = canonical_split(options.split) if options.split else next(iter(shards))
    if split not in shards:
        raise DataError(f"{root} has no split '{options.split}'; there are: {', '.join(shards)}")
    name = f"{root.name}/{split}" if len(shards) > 1 else root.name
    makers: dict[str, Maker] = {
        s: partial(open_parquet_folder, root, replace(options, split=s)) for s in shards}
    return open_parquet(shards[split], options, name).with_splits(split, makers)


def open_parquet(files: list[Path], options: Options, name: str) -> Source:
    """One source from files that continue each other."""
    schema = _file(files[0]).schema_arrow
    features = _features(schema)
    column, kind = _sample_column(schema, features, files[0])
    blobs = ParquetBlobs(files, column)
    if not len(blobs):
        raise DataError(f"{files[0]} has no rows; give data that hold some")
    settled = kind.settle(blobs, options)
    notes = list(settled.notes)
    if not blobs.small:
        notes.append("the parquet files are larger than 2 GiB; reading them in random order is slow: open them with "
                     "streaming=True, or unpack them into files")
    label = options.label if options.label is not None else ("label" if "label" in schema.names else None)
    labels, names = None, None
    if label is not None:
        labels, names = encode(_values(files, label, "label", schema.names), f"column '{label}' of {files[0].name}")
        names = features.get(label, {}).get("names") or names
    groups = None if options.group is None else np.array(_values(files, options.group, "group", schema.names))
    source = Source(name=name, columns={kind.name: BlobColumn(kind, blobs, settled)}, labels=labels, label_names=names,
                    groups=groups, strict=options.strict, notes=notes)
    for row, reason in settled.bad.items():
        source.mark_bad(row, reason)
    return source.without_bad()


def _file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error}); download or write it again") from error


def _features(schema: Any) -> dict[str, Any]:
    """Hugging Face's description of the columns, from the schema's metadata; {} where there is none."""
    text = (schema.metadata or {}).get(b"huggingface")
    return json.loads(text).get("info", {}).get("features", {}) if text else {}


def _sample_column(schema: Any, features: dict[str, Any], file: Path) -> tuple[str, Kind]:
    """The column with the samples: marked by Hugging Face as a known kind, or the only one with {bytes, path} or
    bytes."""
    import pyarrow as pa

    kinds = all_kinds()
    for name, feature in features.items():
        if isinstance(feature, dict) and str(feature.get("_type", "")).lower() in kinds and name in schema.names:
            return name, kinds[feature["_type"].lower()]
    binary = (pa.binary(), pa.large_binary())
    found = [f.name for f in schema if f.type in binary
             or (pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0)]
    if len(found) != 1:
        raise DataError(f"{file} has {len(found)} columns with encoded samples (columns: {', '.join(schema.names)}); "
                        "it needs one column of bytes, or of {bytes, path} as Hugging Face writes it")
    named = [kind for kind in kinds.values() if kind.name in found[0].lower()]
    return found[0], named[0] if named else kinds["image"]


def _values(files: list[Path], column: Any, what: str, names: list[str]) -> list[Any]:
    if not isinstance(column, str) or column not in names:
        raise DataError(f"{files[0]} has no column {column!r} for {what}=; columns: {', '.join(names)}")
    return [v for f in files for v in _file(f).read(columns=[column]).column(0).to_pylist()]
