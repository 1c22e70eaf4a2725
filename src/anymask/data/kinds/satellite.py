"""Satellite imagery: (C, H, W) float32 of one date or (C, T, H, W) of several, NaN where there are no data, such as a
band that a scene lacks, or a date under clouds.

A file is a sample; scenes larger than 256 pixels, and those of arrays, are cut into windows, which are moved at random
in training by up to half the distance from one to the next.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..collate import pad_grid, tensor
from ..columns import Blobs, Column
from ..errors import DataError, SchemaError, Unreadable, some
from ..kind import Blob, Kind, Meter, Settled
from ..options import Options
from ..schema import Field
from ..source import Source
from . import _scenes
from ._scene_columns import SMALLEST, Named, SatelliteMeter, Windows, names_of, read
from ._scenes import About
from .image import smooth

WHOLE = 256  # pixels a side of a scene that is one sample, at most
WINDOW = 32  # pixels a side of a window, unless asked for (--window)
EXAMPLE = (5, 24, 16)
RAW = 64  # values of raw input, for each band


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to (C, H, W). Raises Unreadable for another number of bands."""

    bands: int
    about: About

    def __call__(self, blob: Blob) -> np.ndarray:
        scene = _scenes.pixels(blob) if blob.ending in _scenes.TIFF else _npy(blob)
        if len(scene) != self.bands:
            raise Unreadable(blob.name, f"it has {len(scene)} bands, the set has {self.bands}")
        return scene


def _npy(blob: Blob) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(blob.data) if isinstance(blob.data, bytes) else blob.data, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unreadable(blob.name, str(error)) from error
    try:
        return _scenes.sound(_scenes.from_array(array, blob.name).astype(np.float32), blob.name)
    except DataError as error:
        raise Unreadable(blob.name, str(error)) from error


class SatelliteKind(Kind):
    name = "satellite"
    endings = frozenset()
    asked_endings = frozenset({*_scenes.TIFF, ".npy"})
    recipe = "satmae"
    samples_seen, most_epochs = 6_000, 100
    on_grid = gaps = True
    renderer = "anymask.reports.satellites:Composites"

    def open(self, spec: Any, options: Options) -> Source | None:
        asked = options.kind == self.name
        if isinstance(spec, (str, os.PathLike)):
            return self._open_path(Path(spec).expanduser(), options, asked)
        if not asked:
            return None
        given = spec if isinstance(spec, list) else [spec]
        if not given or not all(isinstance(item, (np.ndarray, torch.Tensor)) for item in given):
            return None
        arrays = [item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else item for item in given]
        if len(arrays) == 1 and arrays[0].ndim == 5:
            arrays = list(arrays[0])
        return windows_of([_scenes.from_array(a, f"scene {n}") for n, a in enumerate(arrays)],
                          [f"scene {n}" for n in range(len(arrays))], About(), options, "scenes")  # fmt: skip

    def _open_path(self, path: Path, options: Options, asked: bool) -> Source | None:
        """Files with several bands that know where on Earth they lie, or any that may hold scenes where asked for."""
        from ..folder import open_folder

        ending = path.suffix.lower()
        if path.is_file() and ending == ".npy" and asked and os.access(path, os.R_OK):
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise DataError(f"{path} cannot be read ({error}); write it anew with numpy.save") from error
            scenes = list(array) if array.ndim == 5 else [array]
            names = [f"scene {n}" for n in range(len(scenes))]
            return windows_of([_scenes.from_array(a, path.name) for a in scenes], names, _scenes.beside(path), options,
                              path.name)  # fmt: skip
        first = path if path.is_file() and ending in _scenes.TIFF else _first(path) if path.is_dir() else None
        if first is None:
            return None
        try:
            head = _scenes.header(Blob(first.name, first))
        except (Unreadable, DataError):  # whoever reads it as a picture says so
            return None
        if not asked and not (head.georeferenced and head.shape[0] >= _scenes.FEWEST):
            return None
        if path.is_file() or max(head.shape[1:]) > WHOLE:
            return self._large(path, options)
        return open_folder(path, replace(options, kind=self.name))  # type: ignore[return-value]

    def _large(self, path: Path, options: Options) -> Source:
        """Windows of the scenes in a file or a folder."""
        files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in _scenes.TIFF)
        found: list[np.ndarray] = []
        names: list[str] = []
        notes: list[str] = []
        about = About()
        for file in files:
            blob = Blob(file.name, file)
            try:
                scene = _scenes.pixels(blob)
                if found and len(scene) != len(found[0]):
                    raise Unreadable(file.name, f"it has {len(scene)} bands, others have {len(found[0])}")
                about = about if found else _scenes.merged(_scenes.beside(file), _scenes.header(blob).about)
                found.append(scene)
                names.append(file.name)
            except Unreadable as error:
                notes.append(f"left out, not readable: {error.name} ({error.reason})")
        if notes and (options.strict or not found):
            raise DataError(f"{len(notes)} of {len(files)} scenes of {path.name} cannot be read: {notes[0]}; mend or "
                            "remove the files")
        return windows_of(found, names, about, options, path.name, notes)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        bad = {row: "the file is empty (0 bytes)" for row in range(len(blobs)) if blobs.nbytes(row) == 0}
        shapes: dict[int, tuple[int, ...]] = {}
        about = About()
        for row in range(len(blobs)):
            if row in bad:
                continue
            blob = blobs[row]
            try:
                if blob.ending in _scenes.TIFF:
                    head = _scenes.header(blob)
                    shapes[row], told = head.shape, head.about
                else:
                    shapes[row], told = _npy(blob).shape, About()
                if len(shapes) == 1:
                    about = _scenes.merged(_scenes.beside(blob.data) if isinstance(blob.data, Path) else About(), told)
            except Unreadable as error:
                bad[row] = error.reason
        if not shapes:
            row = min(bad)
            raise DataError(f"none of {len(blobs)} scenes can be read; first: {blobs[row].name} ({bad[row]}); save "
                            "them again, or give others")
        counts = [shape[0] for shape in shapes.values()]
        bands = max(set(counts), key=counts.count)
        bad |= {row: f"it has {s[0]} bands, most have {bands}" for row, s in shapes.items() if s[0] != bands}
        sizes = {shape for row, shape in shapes.items() if row not in bad}
        about = _checked(about, bands, None)
        shape = next(iter(sizes)) if len(sizes) == 1 else None
        return Settled(Decoder(bands=bands, about=about), shape, "float32", bad, [])

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        return None  # `open` takes arrays

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Any] | None:
        return None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        return SatelliteMeter(name, size, column)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        wrong = np.isinf(batch).any(tuple(range(1, batch.ndim)))
        if wrong.any():
            raise DataError(f"{names(int(np.argmax(wrong)))} holds an infinite value; mend or remove the file")

    def extent(self, value: Any) -> tuple[int, ...]:
        return value.shape[1:]

    def fit(self, value: Any, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        x = read(value, rng)
        if x.ndim != len(field.shape) or x.shape[:-2] != field.shape[:-2]:
            raise DataError(f"a scene of '{field.name}' is {x.shape[:-2]} bands (and dates), in training "
                            f"{field.shape[:-2]}")
        for axis, wanted in ((-2, field.shape[-2]), (-1, field.shape[-1])):
            room = x.shape[axis] - wanted
            if room > 0:
                start = room // 2 if rng is None else int(rng.integers(room + 1))
                x = np.take(x, range(start, start + wanted), axis)
            elif room < 0:
                pad = [(0, 0)] * x.ndim
                pad[axis] = (0, -room)
                x = np.pad(x, pad, constant_values=np.nan)
        return np.ascontiguousarray(x)

    def natural(self, value: Any, field: Field, limit: int) -> np.ndarray:
        x = read(value)
        return x[..., :limit, :limit]

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        return pad_grid(values, multiple)

    def align(self, column: Column, field: Field) -> Column:
        given = names_of(column, len(field.columns))
        return column if given == field.columns or isinstance(column, Named) else Named(column, given, field.columns)

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        if len(trained.shape) != len(given.shape) or trained.shape[1:-2] != given.shape[1:-2]:
            dates = [field.shape[1] if len(field.shape) == 4 else 1 for field in (trained, given)]
            raise SchemaError(f"scenes of {given_by} have {dates[1]} dates, those of {trained_on}, which the model was "
                              f"trained on, {dates[0]}; give as many")
        shared = [name for name in trained.columns if name in given.columns]
        if not shared:
            raise SchemaError(f"{given_by} has none of the bands that the model was trained on "
                              f"({', '.join(trained.columns)}); it has {', '.join(given.columns)}: name them in "
                              "metadata.json beside the files")
        notes = []
        lacks = [name for name in trained.columns if name not in given.columns]
        more = [name for name in given.columns if name not in trained.columns]
        if lacks:
            notes.append(f"{given_by} lacks the bands {', '.join(lacks)}, which count as missing")
        if more:
            notes.append(f"bands of {given_by} that the model was not trained with are not used: {', '.join(more)}")
        ours, theirs = ((field.high - field.low) for field in (trained, given))
        if not 1 / 100 < theirs / max(ours, 1e-12) < 100:
            raise SchemaError(f"values of {given_by} are {given.low:g} to {given.high:g}, those of {trained_on} "
                              f"{trained.low:g} to {trained.high:g}: bring them to one unit (reflectance x 10,000?)")
        return notes

    def describe(self, field: Field) -> list[tuple[str, str]]:
        sizes = [f"{size[0]} x {size[1]}" for size in field.sizes]
        seen = sizes[0] if len(set(sizes)) == 1 else f"{sizes[0]} to {sizes[2]}, median {sizes[1]}"
        about, dates = field.more, f", {field.shape[1]} dates" if len(field.shape) == 4 else ""
        metres = f", {about['resolution']:.3g} m a pixel" if about["resolution"] else ""
        rows = [(field.name, f"{field.shape[0]} bands{dates}, {field.low:.4g} to {field.high:.4g}"),
                (f"{field.name} sizes", f"{seen} pixels{metres}; trained at {field.shape[-2]} x {field.shape[-1]}")]
        if about["dates"]:
            rows.append((f"{field.name} dates", some(about["dates"], 6)))
        for group in about["groups"]:
            told = [f"{field.columns[n]} ({field.mean[n]:.4g}, {field.std[n]:.3g})" for n in group]
            rows.append(("  bands (mean, std)", ", ".join(told)))
        return rows

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        shift = torch.tensor(field.mean).view(1, -1, *[1] * (values.ndim - 2))
        x = (values - shift).nan_to_num()
        side = _side(field, limit)
        return torch.nn.functional.adaptive_avg_pool2d(x.flatten(1, -3), side).flatten(1)

    def flattened(self, field: Field, limit: int) -> str:
        return f"averaged to {_side(field, limit)} x {_side(field, limit)} pixels, what is missing at the mean"

    def example_field(self, name: str) -> Field:
        x = scenes(64, EXAMPLE, 0)
        meter = SatelliteMeter(name, None, None)
        for one in x:
            meter.add("", one)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return tensor(scenes(count, field.shape, seed))

    def resized(self, field: Field, size: Any) -> Field:
        return replace(field, shape=(*field.shape[:-2], *size))

    def patch(self, field: Field) -> tuple[int, ...]:
        side = min(field.shape[-2:])
        chosen = 2 if side < 16 else 4 if side <= 32 else 8 if side <= 128 else 16
        return (1,) * (len(field.shape) - 3) + (chosen, chosen)

    def groups(self, field: Field) -> list[list[int]]:
        return [list(group) for group in field.more["groups"]]

    def model_size(self, field: Field) -> str:
        return "nano"


def _checked(about: About, bands: int, dates: int | None) -> About:
    """What is told of the scenes, held against what they are. Raises DataError where that differs."""
    if about.bands and len(about.bands) != bands:
        raise DataError(f"{len(about.bands)} names of bands are given for {bands} bands; name each once")
    if about.dates and len(about.dates) != (dates or 1):
        raise DataError(f"{len(about.dates)} dates are given, and the scenes have {dates or 1}; give one for each")
    names = tuple(_scenes.canonical(band) for band in about.bands)
    if len(set(names)) < len(names):
        raise DataError(f"bands are named twice: {some(sorted({n for n in names if names.count(n) > 1}))}")
    return about._replace(bands=names, dates=about.dates if dates else ())


def windows_of(given: Sequence[np.ndarray], names: Sequence[str], about: About, options: Options, called: str,
               notes: Sequence[str] = ()) -> Source:  # fmt: skip
    """Windows of scenes (C, ..., H, W) of the same bands and dates."""
    kinds = {scene.shape[:-2] for scene in given}
    if len(kinds) > 1:
        raise DataError(f"the scenes of {called} differ in bands or dates: {some([str(k) for k in sorted(kinds)])}; "
                        "give scenes of the same, NaN for what is missing")
    if options.label is not None or options.group is not None:
        raise DataError(f"{called}: windows of scenes take no labels and groups; leave label= and group= out")
    for scene, name in zip(given, names):
        try:
            _scenes.sound(scene, name)
        except Unreadable as error:
            raise DataError(f"{name} of {called} cannot be used: {error.reason}; mend it") from error
    side = WINDOW if options.window is None else options.window
    side = min(side, *(min(scene.shape[-2:]) for scene in given))
    stride = max(1, side // 2) if options.stride is None else options.stride
    if side < SMALLEST or stride < 1:
        raise DataError(f"window={side} (--window) is the side of a window in pixels, from {SMALLEST} on, and "
                        f"stride={stride} (--stride) from one to the next, from 1 on")
    shape = given[0].shape
    about = _checked(about, shape[0], shape[1] if len(shape) == 4 else None)
    column = Windows(KIND, given, about, side, stride)
    ids = [f"{names[n]} at {y},{x}" for n, (y, x) in column.rows]
    groups = np.array([names[n] for n, _ in column.rows]) if len(given) > 1 else None
    return Source(name=called, columns={KIND.name: column}, ids=ids, groups=groups, strict=options.strict, notes=notes)


def _first(folder: Path) -> Path | None:
    """A TIFF among the first entries of a folder, or of the first folders in it."""
    try:
        for _ in range(4):
            with os.scandir(folder) as entries:
                found = sorted(islice((e for e in entries if not e.name.startswith(".")), 200), key=lambda e: e.name)
            files = [Path(e.path) for e in found if Path(e.name).suffix.lower() in _scenes.TIFF]
            below = [Path(e.path) for e in found if e.is_dir()]
            if files or not below:
                return files[0] if files else None
            folder = below[0]
    except PermissionError:  # the opener of folders says what mends it
        pass
    return None


def _side(field: Field, limit: int) -> int:
    channels = int(np.prod(field.shape[:-2]))
    return max(1, min(*field.shape[-2:], int(np.sqrt(min(RAW, limit / channels)))))


def scenes(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(count, C, ..., H, W): smooth land, the bands alike in two groups. Every second scene lacks its last band, and
    every fourth one's last rows."""
    flat = (shape[0], int(np.prod(shape[1:-1])), shape[-1])
    x = smooth(count, flat, seed).numpy().astype(np.float32).reshape(count, *shape)
    half = shape[0] // 2
    x[:, :half] = x[:, :1] * (1 + 0.1 * np.arange(half)).reshape(-1, *[1] * (len(shape) - 1)) + 0.2 * x[:, :half]
    x[1::2, -1] = np.nan
    x[2::4, ..., -(shape[-2] // 3) :, :] = np.nan
    return x


KIND = SatelliteKind()
