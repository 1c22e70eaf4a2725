"""What a data set looks like, as far as training needs to know; saved beside every model as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np

from .errors import DataError, SchemaError, Unreadable
from .kind import kind_of
from .source import AnySource
from .stream import StreamSource


class Labels(TypedDict):
    """Class names and how many samples have each; both lists are in the order of the label numbers."""

    names: list[str]
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One part of a sample.

    `shape` is the shape in training, (C, H, W) for images; `sizes` the smallest, median and largest size seen, (H, W)
    for images; `low`, `high` the range of the values (nominal 0..255 for uint8, else as observed); `mean`, `std` one a
    channel or column, in raw units; `missing` the share of samples that lack this part. For tables, one each column:
    `columns` the names, `lows` and `highs` the ranges, `gaps` the shares of missing cells. For graphs, `filled` is the
    share of the nodes' features that are not 0. For time series, `columns`, `lows`, `highs` and `gaps` are by variable,
    `units` as well ('' where not known), and `interval` is the seconds from one moment to the next. `more` is what else
    the kind keeps, as JSON has it (lists, not tuples): of texts the vocabulary.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    missing: float = 0.0
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()
    gaps: tuple[float, ...] = ()
    filled: float = 1.0
    interval: float | None = None
    units: tuple[str, ...] = ()
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Field:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**{**values, "sizes": tuple(tuple(s) for s in values["sizes"])})


@dataclass(frozen=True, kw_only=True)
class Schema:
    """All fields of a source, its number of samples (None for a stream), labels, name and fingerprint; `targets` is the
    range of the numbers to predict, where there are such."""

    fields: dict[str, Field]
    count: int | None
    labels: Labels | None
    source: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    targets: tuple[float, float] | None = None

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Schema:
        values = json.loads(text)
        fields = {name: Field.from_dict(f) for name, f in values["fields"].items()}
        return cls(**{**values, "fields": fields, "notes": tuple(values["notes"]),
                      "targets": tuple(values["targets"]) if values.get("targets") else None})

    def check(self, other: Schema) -> list[str]:
        """Whether data with the schema `other` fit a model trained with this one.

        Returns notes on harmless differences (size, labels). Raises SchemaError naming what differs and the mend.
        """
        notes: list[str] = []
        for name, field in self.fields.items():
            if name not in other.fields and set(self.fields) & set(other.fields):
                notes.append(f"{other.source} has no part '{name}': it counts as missing in every sample")
                continue
            if name not in other.fields:
                have = ", ".join(other.fields) or "nothing"
                alike = any(theirs.kind == field.kind for theirs in other.fields.values())
                mend = f"rename the part to '{name}'" if alike else f"give data of kind {field.kind}"
                raise SchemaError(f"{other.source} has no part '{name}' (it has: {have}); the model was trained with "
                                  f"it on {self.source}: {mend}")
            theirs = other.fields[name]
            if theirs.kind != field.kind:
                raise SchemaError(f"'{name}' is of kind {theirs.kind} in {other.source} and of kind {field.kind} in "
                                  f"{self.source}, which the model was trained on: give data of kind {field.kind}")
            notes += kind_of(field.kind).compare(field, theirs, self.source, other.source)
        ours, others = (s.labels["names"] if s.labels else None for s in (self, other))
        if ours is not None and others is not None and ours != others:
            notes.append(f"labels differ: {len(others)} classes in {other.source}, {len(ours)} in {self.source}")
        return notes

    def describe(self) -> list[tuple[str, str]]:
        """Rows (what, value) of a table for people."""
        rows = [("source", self.source), ("samples", "unknown (stream)" if self.count is None else f"{self.count:,}")]
        for field in self.fields.values():
            rows += kind_of(field.kind).describe(field)
            if field.missing:
                rows.append((f"{field.name} missing", f"{field.missing:.1%} of samples"))
        if self.targets is not None:
            low, high = self.targets
            rows.append(("targets", f"numbers to predict, {low:g} to {high:g}"))
        if self.labels is None:
            rows.append(("labels", "none"))
        else:
            pairs = [f"{n} {c:,}" for n, c in zip(self.labels["names"], self.labels["counts"])]
            more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
            rows.append(("labels", f"{len(pairs)} classes: " + ", ".join(pairs[:6]) + more))
        rows += [("note", note) for note in (*self.notes, *(n for f in self.fields.values() for n in f.notes))]
        return [*rows, ("fingerprint", self.fingerprint[:16])]


def infer_schema(
    source: AnySource, *, size: int | tuple[int, int] | None = None, fewest: int | None = None
) -> Schema:
    """The schema of a source, by a seeded sample of at most 2,000 images or 100,000 rows (of a stream the first ones).

    `size` sets the size in training: one side or (H, W); `fewest` are the samples that there have to be, by default as
    many as pre-training needs. Raises DataError for fewer, for values that are not finite, and what the kinds
    themselves refuse.
    """
    fewest = max(kind.fewest for kind in source.kinds.values()) if fewest is None else fewest
    if source.count is not None and source.count < fewest:
        raise DataError(f"{source.name} holds {source.count} sample; pre-training needs at least {fewest}: add more "
                        "data (a trained model embeds single files)")
    origins = {name: column.origin for name, column in source.columns.items()}
    sized = size if len(source.kinds) == 1 else None
    meters = {name: kind.meter(name, sized, origins.get(name)) for name, kind in source.kinds.items()}
    missing = _measure_stream(source, meters) if source.count is None else _measure_rows(source, meters)
    fields = {name: replace(meter.field(), missing=missing[name]) for name, meter in meters.items()}
    if sized != size:
        fields = {name: _sized(field, size) for name, field in fields.items()}
    targets = None if isinstance(source, StreamSource) else source.targets
    known = np.zeros(0) if targets is None else targets[np.isfinite(targets)]
    span = (float(known.min()), float(known.max())) if len(known) else None
    return Schema(fields=fields, count=source.count, labels=_labels(source), source=source.name,
                  fingerprint=source.fingerprint(), notes=tuple(source.notes), targets=span)


def _sized(field: Field, size: Any) -> Field:
    """Of several parts those that have a height and a width are made one size."""
    return kind_of(field.kind).resized(field, (size, size) if isinstance(size, int) else size)


def _measure_rows(source: AnySource, meters: dict[str, Any]) -> dict[str, float]:
    """Shows a seeded choice of samples to the meters, to each as many as it wants; gives the share of those that lack
    its part."""
    assert not isinstance(source, StreamSource)
    seen, gone = dict.fromkeys(meters, 0), dict.fromkeys(meters, 0)
    most = max(meter.most for meter in meters.values())
    for n, index in enumerate(np.random.default_rng(0).permutation(len(source))[:most]):
        wanted = [name for name, meter in meters.items() if n < meter.most and not meter.full]
        sample = source.try_read(int(index), wanted) if wanted else None
        if sample is None:
            continue
        try:
            for name in wanted:
                meters[name].add(source.called(int(index)), sample[name])
        except Unreadable as error:  # of a value that is read as far as it is needed
            source.mark_bad(int(source.rows[index]), error.reason)
            continue
        for name in wanted:
            seen[name] += 1
            gone[name] += sample[name] is None
        if all(meter.full for meter in meters.values()):
            break
    return {name: gone[name] / max(1, seen[name]) for name in meters}


def _measure_stream(source: AnySource, meters: dict[str, Any]) -> dict[str, float]:
    assert isinstance(source, StreamSource)
    n, gone = 0, dict.fromkeys(meters, 0)
    for sample in source.iterate(0):
        for name, meter in meters.items():
            gone[name] += sample[name] is None
            meter.add(f"sample {n}", sample[name])
        n += 1
        if n == max(meter.most for meter in meters.values()) or all(meter.full for meter in meters.values()):
            break
    if n < 2:
        raise DataError(f"the stream {source.name} holds {n} sample(s); pre-training needs at least 2: add more data")
    return {name: count / n for name, count in gone.items()}


def _labels(source: AnySource) -> Labels | None:
    labels, names = source.labels, source.label_names
    if labels is None and source.token_labels is not None:
        labels, names = np.concatenate(source.token_labels.labels), source.token_labels.names
    if labels is None:
        return None
    top = int(labels.max(initial=-1)) + 1
    names = names or [str(i) for i in range(top)]
    counts = [int((labels == i).sum()) for i in range(len(names))]
    return {"names": list(names), "counts": counts}
