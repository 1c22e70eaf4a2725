"""Skeleton sequences: (C, J, T) float32, the coordinates of J joints (and their confidence) in T frames, NaN where a
joint is missing. Sequences of several lengths are padded with NaN at their end, so padding and gaps are one thing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import one_a_sample
from ..augment import CropTurn
from ..collate import tensor
from ..columns import Blobs, Column, FileBlobs
from ..errors import DataError, SchemaError, Unreadable, some
from ..folder import files_by_kind, open_folder
from ..kind import Kind, Meter, Settled
from ..labels import classes_or_numbers
from ..options import Options
from ..schema import Field
from ..source import AnySource, Source
from . import _skeletons
from ._skeleton_columns import SEGMENT, Decoder, EqualColumn, SequenceColumn, SkeletonMeter

PEEKED = 16  # files that are read at opening
FLAT = 16  # moments of raw input
EXAMPLE = (3, 6, 32)  # coordinates, joints and frames of made-up sequences
BONES = "skeleton.json"


class SkeletonKind(Kind):
    name = "skeleton"
    endings: frozenset[str] = frozenset()  # .npy files may hold anything: see `_looks_like`
    asked_endings = frozenset({".npy", ".csv"})
    recipe = "mamp"
    renderer = "anymask.reports.skeletons:Figures"
    samples_seen, most_epochs = 40_000, 200
    elastic = True

    def open(self, spec: Any, options: Options) -> AnySource | None:
        if isinstance(spec, (str, os.PathLike)):
            path = Path(spec).expanduser()
            if options.kind is not None or not path.is_dir() or not _looks_like(path, options):
                return None
            return open_folder(path, replace(options, kind=self.name))
        labels = options.label
        if options.kind != self.name:
            return None
        if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], list):
            spec, labels = spec
        return _from_list(spec, labels, options) if isinstance(spec, list) else None

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        bad = {row: "the file is empty" for row in range(len(blobs)) if blobs.nbytes(row) == 0}
        found: list[_skeletons.Sequence] = []
        for row in np.random.default_rng(0).permutation(len(blobs)):
            if int(row) in bad or len(found) == PEEKED:
                continue
            try:
                found.append(_skeletons.read(blobs[int(row)]))
            except Unreadable as error:
                bad[int(row)] = error.reason
        if not found:
            first = min(bad)
            raise DataError(f"none of {len(blobs)} skeleton sequences can be read; first: {blobs[first].name} "
                            f"({bad[first]}); save them again, or give others")
        (channels, count), _ = Counter((one.channels, one.values.shape[1]) for one in found).most_common(1)[0]
        joints = next(one.joints for one in found if (one.channels, one.values.shape[1]) == (channels, count))
        names = edges = None
        if isinstance(blobs, FileBlobs) and (blobs.root / BONES).is_file():
            names, edges = _skeletons.read_bones(blobs.root / BONES, count)
        decode = Decoder(channels=channels, count=count, joints=joints, names=names, edges=edges)
        return Settled(decode, None, "float32", bad, [])

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if options.kind != self.name or array.ndim not in (3, 4) or array.dtype.kind not in "iuf":
            return None  # (N, T, J, C) may as well be images
        array = array[None] if array.ndim == 3 else array
        try:
            _skeletons.of_array(np.asarray(array[0]), name)
        except Unreadable as error:
            raise DataError(f"{name}: {error.reason}; skeletons are arrays (N, frames, joints, coordinates)") from error
        return EqualColumn(array)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        ok = options.kind == self.name and isinstance(example, (np.ndarray, Tensor)) and example.ndim == 3
        return _object if ok else None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None and (not isinstance(size, int) or size < 2 * SEGMENT):
            raise DataError(f"size={size} of '{name}' is the frames of a training sequence: a number from "
                            f"{2 * SEGMENT} on")
        return SkeletonMeter(name, size, getattr(column, "decode", None))

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        if np.isinf(batch).any():
            row, _, joint, frame = np.argwhere(np.isinf(batch))[0]
            raise DataError(f"{names(int(row))} holds an infinite number (joint {joint}, frame {frame}); make it NaN, "
                            "which is missing")

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape[1:]

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        """Longer sequences are resampled to the training length, shorter ones end in NaN."""
        if value.shape[:2] != field.shape[:2]:
            raise DataError(f"a sequence of '{field.name}' has {value.shape[1]} joints in {value.shape[0]} channels, "
                            f"the set has {field.shape[1]} in {field.shape[0]}")
        if augment is not None and rng is not None:
            value = augment(value, rng, field.shape)
        return _skeletons.longer(_shorter(value, field.shape[2]), field.shape[2])

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return _shorter(value, min(field.shape[2], limit))

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """NaN at the end says what is padded: no extents."""
        step = multiple if isinstance(multiple, int) else multiple[-1]
        longest = -(-max(value.shape[2] for value in values) // step) * step
        return tensor(np.stack([_skeletons.longer(value, longest) for value in values])), None

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        if trained.shape[:2] != given.shape[:2]:
            told = lambda field: f"{field.shape[1]} joints of {', '.join(field.more['channels'])}"
            raise SchemaError(f"'{given.name}' has {told(given)} in {given_by}; the model was trained on "
                              f"{told(trained)} ({trained_on}): give such sequences")
        if trained.columns != given.columns:
            return [f"the joints of {given_by} are called {some(list(given.columns), 4)}, in training "
                    f"{some(list(trained.columns), 4)}; they are taken in this order"]
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, middle, high = (size[0] for size in field.sizes)
        lengths = f"{low:,}" if low == high else f"{low:,} to {high:,}, median {middle:,}"
        gaps = field.more["gaps"]
        missing = f"{gaps:.1%} of the joints" if gaps else "none"
        names = field.columns
        joined = field.more["edges"]
        how = "as given" if field.more["given"] else "joints that stay near each other at one distance"
        return [
            (field.name, f"{len(names)} joints of {', '.join(field.more['channels'])}; missing: {missing}"),
            (f"{field.name} length", f"{lengths} frames; trained at {field.shape[2]}, shorter ones padded, longer ones "
                                     "resampled"),
            (f"{field.name} root", f"{names[field.more['root']]}; each sequence is centred on it and divided by the "
                                   "body's size"),
            (f"{field.name} bones", f"{len(joined)}, {how}: " + some([f"{names[a]}-{names[b]}" for a, b in joined], 6)),
        ]  # fmt: skip

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        xyz = _skeletons.centred(values[:, : _skeletons.dimensions(field.shape[0])].float(), field.more["root"])
        moments, out = _moments(field, limit), []
        for one in (xyz / _skeletons.sizes(xyz)).numpy():
            seen = np.flatnonzero(~np.isnan(one).all((0, 1)))
            whole = one[:, :, : seen[-1] + 1] if len(seen) else one
            out.append(np.nan_to_num(_skeletons.resampled(whole, moments)).ravel())
        return tensor(np.stack(out).astype(np.float32))

    def flattened(self, field: Field, limit: int) -> str:
        return (f"coordinates at {_moments(field, limit)} moments evenly over a sequence, centred and scaled as for "
                "the model, missing ones at the root")

    def example_field(self, name: str) -> Field:
        meter = SkeletonMeter(name, None, None)
        for n, value in enumerate(walks(64, EXAMPLE, 0)):
            meter.add(str(n), value)
        return replace(meter.field(), shape=EXAMPLE)

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return tensor(walks(count, field.shape, seed))

    def augmentable(self, field: Field) -> str:
        return ""

    def light(self, field: Field) -> Any:
        return CropTurn(shortest=0.9, angle=0.1)

    def model_size(self, field: Field) -> str:
        return "nano"


def walks(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(count, C, J, T) float32: bodies whose joints swing about a standing posture while they walk; some sequences end
    early, single joints are missing for a while."""
    rng = np.random.default_rng([seed, 5])
    c, joints, frames = shape
    space, j, t = _skeletons.dimensions(c), np.arange(joints)[:, None], np.arange(frames)
    posture = np.stack([0.3 * np.sin(2.1 * j), 0.4 * j, 0.2 * np.cos(1.3 * j)])[:space]
    x = np.empty((count, c, joints, frames))
    for n in range(count):
        rate, phase, far = rng.uniform(0.1, 0.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.3, (space, joints, 1))
        walk = rng.normal(0, 0.03, (space, 1, 1)) * t + rng.normal(0, 1, (space, 1, 1))
        x[n, :space] = posture * rng.uniform(0.8, 1.2) + far * np.sin(rate * t + phase + 0.7 * j) + walk
        x[n, space:] = rng.random((c - space, joints, frames))
    x[:, :space] += 0.005 * rng.normal(size=(count, space, joints, frames))
    for n in range(0, count, 3):
        x[n, :, n % joints, frames // 3 : frames // 2] = np.nan
    for n in range(1, count, 3):
        x[n, :, :, int(rng.integers(frames * 2 // 3, frames)) :] = np.nan
    return x.astype(np.float32)


def _moments(field: Field, limit: int) -> int:
    return max(2, min(FLAT, limit // (field.shape[1] * _skeletons.dimensions(field.shape[0]))))


def _shorter(value: np.ndarray, frames: int) -> np.ndarray:
    return _skeletons.resampled(value, frames) if value.shape[2] > frames else value


def _object(item: Any, name: str) -> np.ndarray:
    array = np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item)
    return _skeletons.of_array(array, name).values


# Opening.


def _looks_like(root: Path, options: Options) -> bool:
    """Whether the .npy files of a folder are sequences: real arrays (T, J, 2 to 4) of as many joints each, of several
    lengths, with coordinates below 0, which pictures have not; or its .csv files have columns frame and joint."""
    try:
        names = [name for _, names in files_by_kind(root, replace(options, kind=KIND.name)) for name in names]
    except DataError:  # whoever opens the folder says so
        return False
    if not names or len({Path(name).suffix.lower() for name in names}) > 1:
        names = [name for name in names if name.lower().endswith(".npy")]
    few = [root / name for name in names[:: max(1, len(names) // PEEKED)][:PEEKED]]
    if few and few[0].suffix.lower() == ".csv":
        return all(_has_joints(path) for path in few[:2])
    found = []
    for path in few:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError):  # a damaged file is reported by whoever reads it
            continue
        if array.ndim != 3 or array.dtype.kind != "f" or array.shape[2] not in _skeletons.CHANNELS:
            return False
        found.append(array)
    shapes = {array.shape[1:] for array in found}
    several = len({len(array) for array in found}) > 1
    return len(shapes) == 1 and several and any((array[..., :2] < 0).any() for array in found)


def _has_joints(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig") as file:
            head = {cell.strip().lower() for cell in file.readline().split(",")}
    except (OSError, UnicodeDecodeError):
        return False
    return {"frame", "joint", "x", "y"} <= head


def _from_list(items: list[Any], labels: Any, options: Options) -> Source:
    if not items:
        raise DataError("the list of sequences is empty")
    sequences = []
    for n, item in enumerate(items):
        if not isinstance(item, (np.ndarray, torch.Tensor)):
            raise DataError(f"sequence {n} is of type {type(item).__name__}; give arrays (frames, joints, coordinates)")
        try:
            sequences.append(_object(item, f"sequence {n}"))
        except Unreadable as error:
            raise DataError(f"{error}; mend it or leave it out") from error
    kinds = sorted({value.shape[:2] for value in sequences})
    if len(kinds) > 1:
        told = some([f"{joints} joints in {channels} channels" for channels, joints in kinds])
        raise DataError(f"the sequences have {told}; give all the same")
    numbers = names = targets = None
    if labels is not None:
        numbers, names, targets = classes_or_numbers(one_a_sample(labels, len(items), "labels", "list"))
    groups = None if options.group is None else one_a_sample(options.group, len(items), "groups", "list")
    return Source(name="sequences", columns={KIND.name: SequenceColumn(sequences)}, labels=numbers, label_names=names,
                  groups=groups, targets=targets, strict=options.strict)


KIND = SkeletonKind()
