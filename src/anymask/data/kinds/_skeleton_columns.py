"""Skeleton sequences as columns of sources, and what a schema says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..columns import ArrayColumn, Column
from ..errors import DataError, Unreadable, nothing_readable, some
from ..kind import Blob, Meter, Value, kind_of
from ..schema import Field
from . import _skeletons

SEGMENT = 4  # frames of a token (MAMP, arXiv:2308.07092, section 3.1), of which training lengths are multiples
LONGEST = 128  # frames of a training sample, unless asked for
SHARE = 0.95  # of the sequences are at most as long as a training sample; longer ones are resampled to it


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to (C, J, T). Raises Unreadable for a sequence of other joints or channels than the set's."""

    channels: tuple[str, ...]
    count: int
    joints: tuple[str, ...] | None  # where the files name them
    names: tuple[str, ...] | None = None  # what `skeleton.json` calls them
    edges: list[list[int]] | None = None

    def __call__(self, blob: Blob) -> np.ndarray:
        found = _skeletons.read(blob)
        if found.channels != self.channels or found.values.shape[1] != self.count:
            raise Unreadable(blob.name, f"it has {found.values.shape[1]} joints of {', '.join(found.channels)}, the "
                                        f"set has {self.count} of {', '.join(self.channels)}")
        if self.joints is None or found.joints == self.joints:
            return found.values
        if found.joints is None or sorted(found.joints) != sorted(self.joints):
            raise Unreadable(blob.name, f"its joints are not those of the set ({some(list(self.joints), 4)})")
        return found.values[:, [found.joints.index(joint) for joint in self.joints]]


class SequenceColumn(Column):
    """Sequences of several lengths, held in memory."""

    dtype, shape, in_memory = "float32", None, True

    def __init__(self, sequences: Sequence[np.ndarray]) -> None:
        self.kind, self.sequences = kind_of("skeleton"), list(sequences)

    def __len__(self) -> int:
        return len(self.sequences)

    def read(self, row: int) -> Value | None:
        return self.sequences[row]

    def nbytes(self, row: int) -> int:
        return self.sequences[row].nbytes


class EqualColumn(ArrayColumn):
    """Sequences of one length: an array (N, T, J, C)."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(kind_of("skeleton"), array.transpose(0, 3, 2, 1), dtype="float32", convert=_single,
                         mapped=isinstance(array, np.memmap))

    def read(self, row: int) -> Value | None:
        return _skeletons.checked(self.array[row], f"sequence {row}")

    def batch(self, rows: np.ndarray) -> np.ndarray | None:
        return None  # one by one, so that one that cannot be used is left out


class SkeletonMeter(Meter):
    """Lengths, range, mean and spread of the coordinates, missing joints, the root, and how far joints are apart."""

    most = 400

    def __init__(self, name: str, size: int | None, decode: Decoder | None) -> None:
        self.name, self.size, self.decode = name, size, decode
        self.lengths: list[int] = []
        self.seen = self.absent = self.gone = self.cells = 0
        self.low, self.high = np.inf, -np.inf
        self.total = self.square = self.middle = self.near = self.near_square = self.pairs = np.zeros(0)
        self.wide, self.count = np.zeros(0), 0
        self.shape: tuple[int, int] | None = None

    def add(self, name: str, value: Value | None) -> None:
        self.seen += 1
        if value is None:
            self.absent += 1
            return
        kind_of("skeleton").check(value[None], lambda _: name)
        if self.shape is None:
            self.shape, joints = value.shape[:2], value.shape[1]
            self.total = self.square = np.zeros(len(value))
            self.middle, self.near = np.zeros(joints), np.zeros((joints, joints))
            self.near_square = self.pairs = self.near
            self.wide = np.zeros(_skeletons.dimensions(len(value)))
        if value.shape[:2] != self.shape:
            raise DataError(f"{name} has {value.shape[1]} joints in {value.shape[0]} channels, others have "
                            f"{self.shape[1]} in {self.shape[0]}; give all the same")
        x = value.astype(np.float64)
        self.lengths.append(x.shape[2])
        there = ~np.isnan(x).any(0)  # J T
        self.gone, self.cells = self.gone + int((~there).sum()), self.cells + there.size
        known = x[:, there]  # C n
        self.count += known.shape[1]
        self.total, self.square = self.total + known.sum(1), self.square + (known**2).sum(1)
        xyz = x[: _skeletons.dimensions(len(x))]
        self.low = min(self.low, float(known[: len(xyz)].min()))
        self.high = max(self.high, float(known[: len(xyz)].max()))
        self._posture(xyz[:, :, there.all(0)])

    def _posture(self, xyz: np.ndarray) -> None:
        """Adds distances between joints, of frames that show all of them (D, J, T)."""
        gap = np.linalg.norm(xyz[:, :, None] - xyz[:, None], axis=0)  # J J T
        self.near, self.near_square = self.near + gap.sum(2), self.near_square + (gap**2).sum(2)
        self.pairs = self.pairs + xyz.shape[2]
        beside = xyz - xyz.mean(1, keepdims=True)
        self.middle = self.middle + np.linalg.norm(beside, axis=0).sum(1)
        self.wide = self.wide + (beside**2).sum((1, 2))

    def field(self) -> Field:
        if self.shape is None:
            raise nothing_readable(self.name)
        lengths = sorted(self.lengths)
        if lengths[-1] < 2 * SEGMENT:
            raise DataError(f"the sequences of '{self.name}' have at most {lengths[-1]} frames; to hide some, at least "
                            f"{2 * SEGMENT} are needed")
        common = lengths[min(len(lengths) - 1, int(SHARE * len(lengths)))]
        frames = self.size or min(LONGEST, max(2 * SEGMENT, -(-common // SEGMENT) * SEGMENT))
        channels, joints = self.shape
        mean = self.total / max(self.count, 1)
        std = np.sqrt(np.maximum(self.square / max(self.count, 1) - mean**2, 0))
        std = np.where(std > 1e-7 * np.maximum(1, np.abs(mean)), std, 1.0)
        names = self.decode and (self.decode.names or self.decode.joints)
        plain = lambda values: tuple(float(v) for v in values)
        return Field(
            name=self.name, kind="skeleton", dtype="float32", shape=(channels, joints, frames),
            sizes=((lengths[0],), (lengths[len(lengths) // 2],), (lengths[-1],)), low=self.low, high=self.high,
            mean=plain(mean), std=plain(std), missing=self.absent / self.seen,
            columns=tuple(_named(names, joints)), more=self._body(channels, joints),
        )  # fmt: skip

    def _body(self, channels: int, joints: int) -> dict[str, Any]:
        edges = self.decode.edges if self.decode is not None else None
        count = np.maximum(self.pairs, 1)
        distance = self.near / count
        spread = np.sqrt(np.maximum(self.near_square / count - distance**2, 0.0))
        size = np.sqrt((distance**2 + spread**2).sum() / (2 * joints**2)) or 1.0  # as `sizes`, over the whole set
        across, up = (0, 1) if len(self.wide) == 2 else np.argsort(-self.wide, kind="stable")[[1, 0]]  # bodies stand
        return {"channels": list(_skeletons.CHANNELS[channels]), "root": int(self.middle.argmin()),
                "edges": edges or _skeletons.bones(distance, spread), "given": edges is not None,
                "upright": [int(across), int(up)], "gaps": self.gone / max(self.cells, 1), "size": float(size)}


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def _named(names: Any, joints: int) -> list[str]:
    return [str(name) for name in names] if names else [f"joint {n}" for n in range(joints)]
