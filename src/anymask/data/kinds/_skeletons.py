"""Skeleton sequences: read from files, brought to a length, centred and scaled; which joints hang together.

A sequence is (C, J, T) float32: x, y, (z,) and where there is one the confidence of each joint in each frame, NaN where
a joint is missing.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, Unreadable
from ..kind import Blob

CHANNELS = {2: ("x", "y"), 3: ("x", "y", "z"), 4: ("x", "y", "z", "confidence")}
FEWEST, MOST = 3, 400  # joints of a body
SHORTEST = 2  # frames
_CONFIDENCE = ("confidence", "conf", "score", "c")


class Sequence(NamedTuple):
    """`values` (C, J, T), the names of its channels and, where the file tells them, of its joints."""

    values: np.ndarray
    channels: tuple[str, ...]
    joints: tuple[str, ...] | None = None


def read(blob: Blob) -> Sequence:
    """A .npy file (T, J, C), or a .csv file with the columns frame, joint, x, y and z and confidence where there are.

    Raises:
        Unreadable: it is empty, damaged, or no sequence.
    """
    data = blob.read()
    if not data:
        raise Unreadable(blob.name, "the file is empty")
    if blob.ending == ".csv":
        return _csv(data, blob.name)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise Unreadable(blob.name, f"it cannot be read as .npy ({error})") from error
    return of_array(array, blob.name)


def of_array(array: np.ndarray, name: str) -> Sequence:
    """A sequence from an array (T, J, C). Raises Unreadable."""
    if array.ndim != 3 or array.shape[2] not in CHANNELS or array.dtype.kind not in "iuf":
        raise Unreadable(name, f"a sequence is an array (frames, joints, 2 to 4) of numbers, not {array.shape} of "
                               f"{array.dtype}")
    return Sequence(checked(array.astype(np.float32).transpose(2, 1, 0), name), CHANNELS[array.shape[2]])


def checked(values: np.ndarray, name: str) -> np.ndarray:
    """(C, J, T) with frames in which all coordinates are 0, which is how trackers write that they see nobody, as
    missing. Raises Unreadable where nothing is left, or a number is infinite."""
    if np.isinf(values).any():
        raise Unreadable(name, "it holds an infinite number; a missing joint is NaN")
    _, joints, frames = values.shape
    if not FEWEST <= joints <= MOST:
        raise Unreadable(name, f"it has {joints} joints; a body has {FEWEST} to {MOST} (arrays are frames, joints, "
                               "coordinates)")
    if frames < SHORTEST:
        raise Unreadable(name, f"it has {frames} frame(s); a sequence has at least {SHORTEST}")
    values = np.array(values, dtype=np.float32, order="C")
    space = dimensions(len(values))
    values[:, :, (values[:space] == 0).all((0, 1))] = np.nan
    gone = np.isnan(values[:space]).any(0)
    if gone.all():
        raise Unreadable(name, "it shows no joint in any frame")
    values[:, gone] = np.nan
    return values


def dimensions(channels: int) -> int:
    """How many of the channels are coordinates."""
    return min(channels, 3)


def _csv(data: bytes, name: str) -> Sequence:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Unreadable(name, f"it is not text with commas ({error})") from error
    head = [cell.strip().lower() for cell in rows[0]]
    place = {column: head.index(column) for column in ("frame", "joint", "x", "y", "z") if column in head}
    missing = [column for column in ("frame", "joint", "x", "y") if column not in place]
    if missing:
        raise Unreadable(name, f"it has no column {missing[0]!r}; a sequence has frame, joint, x, y, and may have z "
                               "and confidence")
    confidence = next((head.index(word) for word in _CONFIDENCE if word in head), None)
    columns = [place[axis] for axis in ("x", "y", "z") if axis in place]
    if confidence is not None and len(columns) == 3:
        columns.append(confidence)
    body = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    try:
        frames = [int(float(row[place["frame"]])) for row in body]
        joints = [row[place["joint"]].strip() for row in body]
        numbers = np.array([[float(row[n]) if row[n].strip() else np.nan for n in columns] for row in body])
    except (ValueError, IndexError) as error:
        raise Unreadable(name, f"a row is cut off, or holds what is no number ({error})") from error
    if not body:
        raise Unreadable(name, "it has no rows")
    order = {joint: n for n, joint in enumerate(_in_order(joints))}
    first, last = min(frames), max(frames)
    if last - first >= 100 * len(body):
        raise Unreadable(name, f"its frames run from {first} to {last} with {len(body)} rows; number them one by one")
    values = np.full((len(columns), len(order), last - first + 1), np.nan, dtype=np.float32)
    at = ([order[joint] for joint in joints], [frame - first for frame in frames])
    if len(set(zip(*at))) < len(body):
        raise Unreadable(name, "a joint has two rows in one frame; one file is one body")
    values[:, at[0], at[1]] = numbers.T
    return Sequence(checked(values, name), CHANNELS[len(columns)], tuple(order))


def _in_order(joints: list[str]) -> list[str]:
    """Distinct joints: by number where they are numbers, else as they come."""
    found = list(dict.fromkeys(joints))
    return sorted(found, key=int) if all(joint.isdigit() for joint in found) else found


def read_bones(path: Path, joints: int) -> tuple[tuple[str, ...] | None, list[list[int]] | None]:
    """Names and edges of `skeleton.json`: {"joints": [names], "edges": [[number, number], ...]}, each if it is there.

    Raises:
        DataError: it does not fit the sequences.
    """
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        names, edges = told.get("joints"), told.get("edges")
        edges = None if edges is None else [[int(a), int(b)] for a, b in edges]
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f'{path} cannot be read ({error}); it is to hold {{"joints": [names], "edges": [[0, 1], ...]}}'
                        ) from error
    if names is not None and len(names) != joints:
        raise DataError(f"{path} names {len(names)} joints, the sequences have {joints}; name them all, in order")
    if edges is not None and any(not 0 <= n < joints for edge in edges for n in edge):
        raise DataError(f"{path} has an edge to a joint that is not there; joints are numbered 0 to {joints - 1}")
    return None if names is None else tuple(str(name) for name in names), edges


# Geometry.


def resampled(values: np.ndarray, frames: int) -> np.ndarray:
    """(C, J, frames): linear interpolation between frames, first and last ones kept; NaN where a neighbour is."""
    have = values.shape[2]
    if have == frames:
        return values
    place = np.linspace(0, have - 1, frames)
    low = place.astype(int)
    share = (place - low).astype(np.float32)
    nearer, farther = values[:, :, low], values[:, :, np.minimum(low + 1, have - 1)]
    return np.where(share == 0, nearer, nearer * (1 - share) + farther * share)


def longer(values: np.ndarray, frames: int) -> np.ndarray:
    """(C, J, frames), NaN behind the end."""
    if values.shape[2] == frames:
        return values
    out = np.full((*values.shape[:2], frames), np.nan, dtype=np.float32)
    out[:, :, : values.shape[2]] = values
    return out


def centred(xyz: Tensor, root: int) -> Tensor:
    """Coordinates (B, D, J, T) minus those of the root joint in the first frame that shows it."""
    track = xyz[:, :, root]  # B D T
    there = ~track.isnan().any(1)  # B T
    first = there.to(torch.uint8).argmax(1)  # B
    start = track.gather(2, first[:, None, None].expand(-1, xyz.shape[1], 1))  # B D 1
    return xyz - start.nan_to_num()[:, :, None]


def sizes(xyz: Tensor) -> Tensor:
    """(B, 1, 1, 1) size of the body in coordinates (B, D, J, T): the distance of joints from the middle of their frame,
    root mean square; 1 where nothing has a size."""
    middle = xyz.nanmean(2, keepdim=True)
    square = (xyz - middle).square().sum(1, keepdim=True).nanmean((2, 3), keepdim=True).nan_to_num()
    return torch.where(square > 0, square.sqrt(), 1.0)


def bones(distance: np.ndarray, spread: np.ndarray) -> list[list[int]]:
    """Edges that join all joints: the tree whose bones are short and keep their lengths (least sum of mean distance
    times its deviation, both (J, J))."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    tree = minimum_spanning_tree(distance * spread + 1e-9 * (1 + distance)).tocoo()
    return sorted(sorted(map(int, pair)) for pair in zip(tree.row, tree.col))
