"""Sources from Python objects: torch datasets and Hugging Face datasets, map-style and streaming."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from .columns import BlobColumn, HeldBlobs, ItemColumn
from .errors import DataError
from .kind import Blob, Kind, all_kinds, asked_kinds
from .labels import encode
from .options import Options
from .parquet import cell_blob
from .source import Maker, Source, canonical_split
from .stream import StreamSource

# ---- Hugging Face

class HFBlobs:
    """Undecoded cells of one column of a Hugging Face dataset."""

    def __init__(self, dataset: Any, column: str) -> None:
        self.cells = dataset.select_columns([column])
        self.column = column

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> Blob:
        return cell_blob(self.cells[row][self.column], row)

    def nbytes(self, row: int) -> int:
        return -1  # unknown without reading the cell


class HFRecords:
    """A Hugging Face stream; skips as the library does."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def open(self, start: int) -> Iterator[Any]:
        return iter(self.dataset.skip(start) if start else self.dataset)


def hugging_face(spec: Any) -> str:
    """The class name of a Hugging Face dataset object, or ''. Imports nothing: an object's library is loaded
    already."""
    module = sys.modules.get("datasets")
    names = ("DatasetDict", "IterableDatasetDict", "Dataset", "IterableDataset")
    return next((n for n in names if module is not None and isinstance(spec, getattr(module, n))), "")


def open_hf(spec: Any, options: Options) -> Source | StreamSource:
    """A Hugging Face Dataset, DatasetDict, IterableDataset or IterableDatasetDict."""
    what = hugging_face(spec)
    if what.endswith("Dict"):
        return _open_hf_dict(spec, options)
    if options.split is not None:
        raise DataError(f"this Hugging Face {what} is one split already; give the DatasetDict to use split=")
    name = getattr(spec.info, "dataset_name", None) or "hugging face data"
    column, kind, encoded = _hf_column(spec, what, options)
    label = options.label if options.label is not None else ("label" if "label" in (spec.features or {}) else None)
    for asked in (options.label, options.group):
        if asked is not None and asked not in (spec.features or {}):
            raise DataError(f"the dataset has no column {asked!r}; columns: {', '.join(spec.features or {})}")
    names = getattr((spec.features or {}).get(label), "names", None)
    if what == "IterableDataset":
        return _hf_stream(spec, column, kind, encoded, label, names, options, name)
    if not len(spec):
        raise DataError(f"{name} has no rows; give data that hold some")
    numbers = None
    if label is not None:
        numbers, found = encode(spec.with_format(None)[label][:], f"column '{label}' of {name}")
        names = names or found
    groups = None if options.group is None else np.array(spec.with_format(None)[options.group][:])
    if not encoded:
        first = _array_like(spec.with_format("numpy")[0][column])
        reader = kind.object_reader(first, replace(options, kind=kind.name))
        return Source(name=name, columns={kind.name: ItemColumn(
            kind, spec.with_format("numpy"), partial(_item_at, column), _need(reader, column))},
            labels=numbers, label_names=names, groups=groups, strict=options.strict)
    blobs = HFBlobs(spec.with_format(None).cast_column(column, _undecoded(spec, column)), column)
    settled = kind.settle(blobs, options)
    source = Source(name=name, columns={kind.name: BlobColumn(kind, blobs, settled)}, labels=numbers, label_names=names,
                    groups=groups, strict=options.strict, notes=settled.notes)
    for row, reason in settled.bad.items():
        source.mark_bad(row, reason)
    return source.without_bad()


def _open_hf_dict(spec: Any, options: Options) -> Source | StreamSource:
    there = {canonical_split(k): k for k in spec}
    split = canonical_split(options.split) if options.split else ("train" if "train" in there else next(iter(there)))
    if split not in there:
        raise DataError(f"the dataset has no split '{options.split}'; there are: {', '.join(there)}")
    source = open_hf(spec[there[split]], replace(options, split=None))
    if isinstance(source, StreamSource):
        return source
    makers: dict[str, Maker] = {
        s: partial(_open_hf_dict, spec, replace(options, split=s)) for s in there}  # type: ignore[misc]
    return source.with_splits(split, makers)


def _hf_column(spec: Any, what: str, options: Options) -> tuple[str, Kind, bool]:
    """Column with the samples, its kind, and whether it is encoded."""
    kinds = {kind.name: kind for kind in asked_kinds(options.kind)}
    features = spec.features or {}
    for kind in kinds.values():
        asked = kind.asked_column(options)
        if asked is not None and asked in features:
            return asked, kind, False
    for name, feature in features.items():
        if type(feature).__name__.lower() in kinds:
            return name, kinds[type(feature).__name__.lower()], True
    for name in features:
        if name.lower() in kinds or name.lower().rstrip("s") in kinds:
            return name, kinds[name.lower().rstrip("s")], False
    for kind in kinds.values():
        for name in kind.columns:
            if name in features:
                return name, kind, False
    raise DataError(f"this Hugging Face {what} has no column of a known kind ({', '.join(kinds)}); columns: "
                    f"{', '.join(features) or 'unknown'}: cast one, as ds.cast_column('image', datasets.Image())")


def _undecoded(spec: Any, column: str) -> Any:
    return type(spec.features[column])(decode=False)


def _hf_stream(spec: Any, column: str, kind: Kind, encoded: bool, label: str | None, names: list[str] | None,
               options: Options, name: str) -> StreamSource:
    records = HFRecords(spec.cast_column(column, _undecoded(spec, column)) if encoded else spec)
    first = list(islice(records.open(0), 64))
    if not first:
        raise DataError(f"the stream {name} is empty; give data that hold something")
    notes: list[str] = []
    if encoded:
        settled = kind.settle(HeldBlobs([cell_blob(r[column], n) for n, r in enumerate(first)]), options)
        notes = settled.notes
        parts: Any = partial(_encoded_parts, kind.name, column, settled.decode)
    else:
        parts = partial(_object_parts, kind.name, partial(_item_at, column),
                        _need(kind.object_reader(_array_like(first[0][column]), replace(options, kind=kind.name)),
                              column))
    numbered = label is not None and isinstance(first[0][label], int)
    if label is not None and not numbered:
        notes = [*notes, f"no labels are used: column '{label}' is not of class numbers, and a stream's names are "
                         f"unknown"]
    return StreamSource(name=name, records=records, kinds={kind.name: kind}, parts=parts, strict=options.strict,
                        label=partial(_label_at, label) if numbered else None, label_names=names, notes=notes,
                        identity=str(getattr(spec.info, "download_checksums", "")))


# ---- torch

class TorchRecords:
    """A torch IterableDataset; skipping reads and drops."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def open(self, start: int) -> Iterator[Any]:
        return islice(iter(self.dataset), start, None)


class SourceRecords:
    """A map-style source read in order; skipping costs nothing."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.labels = source.labels

    def open(self, start: int) -> Iterator[int]:
        return iter(range(start, len(self.source)))

    def parts(self, record: int, position: int) -> dict[str, Any]:
        return self.source.read(record)[0]

    def label(self, record: int) -> int:
        return -1 if self.labels is None else int(self.labels[record])


def as_stream(source: Source) -> StreamSource:
    """The same samples as a stream, in order."""
    records = SourceRecords(source)
    stream = StreamSource(name=source.name, records=records, kinds=source.kinds, parts=records.parts,
                          label=None if records.labels is None else records.label, label_names=source.label_names,
                          identity=source.fingerprint(), strict=source.strict, notes=source.notes)
    stream.columns = dict(source.columns)
    return stream


def open_torch(spec: Any, options: Options) -> Source | StreamSource:
    """A torch map-style or iterable dataset, whose items are values, (value, label), or a dict with a part by name."""
    if options.split is not None:
        raise DataError(f"{type(spec).__name__} is one dataset and has no split '{options.split}'; open the parts one "
                        f"by one, or use split_source(source)")
    streaming = not hasattr(spec, "__getitem__") or not hasattr(spec, "__len__")
    items = TorchRecords(spec).open(0) if streaming else iter([spec[0]] if len(spec) else [])
    example = next(items, None)
    if example is None:
        raise DataError(f"the dataset {type(spec).__name__} is empty; give data that hold something")
    name = type(spec).__name__
    kind, pick, label, reader = _item_parts(example, options, name)
    if streaming:
        return StreamSource(name=name, records=TorchRecords(spec), kinds={kind.name: kind}, strict=options.strict,
                            parts=partial(_object_parts, kind.name, pick, reader), label=label)
    labels = _torch_labels(spec, label)
    return Source(name=name, columns={kind.name: ItemColumn(kind, spec, pick, reader)}, labels=labels,
                  label_names=list(getattr(spec, "classes", [])) or None if labels is not None else None,
                  strict=options.strict)


def _item_parts(example: Any, options: Options,
                name: str) -> tuple[Kind, Callable[[Any], Any], Callable[[Any], int] | None, Callable[..., Any]]:
    """Kind, picker of the part, picker of the label, and reader, judged from one item."""
    key: Any = None
    wanted: Any = options.label
    if isinstance(example, Mapping):
        names = {name for kind in asked_kinds(options.kind) for name in (kind.name, f"{kind.name}s")}
        parts = {k: v for k, v in example.items() if k in names}
        key = next(iter(parts), None)
        wanted = wanted or ("label" if "label" in example else None)
    elif isinstance(example, (tuple, list)):
        key, wanted = 0, 1 if len(example) > 1 and np.ndim(example[1]) == 0 else None
    part = example if key is None else example[key]
    for kind in asked_kinds(options.kind):
        reader = kind.object_reader(part, options)
        if reader is not None:
            pick = partial(_item_at, key) if key is not None else _whole
            return kind, pick, partial(_label_at, wanted) if wanted is not None else None, reader
    raise DataError(f"items of {name} are {type(part).__name__}, of no known kind; give tensors, arrays or Pillow "
                    f"images, (x, y), or dicts with a part named {' or '.join(all_kinds())}")


def _torch_labels(spec: Any, label: Callable[[Any], int] | None) -> Any:
    """Labels where the dataset keeps them (`targets`, `labels`), else a function that reads every item once."""
    if label is None:
        return None
    for known in (getattr(spec, "targets", None), getattr(spec, "labels", None)):
        if known is not None and len(known) == len(spec):
            return encode(np.asarray(known), "the dataset's labels")[0]
    return lambda: np.array([label(spec[i]) for i in range(len(spec))], dtype=np.int64)


# ---- pickers; module functions, so that workers can be sent them

def _whole(item: Any) -> Any:
    return item


def _item_at(key: Any, item: Any) -> Any:
    return item[key]


def _label_at(key: Any, item: Any) -> int:
    value = item[key]
    return -1 if value is None else int(value)


def _object_parts(name: str, pick: Callable[[Any], Any], reader: Callable[..., Any], record: Any,
                  position: int) -> dict[str, Any]:
    return {name: reader(pick(record), f"sample {position}")}


def _encoded_parts(name: str, column: str, decode: Callable[[Blob], Any], record: Any, position: int) -> dict[str, Any]:
    return {name: decode(cell_blob(record[column], position))}


def _array_like(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, list) else value


def _need(reader: Any, column: str) -> Any:
    if reader is None:
        raise DataError(f"column '{column}' holds neither images nor arrays of 2 or 3 axes; cast it to "
                        f"datasets.Image()")
    return reader
