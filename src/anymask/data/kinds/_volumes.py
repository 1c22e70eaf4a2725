"""Scans (MRI, CT) from NIfTI files and arrays: headers, what their values are, and crops of them in a common frame.

Rules. Crops are read in the frame of a case's largest scan, its axes turned to the nearest of right, anterior and
superior, at a common spacing, by trilinear interpolation at world coordinates: so scans of a case that differ in
spacing, place or angle show the same tissue in the same place. Where a scan is at least 1.5 times finer, whole blocks
of its voxels are averaged first. NaN in a file is background. What lies outside a scan is NaN.
"""

from __future__ import annotations

import warnings
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, Unreadable

NIFTI = (".nii", ".nii.gz")
HOUNSFIELD = (-1024.0, 3071.0)  # of 12 bits: values of CT are clipped to it
AIR = -500.0  # a scan with lower values is CT in Hounsfield units; and less than this is air in it
PERCENTILES = (0.5, 99.5)
LOOKED = 2**18  # voxels of a scan that its percentiles are taken of, about
FAINT = 0.1  # of the way from the darkest to the brightest values: what is below counts as background
COARSE = 4  # voxels from one that is looked at for foreground to the next, along each axis
FULL = 0.1  # share of foreground that a crop of the fixed grid has at least
EDGE = 0.01  # voxels beyond a scan that still count as in it, as affines are rounded
FEWEST = 2  # voxels along an axis
MILLIMETRES = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
HELD = 2**30  # bytes of scans kept in memory while crops are read


class Scan(NamedTuple):
    """One scan: where it is, its geometry, and what its values are."""

    name: str
    data: Any  # Path, array (X, Y, Z), or nibabel image
    shape: tuple[int, int, int]
    affine: np.ndarray  # (4, 4) voxel -> world in mm
    low: float  # values at the ends of the scale
    high: float
    background: float  # values above it are foreground
    hounsfield: bool

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm along each of the scan's own axes."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def is_nifti(name: str) -> bool:
    return name.lower().endswith(NIFTI)


def stem(name: str) -> str:
    """The name of a file without its folder and .nii, .nii.gz or .npy."""
    base = Path(name).name
    return base[: -len(".nii.gz")] if base.lower().endswith(".nii.gz") else Path(base).stem


def nibabel(name: str) -> Any:
    """The library. Raises DataError where it is not installed."""
    try:
        import nibabel as library
    except (ImportError, RuntimeError, OSError) as error:
        raise DataError(f"{name} is read by nibabel: pip install 'anymask[volumes]' ({error})") from error
    return library


def survey(name: str, data: Any, spacing: Sequence[float] | None = None) -> Scan:
    """A scan's header and what its values are: reads it once. `spacing` is that of arrays; None = 1 mm.

    Raises:
        Unreadable: what is no scan, naming why.
    """
    values, affine = opened(name, data, spacing)
    some = values[tuple(slice(None, None, max(1, round((values.size / LOOKED) ** (1 / 3)))) for _ in range(3))]
    some = np.asarray(some, dtype=np.float64)
    if np.isinf(some).any():
        raise Unreadable(name, "it holds an infinite value")
    some = some[~np.isnan(some)]
    if not some.size or some.min() == some.max():
        raise Unreadable(name, "all of its voxels have one value")
    hounsfield = bool(np.quantile(some, 0.01) < AIR)
    low, high = np.percentile(some, PERCENTILES)
    high = high if high > low else some.max()
    background = AIR if hounsfield else low + FAINT * (high - low)
    high = np.percentile(some[some > background], PERCENTILES[1]) if (some > background).any() else high
    return Scan(name, data, values.shape, affine, float(low), float(high), float(background), hounsfield)


def opened(name: str, data: Any, spacing: Sequence[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) in their units, memory-mapped where the file is not compressed, and the affine (4, 4) in mm.

    Raises:
        Unreadable: a broken file, or other axes than a scan has.
    """
    if isinstance(data, np.ndarray):
        return _solid(data, name), np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0])
    if isinstance(data, Path) and data.suffix.lower() == ".npy":
        try:
            array = np.load(data, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise Unreadable(name, str(error)) from error
        return _solid(array, name), np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0])
    library = nibabel(name)
    broken = (OSError, ValueError, EOFError, TypeError, OverflowError, zlib.error,
              library.spatialimages.HeaderDataError, library.filebasedimages.ImageFileError,
              library.wrapstruct.WrapStructError)  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = library.load(data) if isinstance(data, Path) else data
            array = _stored(image.dataobj)
            affine = np.array(image.affine, dtype=np.float64)
            unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    except broken as error:
        raise Unreadable(name, f"{error}" or type(error).__name__) from error
    affine[:3] *= MILLIMETRES[unit]
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (sides <= 0).any() or abs(np.linalg.det(affine[:3, :3] / sides)) < 0.1:
        raise Unreadable(name, f"its header gives voxels of {_by(sides)} mm; mend its affine (sform or qform)")
    return _solid(array, name), affine


def _stored(proxy: Any) -> np.ndarray:
    """As in the file where it has no slope and intercept, which is memory-mapped; else in real units, as float32."""
    plain = getattr(proxy, "slope", 1) == 1 and getattr(proxy, "inter", 0) == 0
    return np.asanyarray(proxy) if plain else np.asarray(proxy, dtype=np.float32)


def _solid(array: np.ndarray, name: str) -> np.ndarray:
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.kind not in "biuf":
        raise Unreadable(name, f"its voxels are of type {array.dtype}, not single numbers")
    if array.ndim != 3:
        raise Unreadable(name, f"it has the axes {_by(array.shape)}; a volume has three: take a series apart first, as "
                               "by nibabel.four_to_three")
    if min(array.shape) < FEWEST:
        raise Unreadable(name, f"it has {_by(array.shape)} voxels; a volume has at least {FEWEST} along each axis")
    return array


def _by(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


# A case: scans of one patient.


class Frame(NamedTuple):
    """Where the voxels of a case lie at a common spacing: size, and voxel -> world."""

    size: tuple[int, int, int]
    affine: np.ndarray


class Case(NamedTuple):
    """Scans of one patient, one of each modality, None = there is none."""

    name: str
    scans: tuple[Scan | None, ...]

    @property
    def reference(self) -> Scan:
        """The scan that covers the most."""
        return max((s for s in self.scans if s), key=lambda s: float(np.prod(np.multiply(s.shape, s.spacing))))


def turned(scan: Scan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A scan's geometry with its axes in the order right, anterior, superior, as near as they are: shape (3,), spacing
    (3,), and affine (4, 4)."""
    sides = scan.spacing
    cosines = scan.affine[:3, :3] / sides
    order, left = np.zeros(3, dtype=int), [0, 1, 2]
    for axis in np.argsort(-np.abs(cosines).max(0), kind="stable"):  # the clearest axes choose first
        world = max(left, key=lambda w: abs(cosines[w, axis]))
        order[world] = axis
        left.remove(world)
    affine, origin = scan.affine[:, order].copy(), scan.affine[:, 3].copy()
    for world, axis in enumerate(order):
        if cosines[world, axis] < 0:
            origin += affine[:, world] * (scan.shape[axis] - 1)
            affine[:, world] *= -1
    return np.array(scan.shape)[order], sides[order], np.column_stack([affine[:, :3], origin])


def frame(case: Case, spacing: Sequence[float]) -> Frame:
    """The case's frame at a spacing (3,), in mm."""
    shape, sides, affine = turned(case.reference)
    scale = np.asarray(spacing, dtype=np.float64) / sides
    size = np.maximum(1, np.floor((shape - 1) / scale + 1e-6).astype(int) + 1)
    return Frame(tuple(size.tolist()), affine @ np.diag([*scale, 1.0]))  # type: ignore[arg-type]


class Held:
    """Voxels of scans, kept in memory while they are used: `HELD` bytes at most, the last used ones."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[Scan, np.ndarray, np.ndarray]] = OrderedDict()

    def __reduce__(self) -> Any:
        return Held, ()  # a worker reads its own

    def get(self, scan: Scan, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Voxels and affine, averaged over blocks where the scan is much finer than `spacing`. Raises Unreadable."""
        if id(scan) in self._kept:
            self._kept.move_to_end(id(scan))
            return self._kept[id(scan)][1:]
        values, _ = opened(scan.name, scan.data)
        if values.dtype.kind == "f" and np.isnan(values).any():
            values = np.nan_to_num(values, nan=scan.low)
        found = _coarser(values, scan.affine, spacing)
        total = sum(v.nbytes for _, v, _ in self._kept.values())
        while self._kept and total + found[0].nbytes > HELD:
            total -= self._kept.popitem(last=False)[1][1].nbytes
        self._kept[id(scan)] = (scan, *found)
        return found


def _coarser(values: np.ndarray, affine: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of blocks of as many voxels as fit into the spacing, rounded, along each axis."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    wanted = np.abs(affine[:3, :3] / sides).T @ np.asarray(spacing)  # along the scan's own axes
    blocks = np.maximum(1, np.minimum(np.round(wanted / sides).astype(int), np.array(values.shape) // FEWEST))
    if (blocks == 1).all():
        return values, affine
    whole = tuple(slice(0, n // b * b) for n, b in zip(values.shape, blocks))
    cut = np.asarray(values[whole], dtype=np.float32)
    for axis, block in enumerate(blocks):
        shape = (*cut.shape[:axis], cut.shape[axis] // block, block, *cut.shape[axis + 1 :])
        cut = cut.reshape(shape).mean(axis + 1)
    middle = np.eye(4)
    middle[:3, :3] = np.diag(blocks)
    middle[:3, 3] = (blocks - 1) / 2
    return cut, affine @ middle


def sampled(values: np.ndarray, affine: np.ndarray, place: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(size) float32 by trilinear interpolation at the voxels of a grid with the affine `place`; NaN outside."""
    from scipy.ndimage import affine_transform

    to = np.linalg.inv(affine) @ place
    out = affine_transform(values, to[:3, :3], to[:3, 3], tuple(size), np.float32, order=1, mode="nearest")
    grid = np.ix_(*(np.arange(n) for n in size))
    for axis, length in enumerate(values.shape):
        at = to[axis, 3] + sum(to[axis, n] * grid[n] for n in range(3))
        if at.min() < -EDGE or at.max() > length - 1 + EDGE:
            out[(at < -EDGE) | (at > length - 1 + EDGE)] = np.nan
    return out


def scaled(values: np.ndarray, scan: Scan, scaling: str) -> np.ndarray:
    """Values of a scan as a model gets them: 0 to 1 between its percentiles, or in Hounsfield units."""
    if scaling == "hounsfield":
        return np.clip(values, *HOUNSFIELD)
    return np.clip((values - scan.low) / (scan.high - scan.low), 0.0, 1.0)


def foreground(scan: Scan, held: Held, at: Frame, spacing: Sequence[float]) -> np.ndarray:
    """Bool, every `COARSE`-th voxel of a case's frame: foreground of its reference scan."""
    values, affine = held.get(scan, spacing)
    size = [-(-n // COARSE) for n in at.size]
    return sampled(values, affine, at.affine @ np.diag([COARSE] * 3 + [1.0]), size) > scan.background
