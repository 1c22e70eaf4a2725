"""Electrocardiograms: (L, T) float32 in mV, a row a lead, NaN where a record lacks a lead or a value.

Samples are windows of records or, with label="beat", the annotated beats; in class folders or with a metadata.csv each
record is one sample, with its label.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..columns import Blobs, Column
from ..errors import DataError, SchemaError, Unreadable, some
from ..folder import SPLITS
from ..kind import Meter, Settled
from ..labels import encode
from ..options import Options
from ..schema import Field
from ..source import Source, canonical_split
from . import _ecg
from ._ecg_columns import BEAT, BEFORE, SECONDS, Decoder, EcgMeter, Windows, arranged
from .series import SeriesKind

PATCH, SHORT = 0.3, 0.1  # seconds of a patch (ST-MEM: 75 moments at 250 Hz), and in windows of less than ...
BRIEF = 4.0  # ... seconds
PEEKED = 500  # headers that are read to see which leads a set has
SHARES = (0.6, 0.2, 0.2)
PARTS = ("train", "validation", "test")
BEATS = "beat"  # what label= asks for
EXAMPLE = (3, 48)  # leads and moments of made-up records, at EXAMPLE_RATE
EXAMPLE_RATE = 20.0


class EcgKind(SeriesKind):
    name = "ecg"
    endings = frozenset({".hea"})
    asked_endings: frozenset[str] = frozenset()
    recipe = "st-mem"
    renderer = "anymask.reports.ecg:Leads"
    samples_seen, most_epochs = 30_000, 100
    elastic = True

    def open(self, spec: Any, options: Options) -> Source | None:
        if not isinstance(spec, (str, os.PathLike)):
            return None
        path = Path(spec).expanduser()
        if path.is_dir():
            return _from_folder(path, options)
        header = path if path.suffix == ".hea" else path.with_name(path.name + ".hea")
        return _from_record(header, options) if header.is_file() and os.access(header, os.R_OK) else None

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        bad: dict[int, str] = {}
        headers = []
        for row in np.random.default_rng(0).permutation(len(blobs))[:PEEKED]:
            data = blobs[int(row)].data
            if isinstance(data, bytes):
                raise DataError("a wfdb record is two files or more in a folder; bytes hold one of them")
            try:
                headers.append(_ecg.read_header(data, options.ignore))
            except Unreadable as error:
                bad[int(row)] = error.reason
        if not headers:
            first = min(bad)
            raise DataError(
                f"none of {len(blobs)} wfdb records can be read; first: {blobs[first].name} ({bad[first]}); replace "
                "them by whole records, each of a .hea file and the files that it names"
            )
        leads = _ecg.in_order([lead for header in headers for lead in header.leads])
        return Settled(Decoder(leads=leads, rate=_rate(headers, options)), None, "float32", bad, _notes(headers))

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if options.kind == self.name:
            raise DataError(f"{name} is an array, which says nothing of leads, rate and units; write it as wfdb "
                            "records (wfdb.wrsamp), or read it as plain series (--kind series)")
        return None

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        return None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None:
            raise DataError(f"'{name}' has windows; give their length in moments as window= (--window), not as size= "
                            "(--image-size)")
        return EcgMeter(name, None, column)

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return self.fit(value, replace(field, shape=(len(value), min(value.shape[1], field.shape[1]))), None, None)

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def align(self, column: Column, field: Field) -> Column:
        return arranged(column, field.columns, field.more["rate"])

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        ours, theirs = trained.columns, given.columns
        if not set(ours) & set(theirs):
            raise SchemaError(f"'{given.name}' has the leads {', '.join(theirs)} in {given_by}, none of those that the "
                              f"model was trained on ({trained_on}: {', '.join(ours)}); give records with one of these")
        more = [lead for lead in theirs if lead not in ours]
        less = [lead for lead in ours if lead not in theirs]
        notes = []
        if more:
            notes.append(f"leads of {given_by} that the model was not trained on are not used: {', '.join(more)}")
        if less:
            notes.append(f"{given_by} lacks the leads {', '.join(less)}, which count as missing")
        if trained.more["rate"] != given.more["rate"]:
            notes.append(f"{given_by} is read at {trained.more['rate']:g} Hz, as in training")
        return notes

    def describe(self, field: Field) -> list[tuple[str, str]]:
        rate, (low, high) = field.more["rate"], field.more["band"]
        rows = [(field.name, f"{len(field.columns)} leads at {rate:g} Hz in mV, {low:g} to {high:g} Hz; missing: "
                             f"{np.mean(field.gaps):.1%} of the values"),
                (f"{field.name} length", f"{field.shape[1]} moments ({field.shape[1] / rate:.3g} s)")]
        for lead, std, low, high, gap in zip(field.columns, field.std, field.lows, field.highs, field.gaps):
            rows.append((f"  {lead}", f"{low:.3g} to {high:.3g} mV, std {std:.3g}"
                                      + (f", {gap:.1%} missing" if gap else "")))
        return rows

    def flattened(self, field: Field, limit: int) -> str:
        return super().flattened(field, limit).replace("by variable", "by lead")

    def example_field(self, name: str) -> Field:
        column = Windows([], ("I", "II", "V1"), EXAMPLE_RATE, EXAMPLE[1], np.zeros(0, int), np.zeros(0, int))
        meter = EcgMeter(name, None, column)
        for n, value in enumerate(hearts(64, EXAMPLE, 0)):
            meter.add(str(n), value)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return torch.from_numpy(hearts(count, field.shape, seed))

    def patch(self, field: Field) -> tuple[int, ...]:
        rate = field.more["rate"]
        seconds = PATCH if field.shape[1] / rate >= BRIEF else SHORT
        return (max(1, min(round(seconds * rate), field.shape[1] // 4)),)


def hearts(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(count, L, T) float32: beats of a waveform that leads see from different sides; some records lack a lead, end
    early, or have a gap."""
    rng = np.random.default_rng([seed, 7])
    leads, length = shape
    t = np.arange(length)
    x = np.zeros((count, leads, length))
    for n in range(count):
        apart, first = rng.uniform(12, 18), rng.uniform(0, 12)
        for beat in np.arange(first, length, apart):
            sources = [np.exp(-0.5 * ((t - beat - late) / wide) ** 2) for late, wide in ((0, 1.0), (5, 2.5), (-4, 1.5))]
            x[n] += (np.array([[1.0, 0.3, 0.15], [1.3, 0.4, 0.2], [-0.8, 0.3, 0.1]])[np.arange(leads) % 3]
                     * rng.uniform(0.8, 1.2)) @ np.array(sources)  # fmt: skip
    x += 0.03 * rng.normal(size=x.shape)
    for n in range(0, count, 2):
        x[n, n // 2 % leads] = np.nan
    for n in range(1, count, 4):
        x[n, :, length * 3 // 4 :] = np.nan
    return x.astype(np.float32)


# Opening.


def _rate(headers: Sequence[_ecg.Header], options: Options) -> float:
    """Moments a second."""
    if options.rate is not None and options.rate < 10:
        raise DataError(f"rate={options.rate} (--rate) is too low for the waves of a heart; give 100 or more")
    return float(options.rate or min(_ecg.RATE, max(header.rate for header in headers)))


def _notes(headers: Sequence[_ecg.Header]) -> list[str]:
    out = sorted({signal for header in headers for signal in header.left_out})
    return [f"signals that are no leads are left out: {some(out, 8)}"] if out else []


def _from_folder(root: Path, options: Options) -> Source | None:
    """Windows or beats of all records of a folder; None where its files have splits or a table of their own."""
    try:
        names = sorted(os.listdir(root))
    except PermissionError:  # whoever opens the folder says so
        return None
    files = [root / name for name in names if name.endswith(".hea")]
    if options.kind not in (None, KIND.name) or not files or {"metadata.csv", "metadata.jsonl"} & set(names):
        return None
    if any(canonical_split(name) in SPLITS and (root / name).is_dir() for name in names):
        return None
    if options.split is not None:
        raise DataError(f"{root} has no split '{options.split}'; its records are groups: open it without split=, or "
                        "give one record, which is divided by time")
    headers, bad = [], {}
    for file in files:
        try:
            headers.append(_ecg.read_header(file, options.ignore))
        except Unreadable as error:
            bad[file.name] = error.reason
    if not headers:
        first, reason = next(iter(bad.items()))
        raise DataError(
            f"none of {len(files)} wfdb records in {root} can be read; first: {first} ({reason}); replace them by "
            "whole records, each of a .hea file and the files that it names"
        )
    wholes = [[(0, _ecg.moments(header, _rate(headers, options)))] for header in headers]
    source = _source(headers, wholes, options, root.name)
    for name, reason in bad.items():
        if options.strict:
            raise DataError(f"{name} in {root} cannot be read ({reason}); mend or remove it, or leave strict= out")
        source.notes.append(f"left out {name}: {reason}")
    return source


def _from_record(file: Path, options: Options) -> Source:
    """Windows or beats of a part of one record, divided by time."""
    try:
        header = _ecg.read_header(file, options.ignore)
    except Unreadable as error:
        raise DataError(f"{error}") from error
    rate = _rate([header], options)
    length, window = _ecg.moments(header, rate), _window(options, rate)
    made = _ecg.blocks(length, rate, min(window, length), options.parts or SHARES)
    there = [name for n, name in enumerate(PARTS) if (made.parts == n).any()]
    split = canonical_split(options.split or "train")
    if split not in there:
        raise DataError(f"{file.name} has no split '{options.split}'; there is: {', '.join(there)} (its blocks in time "
                        f"have {made.size / rate:.3g} s; give shorter windows or other parts: --window, --parts)")
    spans = made.spans(PARTS.index(split), length) if len(there) > 1 else [(0, length)]
    name = header.path.name if split == "train" else f"{header.path.name}/{split}"
    source = _source([header], [spans], options, name, block=made.size)
    column = source.columns[KIND.name]
    assert isinstance(column, Windows)
    try:
        column.signals(0)  # kept in memory
    except Unreadable as error:
        raise DataError(f"{error}; download the record again") from error
    return source.with_splits(split, {s: partial(_from_record, file, replace(options, split=s)) for s in there})


def _window(options: Options, rate: float) -> int:
    window = options.window or round((BEAT if options.label == BEATS else SECONDS) * rate)
    if window < 16:
        raise DataError(f"window={window} (--window) is in moments, {rate:g} a second; give 16 or more")
    return window


def _source(headers: list[_ecg.Header], spans: list[list[tuple[int, int]]], options: Options, name: str, *,
            block: int | None = None) -> Source:
    """Samples of stretches (from, to) of records. Groups are records or, of one record, blocks of time."""
    if options.label not in (None, BEATS) or options.group is not None:
        raise DataError(f"records of {name} have no columns; label='{BEATS}' (--label {BEATS}) makes a sample of each "
                        "annotated beat, and groups are the records; for labels of whole records use class folders or "
                        "a metadata.csv")
    leads, rate = _ecg.in_order([lead for header in headers for lead in header.leads]), _rate(headers, options)
    length = _window(options, rate)
    of: list[int] = []
    starts: list[int] = []
    symbols: list[str] = []
    for n, (header, stretches) in enumerate(zip(headers, spans)):
        found = _beats(header, stretches, rate, length) if options.label == BEATS else \
            _windows(stretches, length, options.stride or max(1, length // 2))
        starts += found[0]
        symbols += found[1]
        of += [n] * len(found[0])
    if not starts:
        raise DataError(f"no record of {name} has beats that a window of {length} moments (--window) fits, annotated "
                        "in a file .atr or .qrs beside it; leave label= (--label) out for windows of any time")
    numbers = names = None
    if options.label == BEATS:
        numbers, names = encode(symbols, "annotations")
    record, at = np.array(of), np.array(starts)
    groups = np.array([headers[n].path.name for n in of]) if block is None else (at // block).astype(str)
    ids = [f"{headers[n].path.name} {start / rate:.2f} s" for n, start in zip(of, starts)]
    return Source(name=name, columns={KIND.name: Windows(headers, leads, rate, length, record, at)}, ids=ids,
                  labels=numbers, label_names=names, groups=groups, strict=options.strict, notes=_notes(headers))


def _windows(stretches: list[tuple[int, int]], length: int, stride: int) -> tuple[list[int], list[str]]:
    """Beginnings of windows; a stretch shorter than a window has one, which ends in missing values."""
    return [start for first, last in stretches for start in range(first, max(first + 1, last - length + 1), stride)], []


def _beats(header: _ecg.Header, stretches: list[tuple[int, int]], rate: float, length: int
           ) -> tuple[list[int], list[str]]:
    """Beginnings of windows about beats that lie within a stretch as a whole, and the beats' symbols."""
    found = _ecg.beats(header, rate)
    if found is None:
        return [], []
    kept = [(int(place) - round(BEFORE * length), symbol) for place, symbol in zip(*found)]
    kept = [(start, symbol) for start, symbol in kept
            if any(first <= start and start + length <= last for first, last in stretches)]
    return [start for start, _ in kept], [symbol for _, symbol in kept]


KIND = EcgKind()
