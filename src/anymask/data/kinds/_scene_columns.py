"""Where satellite scenes come from by sample: windows of large ones, bands by name; and what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..columns import Column
from ..errors import DataError
from ..kind import Kind, Meter
from ..schema import Field
from . import _scenes
from ._scenes import About

SMALLEST = 8  # pixels a side


class Window(NamedTuple):
    """A place in a scene, read by `read`."""

    column: Windows
    scene: int
    start: tuple[int, int]

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        scene = self.column.scenes[self.scene]
        return (*scene.shape[:-2], *(min(n, self.column.side) for n in scene.shape[-2:]))

    def tobytes(self) -> bytes:
        return self.read().tobytes()

    def read(self, rng: np.random.Generator | None = None) -> np.ndarray:
        """(C, ..., H, W) float32 of the grid's window; with `rng` moved at random."""
        column, scene, (y, x) = self.column, self.column.scenes[self.scene], self.start
        if rng is not None:
            reach = column.stride // 2
            y, x = y + int(rng.integers(-reach, reach + 1)), x + int(rng.integers(-reach, reach + 1))
        h, w = self.shape[-2:]
        y, x = min(max(y, 0), scene.shape[-2] - h), min(max(x, 0), scene.shape[-1] - w)
        return np.array(scene[..., y : y + h, x : x + w], dtype=np.float32)


class Windows(Column):
    """Windows of scenes (C, ..., H, W), one after another."""

    shape, dtype = None, None

    def __init__(self, kind: Kind, scenes: Sequence[np.ndarray], about: About, side: int, stride: int) -> None:
        self.kind, self.scenes, self.told, self.side, self.stride = kind, list(scenes), about, side, stride
        self.rows = [(n, (int(y), int(x))) for n, scene in enumerate(self.scenes)
                     for y in starts(scene.shape[-2], side, stride) for x in starts(scene.shape[-1], side, stride)]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> Window:
        return Window(self, *self.rows[row])

    def raw(self, row: int) -> bytes:
        number, start = self.rows[row]
        return b"" if start != (0, 0) else np.ascontiguousarray(self.scenes[number]).tobytes()

    def nbytes(self, row: int) -> int:
        number, start = self.rows[row]
        return 0 if start != (0, 0) else self.scenes[number].nbytes


class Named(Column):
    """Another column's values with their bands by name in the order of a field, NaN for those that it lacks."""

    def __init__(self, column: Column, given: Sequence[str], wanted: Sequence[str]) -> None:
        self.kind, self.column, self.dtype, self.shape = column.kind, column, None, None
        place = {name: n for n, name in enumerate(given)}
        self.pick = [place.get(name) for name in wanted]
        self.told = about_of(column)

    def __len__(self) -> int:
        return len(self.column)

    def read(self, row: int) -> Any:
        value = self.column.read(row)
        return None if value is None else Picked(value, self.pick)


class Picked(NamedTuple):
    """A value with its bands picked by number, None = NaN."""

    value: Any
    pick: list[int | None]

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.pick), *self.value.shape[1:])

    def tobytes(self) -> bytes:
        return self.read().tobytes()

    def read(self, rng: np.random.Generator | None = None) -> np.ndarray:
        x = read(self.value, rng)
        nothing = np.full(x.shape[1:], np.nan, dtype=np.float32)
        return np.stack([nothing if n is None else x[n] for n in self.pick])


def read(value: Any, rng: np.random.Generator | None = None) -> np.ndarray:
    """The pixels of a value: an array, or a place."""
    return value if isinstance(value, np.ndarray) else value.read(rng)


def starts(length: int, side: int, stride: int) -> np.ndarray:
    room = max(0, length - side)
    return np.round(np.linspace(0, room, -(-room // stride) + 1)).astype(int)


def about_of(column: Column | None) -> About:
    """What a column knows of its scenes."""
    return getattr(column, "told", None) or getattr(getattr(column, "decode", None), "about", None) or About()


def names_of(column: Column | None, count: int) -> tuple[str, ...]:
    """Names of the bands; by number where they are not known."""
    return about_of(column).bands or tuple(f"band {n + 1}" for n in range(count))


class SatelliteMeter(Meter):
    """Range, mean, deviation and correlation of bands."""

    most = 500

    def __init__(self, name: str, size: Any, column: Column | None) -> None:
        self.name, self.size, self.column = name, size, column
        self.sizes: list[tuple[int, int]] = []
        self.shape: tuple[int, ...] = ()
        self.low, self.high = np.inf, -np.inf
        self.missing = self.count = self.total = self.square = self.both = np.zeros(0)

    def add(self, name: str, value: Any) -> None:
        if value is None:
            return
        x = read(value)
        if np.isinf(x).any():
            raise DataError(f"{name} holds an infinite value; mend or remove the file")
        if self.shape and x.shape[:-2] != self.shape[:-2]:
            raise DataError(f"{name} has {x.shape[:-2]} bands (and dates), others have {self.shape[:-2]}")
        flat = x.reshape(len(x), -1).astype(np.float64)
        if not self.shape:
            zero = np.zeros(len(x))
            self.count, self.total, self.square, self.missing = zero, zero, zero, zero
            self.both = np.zeros((3, len(x), len(x)))
        self.shape = x.shape
        self.sizes.append(self._whole(value))
        there = ~np.isnan(flat)
        known = np.where(there, flat, 0.0)
        self.missing = self.missing + ~there.any(1)
        self.count, self.total = self.count + there.sum(1), self.total + known.sum(1)
        self.square = self.square + (known**2).sum(1)
        mean = known.sum(1, keepdims=True) / np.maximum(there.sum(1, keepdims=True), 1)
        gap = np.where(there, flat - mean, 0.0)  # within scenes, so that their overall brightness does not count
        self.both[0] += gap @ gap.T
        self.both[1] += (gap**2) @ there.T
        self.both[2] += there @ (gap**2).T
        if there.any():
            self.low, self.high = min(self.low, float(flat[there].min())), max(self.high, float(flat[there].max()))

    def _whole(self, value: Any) -> tuple[int, int]:
        return int(value.shape[-2]), int(value.shape[-1])

    def field(self) -> Field:
        if not self.shape or not self.count.any():
            raise DataError(f"no scene of '{self.name}' that was looked at has data; give scenes of which some pixels "
                            "are not missing")
        about = about_of(self.column)
        names = names_of(self.column, self.shape[0])
        mean = self.total / np.maximum(self.count, 1)
        std = np.sqrt(np.maximum(self.square / np.maximum(self.count, 1) - mean**2, 0))
        std = np.where(std > 1e-7 * np.maximum(1, np.abs(mean)), std, 1.0)
        space = self._space()
        area = sorted(self.sizes, key=lambda size: size[0] * size[1])
        median = tuple(int(np.median([size[n] for size in area])) for n in (0, 1))
        plain = lambda values: tuple(float(v) for v in values)
        more = {"groups": grouped(names, self.both), "dates": list(about.dates), "resolution": about.resolution}
        return Field(name=self.name, kind="satellite", dtype="float32", shape=(*self.shape[:-2], *space),
                     sizes=(area[0], median, area[-1]), low=self.low, high=self.high, mean=plain(mean), std=plain(std),
                     columns=names, gaps=plain(self.missing / len(self.sizes)), more=more)

    def _space(self) -> tuple[int, int]:
        """Rows and columns in training: as asked for; else the least of the scenes', in whole patches."""
        if self.size is not None:
            size = (self.size, self.size) if isinstance(self.size, int) else tuple(int(n) for n in self.size)
            if min(size) < SMALLEST:
                raise DataError(f"size={self.size} (--image-size) of '{self.name}' must be at least {SMALLEST} pixels")
            return size  # type: ignore[return-value]
        return min(s[0] for s in self.sizes), min(s[1] for s in self.sizes)


def grouped(names: Sequence[str], both: np.ndarray) -> list[list[int]]:
    """Bands that belong together: of Sentinel-2 those of one resolution (SatMAE, arXiv:2207.08051, section 4.2); of
    others those that vary together, by average linkage of the correlation within scenes, a group for every four."""
    if all(name in _scenes.SENTINEL2 for name in names):
        sets = sorted({_scenes.SENTINEL2[name] for name in names})
        return [[n for n, name in enumerate(names) if _scenes.SENTINEL2[name] == metres] for metres in sets]
    count = -(-len(names) // 4)
    if count < 2:
        return [list(range(len(names)))]
    from scipy.cluster.hierarchy import fcluster, linkage

    alike = np.abs(both[0]) / np.sqrt(np.maximum(both[1] * both[2], 1e-30))
    distance = 1 - alike[np.triu_indices(len(names), 1)]
    cluster = fcluster(linkage(np.clip(distance, 0, 1), "average"), count, "maxclust")
    found = {c: [n for n in range(len(names)) if cluster[n] == c] for c in cluster}
    return sorted((list(group) for group in found.values()), key=lambda group: group[0])
