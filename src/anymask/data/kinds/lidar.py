"""Lidar sweeps: windows of them, (n, C) float32 in metres in the sensor's frame: x forward, y left, z up, reflectance
and what else the file holds.

A sweep has a hundred thousand points and thousands of occupied voxels, so a sample is a square window of it:
overlapping ones around the sensor, the same for every sweep. The group of a sample is its sweep, so that no split cuts
one in two.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..collate import tensor
from ..columns import Blobs, Column
from ..errors import DataError, SchemaError, Unreadable, some
from ..kind import Kind, Meter, Settled, Value
from ..options import Options
from ..schema import Field
from ..source import Source, canonical_split

SIDE, STRIDE, REACH = 16.0, 8.0, 32.0  # metres: of a window, from one to the next, of all of them from the sensor
ENDING = ".bin"
CHANNELS = 4  # of a KITTI file; nuScenes' .pcd.bin have a ring number as well
FARTHEST = 1_000.0  # metres: no lidar of a vehicle sees so far
MOST = 32_768  # points of a training window
HELD = 8  # sweeps kept in memory while their windows are read
SPLITS = ("train", "test", "validation")
EXAMPLE = 240  # points of a made-up window
NAMES = ("x", "y", "z", "reflectance", "ring")


def centres() -> np.ndarray:
    """(W, 2) middles of the windows of a sweep, in metres."""
    axis = np.arange(-REACH + SIDE / 2, REACH - SIDE / 2 + 1e-6, STRIDE)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)


def named(channels: int) -> tuple[str, ...]:
    return (*NAMES[:channels], *(f"channel {n}" for n in range(len(NAMES), channels)))


def read_sweep(path: Path, channels: int) -> np.ndarray:
    """(n, channels) float32 of a file of nothing else. Raises Unreadable."""
    try:
        values = np.fromfile(path, dtype="<f4")
        size = path.stat().st_size
    except OSError as error:
        raise Unreadable(path.name, str(error)) from error
    if not size:
        raise Unreadable(path.name, "the file is empty")
    if size % (4 * channels):
        raise Unreadable(path.name, _cut(size, channels))
    return sound(values.reshape(-1, channels), path.name)


def sound(sweep: np.ndarray, name: str) -> np.ndarray:
    """The sweep. Raises Unreadable for coordinates that are none."""
    wrong = ~np.isfinite(sweep).all(1)
    if wrong.any():
        raise Unreadable(name, f"point {int(np.argmax(wrong))} holds a number that is not finite")
    if len(sweep) and not sweep[:, :3].any():
        raise Unreadable(name, "all its points lie at the sensor, as in a file of zeros")
    far = np.abs(sweep[:, :3]).max(1, initial=0) > FARTHEST
    if far.any():
        raise Unreadable(name, f"point {int(np.argmax(far))} is more than {FARTHEST:,.0f} m away: these are no float32 "
                               f"numbers of x, y, z in metres, or not {sweep.shape[1]} a point (channels=)")
    return sweep


class Windows(Column):
    """Window `row % W` of sweep `row // W`. `sweeps` are files or arrays (n, C)."""

    shape, dtype = None, None

    def __init__(self, sweeps: Sequence[Path | np.ndarray], channels: int) -> None:
        self.kind, self.sweeps, self.names = KIND, list(sweeps), named(channels)
        self.centres = centres()
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}

    def __len__(self) -> int:
        return len(self.sweeps) * len(self.centres)

    def sweep(self, number: int) -> np.ndarray:
        """(n, C) the whole sweep. Raises Unreadable."""
        if number not in self._held:
            given = self.sweeps[number]
            channels = len(self.names)
            found = sound(given, f"sweep {number}") if isinstance(given, np.ndarray) else read_sweep(given, channels)
            if len(self._held) >= HELD:
                self._held.popitem(last=False)
            self._held[number] = found
        return self._held[number]

    def read(self, row: int) -> Value | None:
        number, window = divmod(row, len(self.centres))
        sweep = self.sweep(number)
        low = self.centres[window] - SIDE / 2
        inside = ((sweep[:, :2] >= low) & (sweep[:, :2] < low + SIDE)).all(1)
        return np.ascontiguousarray(sweep[inside])

    def raw(self, row: int) -> bytes:
        """Of a sweep's first window the whole sweep, so that a fingerprint reads each sweep once."""
        number, window = divmod(row, len(self.centres))
        if window:
            return b""
        sweep = self.sweeps[number]
        return sweep.tobytes() if isinstance(sweep, np.ndarray) else sweep.read_bytes()

    def nbytes(self, row: int) -> int:
        number, window = divmod(row, len(self.centres))
        sweep = self.sweeps[number]
        return 0 if window else sweep.nbytes if isinstance(sweep, np.ndarray) else sweep.stat().st_size


class LidarKind(Kind):
    name = "lidar"
    endings = frozenset({ENDING})
    recipe = "voxel-mae-lidar"
    samples_seen, most_epochs = 20_000, 100

    def open(self, spec: Any, options: Options) -> Source | None:
        if isinstance(spec, (str, os.PathLike)):
            path = Path(spec).expanduser()
            if path.is_dir():
                return _open_folder(path, options)
            if path.suffix.lower() == ENDING and os.access(path, os.R_OK):
                return _source([path], [path.name], options, path.name)
            return None
        if options.kind != self.name:
            return None
        given = spec if isinstance(spec, list) else [spec]
        if not given or not all(isinstance(item, (np.ndarray, torch.Tensor)) for item in given):
            return None
        sweeps = [one for item in given for one in _sweeps(item)]
        return _source(sweeps, [f"sweep {n}" for n in range(len(sweeps))], options, "sweeps")

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError("lidar sweeps are files of their own in a folder, one .bin file each, or a list of arrays")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        return None  # `open` takes arrays

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Value] | None:
        return None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None:
            raise DataError(f"'{name}' are windows of {SIDE:g} m; leave size= (--image-size) out")
        return LidarMeter(name, getattr(column, "names", None))

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        real = ~np.isnan(batch).all(-1)
        wrong = real & ~np.isfinite(batch).all(-1)
        if wrong.any():
            row, point = np.argwhere(wrong)[0]
            raise DataError(f"point {point} of {names(int(row))} holds a number that is not finite; leave it out")

    def extent(self, value: Value) -> tuple[int, ...]:
        return value.shape[:1]

    def fit(self, value: Value, field: Field, augment: Any, rng: np.random.Generator | None) -> Value:
        if value.shape[1] != field.shape[1]:
            raise DataError(f"a point of '{field.name}' has {value.shape[1]} channels, in training {field.shape[1]}")
        value = value[~np.isnan(value).all(1)]
        count = field.shape[0]
        if len(value) > count:
            drawn = (np.random.default_rng(0) if rng is None else rng).permutation(len(value))[:count]
            value = value[np.sort(drawn)]
        if augment is not None and rng is not None:
            value = augment(value, rng, field.shape)
        out = np.full((count, value.shape[1]), np.nan, dtype=np.float32)
        out[: len(value)] = value
        return out

    def natural(self, value: Value, field: Field, limit: int) -> Value:
        return self.fit(value, field, None, None)

    def pad(self, values: Sequence[Value], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        return tensor(np.stack(values)), None

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        if trained.columns != given.columns:
            raise SchemaError(f"'{given.name}' has {', '.join(given.columns)} in {given_by}, the model was trained on "
                              f"{', '.join(trained.columns)} ({trained_on}); give sweeps with these channels")
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, middle, high = (size[0] for size in field.sizes)
        figures = lambda values: ", ".join(f"{v:.3g}" for v in values)
        return [(field.name, f"windows of {SIDE:g} x {SIDE:g} m, {len(centres())} to a sweep, up to {REACH:g} m from "
                             "the sensor"),
                (f"{field.name} points", f"{low:,} to {high:,} in a window, median {middle:,}"),
                (f"{field.name} channels", ", ".join(field.columns)),
                (f"{field.name} mean, std", f"{figures(field.mean)}; {figures(field.std)}")]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        return torch.stack([_heights(value, field) for value in values])

    def flattened(self, field: Field, limit: int) -> str:
        return "for each square of 2 x 2 m of a window the logarithm of its points, their mean and greatest height"

    def example_field(self, name: str) -> Field:
        meter = LidarMeter(name, None)
        for window in scenes(64, EXAMPLE, 0):
            meter.add("", window[~np.isnan(window).all(1)])
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return tensor(np.stack([self.fit(window, field, None, None) for window in scenes(count, field.shape[0], seed)]))

    def augmentable(self, field: Field) -> str:
        return ""

    def model_size(self, field: Field) -> str:
        return "nano"


def _heights(window: Tensor, field: Field) -> Tensor:
    """(3 * S * S,) for S x S squares of 2 m: logarithm of the number of points, mean and greatest height."""
    side = round(SIDE / 2)
    there = window[~window.isnan().all(1)]
    out = torch.zeros(3, side * side)
    if not len(there):
        return out.flatten()
    # The window's place, found from the points, as a batch does not say it.
    low = (there[:, :2].amin(0) / STRIDE).floor() * STRIDE
    cell = ((there[:, :2] - low) / 2).long().clamp(0, side - 1)
    at, z = cell[:, 0] * side + cell[:, 1], there[:, 2] - field.mean[2]
    counts = torch.bincount(at, minlength=side * side).float()
    out[0] = torch.log1p(counts)
    out[1] = torch.bincount(at, weights=z, minlength=side * side) / counts.clamp(min=1)
    out[2] = torch.zeros(side * side).scatter_reduce(0, at, z, "amax", include_self=False)
    return out.flatten()


class LidarMeter(Meter):
    """Counts of points of windows; range, mean and deviation by channel."""

    most = 300

    def __init__(self, name: str, channels: tuple[str, ...] | None) -> None:
        self.name, self.channels = name, channels
        self.counts: list[int] = []
        self.total = self.square = np.zeros(0)
        self.low, self.high = np.inf, -np.inf

    def add(self, name: str, value: Value | None) -> None:
        if value is None:
            return
        KIND.check(value[None], lambda _: name)
        x = value[~np.isnan(value).all(1)].astype(np.float64)
        if not self.counts:
            self.total, self.square = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        self.counts.append(len(x))
        if len(x):
            self.total, self.square = self.total + x.sum(0), self.square + (x**2).sum(0)
            self.low, self.high = min(self.low, float(x[:, :3].min())), max(self.high, float(x[:, :3].max()))

    def field(self) -> Field:
        whole = sum(self.counts)
        if not whole:
            raise DataError(f"no window of '{self.name}' that was looked at, up to {REACH:g} m from the sensor, has a "
                            "point; give coordinates in metres, the sensor at (0, 0, 0)")
        mean = self.total / whole
        std = np.sqrt(np.maximum(self.square / whole - mean**2, 0))
        std = np.where(std > 1e-6, std, 1.0)
        counts = sorted(self.counts)
        at = min(MOST, max(1, -(-counts[-1] // 256) * 256))
        plain = lambda values: tuple(float(v) for v in values)
        return Field(name=self.name, kind="lidar", dtype="float32", shape=(at, len(mean)),
                     sizes=((counts[0],), (int(np.median(counts)),), (counts[-1],)), low=self.low, high=self.high,
                     mean=plain(mean), std=plain(std), columns=self.channels or named(len(mean)))


def scenes(count: int, points: int, seed: int) -> np.ndarray:
    """(count, points, 4) float32: some flat ground before the sensor, and a wall; some have fewer points, NaN behind
    them."""
    rng = np.random.default_rng([seed, 4])
    x = np.zeros((count, points, 4))
    x[..., :2] = rng.uniform(0, 1, (count, points, 2)) * [6, 4] + [8, -2]
    x[..., 2] = -1.7 + 0.02 * rng.normal(size=(count, points))
    wall = rng.random((count, points)) < 0.5
    place = rng.uniform(9, 13, (count, 1))
    x[..., 0] = np.where(wall, place + 0.05 * rng.normal(size=(count, points)), x[..., 0])
    x[..., 2] = np.where(wall, rng.uniform(-1.7, 1.0, (count, points)), x[..., 2])
    x[..., 3] = np.where(wall, 0.7, 0.2) + 0.05 * rng.normal(size=(count, points))
    for scene, there in zip(x, rng.integers(points * 2 // 3, points + 1, count)):
        scene[there:] = np.nan
    return x.astype(np.float32)


# Opening.


def _open_folder(root: Path, options: Options) -> Source | None:
    """A folder of .bin files and nothing else that is data, or any folder with .bin files where lidar is asked for;
    folders train, test and validation are splits."""
    from ..folder import files_by_kind

    if options.kind is None and not _holds_sweeps(root):
        return None
    found = files_by_kind(root, options)
    if [kind.name for kind, _ in found] != [KIND.name]:
        return None
    names = found[0][1]
    parts: dict[str, list[str]] = {}
    for name in names:
        first, slash, _ = name.partition("/")
        parts.setdefault(canonical_split(first) if slash else "", []).append(name)
    there = [split for split in SPLITS if split in parts]
    if "train" not in there:
        if options.split is not None:
            raise DataError(f"{root} has no split '{options.split}': there is no folder of that name; open it without "
                            "split=, or make one with split_source(source)")
        return _source([root / name for name in names], names, options, root.name)
    split = canonical_split(options.split) if options.split else "train"
    if split not in there:
        raise DataError(f"{root} has no split '{options.split}'; there are: {', '.join(there)}")
    files = [root / name for name in parts[split]]
    source = _source(files, parts[split], options, f"{root.name}/{split}")
    return source.with_splits(split, {s: partial(_split, root, options, s) for s in there})


def _holds_sweeps(root: Path) -> bool:
    """Whether there is a .bin file in a folder, or in one below it that is called as a split or as KITTI does it:
    without walking through all there is."""
    try:
        below = [path for path in root.iterdir() if canonical_split(path.name) in (*SPLITS, "velodyne")]
        folders = [root, *(path for path in below if path.is_dir())]
        return any(path.suffix.lower() == ENDING for folder in folders for path in folder.iterdir())
    except PermissionError:  # the opener of folders says what mends it
        return False


def _split(root: Path, options: Options, split: str) -> Source:
    source = _open_folder(root, replace(options, split=split))
    assert source is not None
    return source


def _sweeps(item: Any) -> list[np.ndarray]:
    """An array (n, C), or (N, n, C) with NaN behind sweeps of fewer points."""
    array = np.asarray(item.detach().cpu() if isinstance(item, torch.Tensor) else item)
    if array.ndim not in (2, 3) or array.shape[-1] < 3 or array.dtype.kind not in "fiu":
        raise DataError(f"a sweep is an array (n, 3 or more) of numbers, not {array.shape} of {array.dtype}; give such "
                        "arrays")
    each = [array] if array.ndim == 2 else list(array)
    return [sweep[~np.isnan(sweep).all(1)] for sweep in (one.astype(np.float32) for one in each)]


def _source(sweeps: Sequence[Any], names: list[str], options: Options, name: str) -> Source:
    if options.label is not None or options.group is not None:
        raise DataError(f"{name}: windows of lidar sweeps take no labels and groups; leave label= and group= out")
    channels = sorted({sweep.shape[1] for sweep in sweeps if isinstance(sweep, np.ndarray)})
    if len(channels) > 1:
        raise DataError(f"the sweeps have {some([str(n) for n in channels], 6)} channels; give all the same")
    count = channels[0] if channels else options.channels or (5 if names[0].lower().endswith(".pcd.bin") else CHANNELS)
    bad = {n: reason for n, sweep in enumerate(sweeps) if isinstance(sweep, Path) and (reason := _unfit(sweep, count))}
    notes = [f"{len(bad)} of {len(names)} sweeps cannot be read and are left out; first: {names[n]} ({reason})"
             for n, reason in list(bad.items())[:1]]
    if bad and (options.strict or len(bad) == len(names)):
        raise DataError(f"{name}: {notes[0]}; mend or remove the files")
    sweeps, names = ([x for n, x in enumerate(each) if n not in bad] for each in (sweeps, names))
    column = Windows(sweeps, count)
    ids = [f"{each} at {x:+g}, {y:+g} m" for each in names for x, y in column.centres]
    groups = np.repeat(np.array(names), len(column.centres))
    return Source(name=name, columns={KIND.name: column}, ids=ids, groups=groups, strict=options.strict, notes=notes)


def _unfit(path: Path, channels: int) -> str:
    """Why a file cannot be a sweep, as far as its size says; '' where it may be one."""
    size = path.stat().st_size
    if size == 0:
        return "the file is empty"
    return _cut(size, channels) if size % (4 * channels) else ""


def _cut(size: int, channels: int) -> str:
    return (f"its {size:,} bytes are not points of {channels} float32 numbers; it is cut short, or has another number "
            "of channels (channels=)")


KIND = LidarKind()
