"""Volumes (MRI, CT): crops of them, (M, X, Y, Z) float32, one channel a modality, NaN where there is no scan.

A sample is a cubic crop at a common spacing: in training it is moved at random by up to half the distance from one crop
to the next, so that a volume gives any number of crops; otherwise it is one of a fixed grid over the volume. Crops of
the grid with hardly any foreground are left out. The group of a sample is its volume or case, so that no split cuts one
in two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..collate import tensor
from ..columns import Blobs, Column
from ..errors import DataError, SchemaError
from ..kind import Kind, Meter, Settled
from ..options import Options
from ..schema import Field, Schema
from ..source import Source
from . import _volumes
from ._volumes import Case, Held, Scan

CROP = 48  # voxels a side of a sample, unless asked for (--window)
SMALLEST = 16
PLAIN = "volume"  # what the only modality of volumes without names is called
EXAMPLE = (2, 12, 8, 8)  # made-up crops are no cubes, so that axes cannot be confused
RAW = 12  # values a side of raw input


class Crop(NamedTuple):
    """A place in a case, read by `read`."""

    column: Volumes
    case: int
    start: tuple[int, int, int]  # voxel of the case's frame

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.column.modalities), *self.column.crop)

    def tobytes(self) -> bytes:
        return self.read().tobytes()

    def read(self, rng: np.random.Generator | None = None) -> np.ndarray:
        """(M, X, Y, Z) float32 of the grid's crop; with `rng` moved at random."""
        column, start = self.column, np.array(self.start)
        room = np.maximum(np.array(column.frames[self.case].size) - column.crop, 0)
        if rng is not None:
            start = start + rng.integers(-(column.stride // 2), column.stride // 2 + 1, 3)
        return column.cut(self.case, np.clip(start, 0, room))


class Volumes(Column):
    """Crops of cases, one after another. `starts` are those of each case's fixed grid, at its own frame."""

    shape, dtype = None, None

    def __init__(self, cases: Sequence[Case], modalities: tuple[str, ...], *, spacing: tuple[float, ...], crop: int,
                 stride: int, scaling: tuple[str, ...], held: Held | None = None) -> None:
        self.kind, self.cases, self.modalities = KIND, list(cases), modalities
        self.spacing, self.scaling, self.stride = spacing, scaling, stride
        self.crop: tuple[int, ...] = (crop,) * 3
        self.held = held or Held()
        self.frames = [_volumes.frame(case, spacing) for case in self.cases]
        found = [self._grid(n) for n in range(len(self.cases))]
        self.rows = [(n, start) for n, starts in enumerate(found) for start in starts]

    def _grid(self, number: int) -> list[tuple[int, int, int]]:
        """Starts of the crops of a case that hold foreground; the fullest one where none holds enough."""
        at, scan = self.frames[number], self.cases[number].reference
        there = _volumes.foreground(scan, self.held, at, self.spacing)
        axes = [_starts(n, crop, self.stride) for n, crop in zip(at.size, self.crop)]
        starts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        coarse = _volumes.COARSE
        share = [there[tuple(slice(a // coarse, -(-(a + c) // coarse)) for a, c in zip(start, self.crop))].mean()
                 for start in starts]  # fmt: skip
        full = np.flatnonzero(np.array(share) >= _volumes.FULL)
        chosen = full if len(full) else [int(np.argmax(share))]
        return [tuple(starts[n].tolist()) for n in chosen]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> Crop:
        number, start = self.rows[row]
        for scan in self.cases[number].scans:
            if scan is not None:
                self.held.get(scan, self.spacing)  # raises Unreadable here, not where the crop is cut
        return Crop(self, number, start)

    def cut(self, number: int, start: np.ndarray) -> np.ndarray:
        """(M, X, Y, Z) of a case from a voxel of its frame on. What lies beside a scan is NaN, and background where a
        cube of the default patch holds something of the scan."""
        out = np.full((len(self.modalities), *self.crop), np.nan, dtype=np.float32)
        move = np.eye(4)
        move[:3, 3] = start
        place = self.frames[number].affine @ move
        for channel, (scan, scaling) in enumerate(zip(self.cases[number].scans, self.scaling)):
            if scan is not None:
                values, affine = self.held.get(scan, self.spacing)
                out[channel] = _volumes.scaled(_volumes.sampled(values, affine, place, self.crop), scan, scaling)
                _fill_edges(out[channel], _darkest(scaling))
        return out

    def raw(self, row: int) -> bytes:
        """Of a case's first crop its scans as stored, so that a fingerprint reads each once."""
        number, _ = self.rows[row]
        if row and self.rows[row - 1][0] == number:
            return b""
        found = (scan.data for scan in self.cases[number].scans if scan is not None)
        return b"".join(d.read_bytes() if isinstance(d, Path) else np.asanyarray(_array(d)).tobytes() for d in found)

    def nbytes(self, row: int) -> int:
        number, _ = self.rows[row]
        if row and self.rows[row - 1][0] == number:
            return 0
        found = (scan.data for scan in self.cases[number].scans if scan is not None)
        return sum(d.stat().st_size if isinstance(d, Path) else np.asanyarray(_array(d)).nbytes for d in found)

    def laid_out(self, field: Field) -> Volumes:
        """The same crops, about the same places, at the spacing, size, modalities and scale of a field."""
        other = object.__new__(Volumes)
        other.__dict__ = dict(self.__dict__)
        other.modalities, other.scaling = field.columns, tuple(field.more["scaling"])
        other.spacing, other.crop = tuple(field.more["spacing"]), field.shape[1:]
        place = {name: n for n, name in enumerate(self.modalities)}
        pick = [place.get(name) for name in field.columns]
        other.cases = [Case(c.name, tuple(None if n is None else c.scans[n] for n in pick)) for c in self.cases]
        lacks = next((c.name for c in other.cases if not any(c.scans)), None)
        if lacks is not None:
            told = ", ".join(field.columns)
            raise SchemaError(f"{lacks} has none of the scans that the model was trained on ({told}); leave it out")
        other.held = Held() if other.spacing != self.spacing else self.held
        other.frames = [_volumes.frame(case, other.spacing) for case in other.cases]
        other.rows = []
        for number, start in self.rows:
            middle = np.append(np.array(start) + (np.array(self.crop) - 1) / 2, 1.0)
            to = np.linalg.inv(other.frames[number].affine) @ self.frames[number].affine @ middle
            low = np.round(to[:3] - (np.array(other.crop) - 1) / 2).astype(int)
            other.rows.append((number, tuple(low.tolist())))  # type: ignore[arg-type]
        return other


def _starts(length: int, crop: int, stride: int) -> np.ndarray:
    """Where crops of a grid start along an axis: evenly, about `stride` apart, the last one at the end."""
    room = max(0, length - crop)
    return np.round(np.linspace(0, room, -(-room // stride) + 1)).astype(int)


def _darkest(scaling: str) -> float:
    return _volumes.HOUNSFIELD[0] if scaling == "hounsfield" else 0.0


def _fill_edges(volume: np.ndarray, dark: float) -> None:
    """Background for NaN in cubes of the default patch that hold something, in place."""
    missing = np.isnan(volume)
    if not missing.any() or missing.all():
        return
    side = _patch(volume.shape)
    there = ~missing
    for axis in range(3):
        ends = np.arange(0, volume.shape[axis], side)
        there = np.repeat(np.logical_or.reduceat(there, ends, axis), side, axis).take(range(volume.shape[axis]), axis)
    volume[missing & there] = dark


def _patch(space: Sequence[int]) -> int:
    """8 voxels, in crops from 96 on 16 (BM-MAE, arXiv:2505.00568), below 32 4; and less where these do not fit."""
    side = 16 if min(space) >= 96 else 8 if min(space) >= 32 else 4
    return next((p for p in (side, 8, 6, 5, 4) if p <= side and not any(n % p for n in space)), side)


def _array(data: Any) -> Any:
    return data if isinstance(data, np.ndarray) else data.dataobj


class VolumeKind(Kind):
    name = "volume"
    endings = frozenset(_volumes.NIFTI)
    asked_endings = frozenset({".npy"})
    recipe = "mae"
    samples_seen, most_epochs = 12_000, 200
    on_grid = gaps = True
    renderer = "anymask.reports.volumes:Slices"

    def open(self, spec: Any, options: Options) -> Source | None:
        from ._volume_sources import open_path, source_of

        if isinstance(spec, (str, os.PathLike)):
            return open_path(Path(spec).expanduser(), options)
        given = spec if isinstance(spec, list) else [spec]
        if not given:
            return None
        if all(_is_image(item) for item in given):
            return source_of([(f"volume {n}", [(f"volume {n}", item)]) for n, item in enumerate(given)], options)
        if options.kind == self.name and all(isinstance(item, (np.ndarray, torch.Tensor)) for item in given):
            arrays = [_plain(item) for item in given]
            if len(arrays) == 1 and arrays[0].ndim > 3:
                arrays = list(arrays[0])
            return source_of([(f"volume {n}", [(f"volume {n}", a)]) for n, a in enumerate(arrays)], options)
        return None

    def recipe_for(self, schema: Schema) -> str:
        return "bm-mae" if any(f.kind == self.name and f.shape[0] > 1 for f in schema.fields.values()) else self.recipe

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError("volumes are NIfTI files, or arrays with kind='volume'")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        return None  # `open` takes arrays

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Any] | None:
        return None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None:
            raise DataError(f"'{name}' are crops; give their side in voxels as window= (--window), not as size= "
                            "(--image-size)")
        assert isinstance(column, Volumes)
        return VolumeMeter(name, column)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        wrong = np.isinf(batch).any(tuple(range(1, batch.ndim)))
        if wrong.any():
            raise DataError(f"{names(int(np.argmax(wrong)))} holds an infinite value; mend or remove the file")

    def extent(self, value: Any) -> tuple[int, ...]:
        return value.shape[1:]

    def fit(self, value: Any, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        out = value.read(rng) if isinstance(value, Crop) else value
        if len(out) != field.shape[0]:
            raise DataError(f"a crop of '{field.name}' has {len(out)} modalities, in training {field.shape[0]}")
        return out[tuple(slice(n) for n in field.shape)]

    def natural(self, value: Any, field: Field, limit: int) -> np.ndarray:
        return self.fit(value, field, None, None)

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        each = (multiple,) * 3 if isinstance(multiple, int) else tuple(multiple)
        out = np.stack(values)
        short = [(0, -n % m) for n, m in zip(out.shape[2:], each)]
        return tensor(np.pad(out, [(0, 0), (0, 0), *short], constant_values=np.nan)), None

    def align(self, column: Column, field: Field) -> Column:
        if not isinstance(column, Volumes):
            return column
        now = (column.modalities, tuple(column.spacing), tuple(column.scaling), tuple(column.crop))
        same = now == (field.columns, tuple(field.more["spacing"]), tuple(field.more["scaling"]), field.shape[1:])
        return column if same else column.laid_out(field)

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        shared = [name for name in trained.columns if name in given.columns]
        if not shared:
            raise SchemaError(f"the scans of {given_by} are {', '.join(given.columns)}, those of {trained_on}, which "
                              f"the model was trained on, {', '.join(trained.columns)}: give folders of cases whose "
                              f"files are named so (CASE/{trained.columns[0]}.nii.gz)")
        ours = dict(zip(trained.columns, trained.more["scaling"]))
        theirs = dict(zip(given.columns, given.more["scaling"]))
        wrong = next((n for n in shared if ours[n] == "hounsfield" != theirs[n]), None)
        if wrong is not None:
            raise SchemaError(f"'{wrong}' of {given_by} is not in Hounsfield units, as it is in {trained_on}, which "
                              "the model was trained on; give CT with its rescale slope and intercept applied")
        more = [name for name in given.columns if name not in trained.columns]
        notes = [f"{', '.join(more)} of {given_by} are not used: the model was not trained with them"] if more else []
        if list(trained.more["spacing"]) != list(given.more["spacing"]):
            notes.append(f"crops of {given_by} are read at the spacing of training, {_mm(trained)}")
        return notes

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, middle, high = (" x ".join(map(str, size)) for size in field.sizes)
        about = field.more
        kept = {"percentiles": "0 to 1 between percentiles of each volume", "hounsfield": "kept, in Hounsfield units"}
        rows = [(field.name, f"{about['cases']:,} volumes of {low} to {high} voxels, median {middle}, at {_mm(field)}"),
                (f"{field.name} crops", f"{' x '.join(map(str, field.shape[1:]))} voxels, moved at random in training"),
                (f"{field.name} stored at", f"{about['finest']:.3g} to {about['coarsest']:.3g} mm")]
        for name, scaling, mean, std, gap in zip(field.columns, about["scaling"], field.mean, field.std, field.gaps):
            lacks = f", missing in {gap:.0%} of the cases" if gap else ""
            rows.append((f"  {name}", f"{kept[scaling]}; mean {mean:.4g}, std {std:.4g}{lacks}"))
        return rows

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        shift = torch.tensor(field.mean).view(-1, 1, 1, 1)
        return torch.nn.functional.adaptive_avg_pool3d((values - shift).nan_to_num(), _side(field, limit)).flatten(1)

    def flattened(self, field: Field, limit: int) -> str:
        return f"averaged to {_side(field, limit)} values along each axis of a scan, what is missing at the mean"

    def example_field(self, name: str) -> Field:
        x = blobs(64, EXAMPLE, 0)
        spread = lambda f: tuple(float(v) for v in f(x, axis=(0, 2, 3, 4)))
        return Field(name=name, kind=self.name, dtype="float32", shape=EXAMPLE, sizes=(EXAMPLE[1:],) * 3, low=0.0,
                     high=1.0, mean=spread(np.nanmean), std=spread(np.nanstd), columns=("t1", "t2"), gaps=(0.0, 0.5),
                     more={"spacing": [1.0, 1.0, 1.0], "scaling": ["percentiles"] * 2, "cases": 8, "finest": 1.0,
                           "coarsest": 1.0})  # fmt: skip

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return tensor(blobs(count, field.shape, seed))

    def patch(self, field: Field) -> tuple[int, ...]:
        return (_patch(field.shape[1:]),) * 3

    def blank(self, field: Field) -> tuple[float, ...]:
        return tuple(_darkest(scaling) for scaling in field.more["scaling"])

    def model_size(self, field: Field) -> str:
        return "nano"


def _mm(field: Field) -> str:
    return " x ".join(f"{v:.3g}" for v in field.more["spacing"]) + " mm"


def _side(field: Field, limit: int) -> int:
    return max(2, min(RAW, int((limit / field.shape[0]) ** (1 / 3))))


def _is_image(item: Any) -> bool:
    """Whether it is a nibabel image; imports nothing, as an object's library is loaded already."""
    module = sys.modules.get("nibabel")
    return module is not None and isinstance(item, module.spatialimages.SpatialImage)


def _plain(item: Any) -> np.ndarray:
    return item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else item


def blobs(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """(count, M, X, Y, Z) in 0..1: smooth tissue, the same in all modalities but for its brightness. Every second case
    lacks its last scan, and every fourth one's scans end early."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 4, 5, 3, generator=generator)
    tissue = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="trilinear", align_corners=True)
    tone = torch.linspace(1.0, -0.8, shape[0]).view(1, -1, 1, 1, 1)
    x = 0.5 + 0.2 * tissue * tone + 0.02 * torch.randn(count, *shape, generator=generator)
    x = x.clamp(0, 1)
    x[2::4, :, -(shape[1] // 3) :] = torch.nan
    if shape[0] > 1:
        x[1::2, -1] = torch.nan
    return x.numpy()


class VolumeMeter(Meter):
    """Mean and deviation by modality."""

    most = 200  # crops

    def __init__(self, name: str, column: Volumes) -> None:
        self.name, self.column, count = name, column, len(column.modalities)
        self.voxels, self.total, self.square = np.zeros(count), np.zeros(count), np.zeros(count)
        self.low, self.high = np.inf, -np.inf

    def add(self, name: str, value: Any) -> None:
        x = value.read() if isinstance(value, Crop) else value
        KIND.check(x[None], lambda _: name)
        x = x.reshape(len(x), -1).astype(np.float64)
        self.voxels += (~np.isnan(x)).sum(1)
        self.total += np.nansum(x, 1)
        self.square += np.nansum(x**2, 1)
        self.low, self.high = min(self.low, float(np.nanmin(x))), max(self.high, float(np.nanmax(x)))

    def field(self) -> Field:
        if not self.voxels.any():
            raise DataError(f"no crop of '{self.name}' that was looked at could be read")
        column, count = self.column, np.maximum(self.voxels, 1)
        mean = self.total / count
        std = np.sqrt(np.maximum(self.square / count - mean**2, 0))
        std = np.where(std > 1e-6, std, 1.0)
        plain = lambda values: tuple(float(v) for v in values)
        sizes = sorted((at.size for at in column.frames), key=lambda size: float(np.prod(size)))
        median = tuple(int(np.median([size[axis] for size in sizes])) for axis in range(3))
        scans: list[Scan] = [scan for case in column.cases for scan in case.scans if scan is not None]
        gaps = [np.mean([case.scans[n] is None for case in column.cases]) for n in range(len(column.modalities))]
        low, high = (0.0, 1.0) if "hounsfield" not in column.scaling else (self.low, self.high)
        more = {"spacing": list(column.spacing), "scaling": list(column.scaling), "cases": len(column.cases),
                "finest": float(min(s.spacing.min() for s in scans)),
                "coarsest": float(max(s.spacing.max() for s in scans))}  # fmt: skip
        return Field(name=self.name, kind="volume", dtype="float32", shape=(len(mean), *column.crop),
                     sizes=(sizes[0], median, sizes[-1]), low=low, high=high, mean=plain(mean), std=plain(std),
                     columns=column.modalities, gaps=plain(gaps), more=more)


KIND = VolumeKind()
