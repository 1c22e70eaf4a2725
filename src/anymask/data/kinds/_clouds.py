"""Point clouds and meshes in files, as (n, C) float32: x, y, z and further channels."""

from __future__ import annotations

import io
import itertools
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, Unreadable
from ..kind import Blob

MESHES = frozenset({".ply", ".off", ".obj", ".stl"})
TEXT = frozenset({".xyz", ".pts", ".txt", ".csv"})
SAMPLED = 4096  # points drawn on the surface of a mesh
XYZ = ("x", "y", "z")
# Further properties of a .ply vertex, as they are commonly called; only whole groups are taken.
_GROUPS = (("nx", "ny", "nz"), ("red", "green", "blue"), ("intensity",), ("reflectance",))


class Cloud(NamedTuple):
    """`points` (n, C) float32 and the names of the channels (C,)."""

    points: np.ndarray
    channels: tuple[str, ...]


def named(count: int) -> tuple[str, ...]:
    """Names of channels of which only the number is known."""
    return XYZ + tuple(f"channel {n}" for n in range(3, count))


def read(blob: Blob) -> Cloud:
    """A file as a cloud: the vertices of a cloud, or `SAMPLED` points drawn evenly, always the same, on a mesh.

    Raises:
        Unreadable: it is empty, damaged, or holds no points. DataError: a library is missing.
    """
    data = blob.read()
    if not data:
        raise Unreadable(blob.name, "the file is empty")
    if blob.ending in MESHES:
        cloud = _mesh(data, blob.ending[1:], blob.name)
    else:
        array = _npy(data, blob.name) if blob.ending == ".npy" else _text(data, blob.name)
        cloud = Cloud(array.astype(np.float32), named(array.shape[1]))
    if not len(cloud.points):
        raise Unreadable(blob.name, "it holds no points")
    if not np.isfinite(cloud.points).all():
        row = int(np.argwhere(~np.isfinite(cloud.points))[0][0])
        raise Unreadable(blob.name, f"point {row} holds a number that is not finite")
    return cloud


def _npy(data: bytes, name: str) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Unreadable(name, f"it cannot be read as .npy ({error})") from error
    if array.ndim != 2 or array.shape[1] < 3 or array.dtype.kind not in "iuf":
        raise Unreadable(name, f"a cloud is an array (P, 3 or more) of numbers, not {array.shape} of {array.dtype}")
    return array


def _text(data: bytes, name: str) -> np.ndarray:
    """Lines of numbers apart by blanks or commas; a first line that is a heading or a count is left out."""
    try:
        lines = data.decode("utf-8-sig").replace(",", " ").replace(";", " ").splitlines()
    except UnicodeDecodeError as error:
        raise Unreadable(name, f"it is not text ({error})") from error
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith(("#", "//"))]
    if lines and (len(lines[0].split()) == 1 or not _numbers(lines[0])):
        lines = lines[1:]
    if not lines:
        return np.zeros((0, 3))
    try:
        array = np.loadtxt(lines, ndmin=2)
    except ValueError as error:
        raise Unreadable(name, f"its lines are not rows of as many numbers each ({error})") from error
    if array.shape[1] < 3:
        raise Unreadable(name, f"its lines have {array.shape[1]} numbers; a point needs x, y and z")
    return array


def _numbers(line: str) -> bool:
    try:
        [float(word) for word in line.split()]
    except ValueError:
        return False
    return True


def _mesh(data: bytes, ending: str, name: str) -> Cloud:
    try:
        import trimesh
    except ImportError as error:
        raise DataError(f"{name}: reading .{ending} needs trimesh: pip install 'anymask[points]'") from error
    try:
        made: Any = trimesh.load(io.BytesIO(data), file_type=ending, process=False)
        if isinstance(made, trimesh.Scene):
            made = made.to_geometry()
        faces = getattr(made, "faces", None)
        if faces is not None and len(faces):
            if made.area <= 0 or not np.isfinite(made.vertices).all():
                raise Unreadable(name, "its faces have no area")
            points = trimesh.sample.sample_surface(made, SAMPLED, seed=0)[0]
            return Cloud(np.asarray(points, dtype=np.float32), XYZ)
        points = np.asarray(made.vertices, dtype=np.float32)
    except Unreadable:
        raise
    # A damaged file shows itself in trimesh by whatever breaks first on the way.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OverflowError, MemoryError) as error:
        raise Unreadable(name, f"it cannot be read as .{ending} ({type(error).__name__}: {error})") from error
    if points.ndim != 2:
        raise Unreadable(name, "it holds no points")
    raw = made.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    return Cloud(*_with_properties(points, raw))


def _with_properties(points: np.ndarray, raw: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """A .ply file's further properties of each vertex beside its coordinates."""
    names = set(raw.dtype.names or ()) if isinstance(raw, np.ndarray) else set(raw or ())
    more = list(itertools.chain.from_iterable(group for group in _GROUPS if set(group) <= names))
    columns = [np.asarray(raw[name], dtype=np.float32).reshape(-1, 1) for name in more]
    if any(len(column) != len(points) for column in columns):
        more, columns = [], []
    return np.concatenate([points, *columns], 1), (*XYZ, *more)
