"""Point clouds: (n, C) float32, x, y, z in the unit ball and further channels (normals, colour) as they are; a row of
NaN is no point, where clouds of different counts lie in one array.

A value is centred on its mean and divided by the distance of its farthest point, so that files of any unit and place
are alike (Point-MAE, arXiv:2203.06604, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import one_a_sample
from ..augment import ScaleShift
from ..collate import tensor
from ..columns import ArrayColumn, Blobs, Column
from ..errors import DataError, SchemaError, Unreadable, nothing_readable, some
from ..kind import Blob, Kind, Meter, Settled, Value
from ..labels import classes_or_numbers
from ..options import Options
from ..schema import Field
from ..source import Source
from . import _clouds

MOST = 1024  # points of a training sample, unless asked for (Point-MAE, section 4.1)
FEWEST = 16  # points of a cloud that can be grouped
PEEKED = 16  # files that are read at opening
EXAMPLE = 160  # points of a made-up cloud
RAW = 8  # voxels a side of raw input


def unit(cloud: np.ndarray) -> np.ndarray:
    """(..., n, C) with the coordinates of each cloud centred and scaled to the unit ball; rows of NaN stay."""
    xyz = cloud[..., :3].astype(np.float64)
    real = np.isfinite(xyz).all(-1, keepdims=True)
    count = np.maximum(real.sum(-2, keepdims=True), 1)
    xyz = xyz - np.where(real, xyz, 0.0).sum(-2, keepdims=True) / count
    far = np.sqrt(np.where(real, xyz**2, 0.0).sum(-1)).max(-1)[..., None, None]
    out = np.array(cloud, dtype=np.float32)
    out[..., :3] = xyz / np.where(far > 0, far, 1.0)
    return out


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to (n, C) with the set's channels. Raises Unreadable for a cloud that lacks some."""

    channels: tuple[str, ...]

    def __call__(self, blob: Blob) -> np.ndarray:
        cloud = _clouds.read(blob)
        if cloud.channels[: len(self.channels)] != self.channels:
            raise Unreadable(blob.name, f"it has the channels {', '.join(cloud.channels)}, the set has "
                                        f"{', '.join(self.channels)}")
        return checked(cloud.points[:, : len(self.channels)], blob.name)


def checked(cloud: np.ndarray, name: str) -> np.ndarray:
    """The cloud in the unit ball. Raises Unreadable where it has too few points, or all in one place."""
    there = cloud[~np.isnan(cloud[:, :3]).any(1)]
    if len(there) < FEWEST:
        raise Unreadable(name, f"it has {len(there)} points; a cloud needs at least {FEWEST}")
    if not np.isfinite(there).all():
        raise Unreadable(name, "it holds a number that is not finite")
    if (there[:, :3] == there[0, :3]).all():
        raise Unreadable(name, "all of its points are in one place")
    return unit(there)


class CloudColumn(Column):
    """Clouds of different counts, held in memory."""

    dtype, shape = None, None

    def __init__(self, clouds: Sequence[np.ndarray], names: tuple[str, ...]) -> None:
        self.kind, self.clouds, self.names = KIND, list(clouds), names

    def __len__(self) -> int:
        return len(self.clouds)

    def read(self, row: int) -> Value | None:
        return checked(self.clouds[row], f"cloud {row}")

    def raw(self, row: int) -> bytes:
        return self.clouds[row].tobytes()


class _Fewer(Column):
    """The first channels of another column's clouds."""

    shape = None

    def __init__(self, column: Column, channels: int) -> None:
        self.kind, self.dtype, self.column, self.channels = column.kind, column.dtype, column, channels

    def __len__(self) -> int:
        return len(self.column)

    def read(self, row: int) -> Value | None:
        value = self.column.read(row)
        return None if value is None else value[:, : self.channels]


class PointsKind(Kind):
    name = "points"
    endings = _clouds.MESHES | {".xyz", ".pts"}
    asked_endings = _clouds.TEXT | {".npy"}
    recipe = "point-mae"
    samples_seen, most_epochs = 200_000, 300  # the paper: 300 epochs of 42,000 shapes

    def open(self, spec: Any, options: Options) -> Source | None:
        labels = options.label
        if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], list):
            spec, labels = spec
        if not isinstance(spec, list) or not spec or not all(_cloud(item, options) for item in spec):
            return None
        clouds = [_array(item) for item in spec]
        counts = sorted({cloud.shape[1] for cloud in clouds})
        if len(counts) > 1:
            raise DataError(f"the clouds have {some([str(n) for n in counts], 6)} channels; give all the same")
        numbers = names = targets = None
        if labels is not None:
            numbers, names, targets = classes_or_numbers(one_a_sample(labels, len(clouds), "labels", "list"))
        return Source(name="clouds", columns={self.name: CloudColumn(clouds, _clouds.named(counts[0]))},
                      labels=numbers, label_names=names, targets=targets, strict=options.strict)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        bad = {row: "the file is empty" for row in range(len(blobs)) if blobs.nbytes(row) == 0}
        found: list[tuple[str, ...]] = []
        counts: set[int] = set()
        for row in np.random.default_rng(0).permutation(len(blobs)):
            if int(row) in bad or len(found) == PEEKED:
                continue
            try:
                cloud = _clouds.read(blobs[int(row)])
                found.append(cloud.channels)
                counts.add(len(cloud.points))
            except Unreadable as error:
                bad[int(row)] = error.reason
        if not found:
            first = min(bad)
            raise DataError(f"none of {len(blobs)} files of point clouds can be read; first: {blobs[first].name} "
                            f"({bad[first]}); save them again, or give others")
        shared = min(found, key=len)
        while any(each[: len(shared)] != shared for each in found):
            shared = shared[:-1]
        notes = []
        if len(set(found)) > 1:
            notes = [f"the clouds have different channels; of all, {', '.join(shared)} are used"]
        shape = (counts.pop(), len(shared)) if len(counts) == 1 else None  # meshes, above all: then kept in memory
        return Settled(Decoder(channels=shared), shape, "float32", bad, notes)

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        asked = options.kind == self.name
        if array.dtype.kind not in ("fiu" if asked else "f") or array.ndim not in ((2, 3) if asked else (3,)):
            return None
        if array.shape[-1] != 3 and not asked:
            return None
        if array.shape[-1] < 3:
            raise DataError(f"{name} has shape {array.shape}; point clouds are arrays (N, P, 3) or with further "
                            "channels behind x, y, z")
        array = array[None] if array.ndim == 2 else array
        if array.shape[1] < FEWEST:
            raise DataError(f"{name} has {array.shape[1]} points a cloud; a cloud needs at least {FEWEST}")
        mapped = isinstance(array, np.memmap)
        reopen = None
        if mapped and array.filename:  # type: ignore[attr-defined]
            reopen = partial(np.load, array.filename, mmap_mode="r", allow_pickle=False)  # type: ignore[attr-defined]
        return ArrayColumn(self, array, dtype="float32", convert=unit, mapped=mapped, reopen=reopen)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        return _read_object if _cloud(example, options) else None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None and (not isinstance(size, int) or size < FEWEST):
            raise DataError(f"size={size} of '{name}' is the points of a training cloud: a number from {FEWEST} on")
        names = getattr(column, "names", None) or getattr(getattr(column, "decode", None), "channels", None)
        return PointsMeter(name, size, names)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        real = ~np.isnan(batch).all(-1)  # B P
        wrong = real & ~np.isfinite(batch).all(-1)
        if wrong.any():
            row, point = np.argwhere(wrong)[0]
            raise DataError(f"point {point} of {names(int(row))} holds a number that is not finite; leave the point "
                            "out, or make its whole row NaN, which is no point")
        few = real.sum(1) < FEWEST
        if few.any():
            row = int(np.argmax(few))
            raise DataError(f"{names(row)} has {int(real[row].sum())} points; a cloud needs at least {FEWEST}: leave "
                            "it out")

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape[:1]

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        if value.shape[1] != field.shape[1]:
            raise DataError(f"a cloud of '{field.name}' has {value.shape[1]} channels, the set has {field.shape[1]}")
        value = resampled(value, field.shape[0], rng)
        return value if augment is None or rng is None else augment(value, rng, field.shape)

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return self.fit(value, field, None, None)  # groups of as many points as in training

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        return tensor(np.stack(values)), None

    def align(self, column: Column, field: Field) -> Column:
        channels = getattr(column, "shape", None)
        names = getattr(column, "names", None) or getattr(getattr(column, "decode", None), "channels", None)
        count = channels[1] if channels else len(names) if names else field.shape[1]
        return column if count == field.shape[1] else _Fewer(column, field.shape[1])

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        ours, theirs = trained.columns, given.columns
        if theirs[: len(ours)] == ours:
            more = theirs[len(ours) :]
            return [f"channels of {given_by} that the model was not trained with are not used: {', '.join(more)}"] \
                if more else []
        raise SchemaError(f"'{given.name}' has the channels {', '.join(theirs)} in {given_by}; the model was trained "
                          f"on {', '.join(ours)} ({trained_on}), which must be the first ones: give such clouds")

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, middle, high = (size[0] for size in field.sizes)
        counts = f"{low:,}" if low == high else f"{low:,} to {high:,}, median {middle:,}"
        rows = [(field.name, f"clouds of {counts} points; trained at {field.shape[0]:,} points each"),
                (f"{field.name} channels", ", ".join(field.columns) + "; each cloud is centred and scaled to the unit "
                                                                      "ball")]
        for name, mean, std in list(zip(field.columns, field.mean, field.std))[3:]:
            rows.append((f"  {name}", f"mean {mean:.4g}, std {std:.4g}"))
        return rows

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        side = max(2, min(RAW, int(limit ** (1 / 3))))
        real = ~values.isnan().any(-1)  # B P
        cell = ((values[..., :3].nan_to_num() + 1) / 2 * side).long().clamp(0, side - 1)
        at = (cell[..., 0] * side + cell[..., 1]) * side + cell[..., 2]
        counts = torch.zeros(len(values), side**3).scatter_add_(1, at, real.float())
        return (counts / real.sum(1, keepdim=True).clamp(min=1)).sqrt()

    def flattened(self, field: Field, limit: int) -> str:
        side = max(2, min(RAW, int(limit ** (1 / 3))))
        return f"the share of a cloud's points in each of {side} x {side} x {side} voxels, its square root"

    def example_field(self, name: str) -> Field:
        meter = PointsMeter(name, None, None)
        for cloud in shapes(64, EXAMPLE, 0):
            meter.add("", unit(cloud[~np.isnan(cloud).any(1)]))
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        made = [resampled(unit(cloud[~np.isnan(cloud).any(1)]), field.shape[0], None)
                for cloud in shapes(count, field.shape[0], seed)]
        return tensor(np.stack(made))

    def resized(self, field: Field, size: Any) -> Field:
        return replace(field, shape=(int(size[0]), field.shape[1]))

    def augmentable(self, field: Field) -> str:
        return ""

    def light(self, field: Field) -> Any:
        return ScaleShift()

    def model_size(self, field: Field) -> str:
        return "nano"


def resampled(cloud: np.ndarray, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """(count, C): as many points drawn without repetition, always the same ones without `rng`; rows of NaN behind
    smaller clouds."""
    there = cloud[~np.isnan(cloud[:, :3]).any(1)]
    if len(there) > count:
        chosen = (np.random.default_rng(0) if rng is None else rng).permutation(len(there))[:count]
        return there[np.sort(chosen)]
    out = np.full((count, cloud.shape[1]), np.nan, dtype=np.float32)
    out[: len(there)] = there
    return out


class PointsMeter(Meter):
    """Counts of points; mean and deviation by channel."""

    most = 400  # a mesh takes a while to read

    def __init__(self, name: str, size: int | None, channels: tuple[str, ...] | None) -> None:
        self.name, self.size, self.channels = name, size, channels
        self.counts: list[int] = []
        self.seen = self.missing = 0
        self.total = self.square = np.zeros(0)

    def add(self, name: str, value: Value | None) -> None:
        self.seen += 1
        if value is None:
            self.missing += 1
            return
        there = value[~np.isnan(value[:, :3]).any(1)].astype(np.float64)
        KIND.check(there[None].astype(np.float32), lambda _: name)
        if self.counts and there.shape[1] != len(self.total):
            raise DataError(f"{name} has {there.shape[1]} channels, others have {len(self.total)}; give all the same")
        if not self.counts:
            self.total, self.square = np.zeros(there.shape[1]), np.zeros(there.shape[1])
        self.total, self.square = self.total + there.sum(0), self.square + (there**2).sum(0)
        self.counts.append(len(there))

    def field(self) -> Field:
        if not self.counts:
            raise nothing_readable(self.name)
        whole = sum(self.counts)
        mean = self.total / whole
        std = np.sqrt(np.maximum(self.square / whole - mean**2, 0))
        std = np.where(std > 1e-7 * np.maximum(1, np.abs(mean)), std, 1.0)
        counts = sorted(self.counts)
        at = self.size or min(MOST, counts[-1])
        names = self.channels or _clouds.named(len(mean))
        plain = lambda values: tuple(float(v) for v in values)
        return Field(name=self.name, kind="points", dtype="float32", shape=(at, len(mean)),
                     sizes=((counts[0],), (int(np.median(counts)),), (counts[-1],)), low=-1.0, high=1.0,
                     mean=plain(mean), std=plain(std), missing=self.missing / self.seen, columns=tuple(names))


def shapes(count: int, points: int, seed: int) -> np.ndarray:
    """(count, points, 3) float32: surfaces of ellipsoids and boxes, some with fewer points, NaN behind them."""
    rng = np.random.default_rng([seed, 3])
    x = rng.normal(size=(count, points, 3))
    box = rng.random(count) < 0.5
    x /= np.where(box[:, None, None], np.abs(x).max(-1, keepdims=True), np.linalg.norm(x, axis=-1, keepdims=True))
    x *= rng.uniform(0.3, 1.0, (count, 1, 3))
    for cloud, there in zip(x, rng.integers(points * 2 // 3, points + 1, count)):
        cloud[there:] = np.nan
    return x.astype(np.float32)


def _cloud(item: Any, options: Options) -> bool:
    """Whether an object is one cloud: an array (P, 3), or (P, 3 or more) where clouds are asked for."""
    if not isinstance(item, (np.ndarray, torch.Tensor)) or item.ndim != 2:
        return False
    if options.kind == KIND.name:
        return item.shape[1] >= 3
    real = item.is_floating_point() if isinstance(item, torch.Tensor) else item.dtype.kind == "f"
    return bool(real) and item.shape[1] == 3


def _array(item: Any) -> np.ndarray:
    return np.asarray(item.detach().cpu() if isinstance(item, torch.Tensor) else item, dtype=np.float32)


def _read_object(item: Any, name: str) -> np.ndarray:
    array = _array(item)
    if array.ndim != 2 or array.shape[1] < 3:
        raise Unreadable(name, f"a cloud is an array (P, 3 or more), not {array.shape}")
    return checked(array, name)


KIND = PointsKind()
