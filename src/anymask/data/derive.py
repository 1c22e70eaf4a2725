"""Parts derived from another part of the same sample: the brightness, the edges, the colours of an image.

They are computed when a sample is read, before augmentation, so that they are cropped and mirrored as what they come
from is. Where no second sensor is at hand they stand for one, as MultiMAE's pseudo labels do (arXiv:2204.01678,
section 3.4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial

import numpy as np

from .columns import Column
from .errors import DataError
from .kind import Value, kind_of
from .source import Source

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
LEVELS = 2  # of each of the three colours, in `Colours`


class Derivation(ABC):
    """From a value to another one. `of` is the kind that it is made from, `kind` that of the result."""

    of = "image"
    kind = "image"
    dtype = "uint8"
    channels = 1
    classes: int | None = None  # of a class map

    @abstractmethod
    def __call__(self, value: Value) -> Value: ...


class Luma(Derivation):
    """Brightness (1, H, W)."""

    def __call__(self, value: Value) -> Value:
        return np.rint(_luma(value))[None].astype(np.uint8)


class Edges(Derivation):
    """Strength of the horizontal and of the vertical gradient of the brightness (2, H, W), as Sobel's operator gives
    them, divided by 4; without signs, so that they are the same in a mirrored image."""

    channels = 2

    def __call__(self, value: Value) -> Value:
        x = np.pad(_luma(value), 1, mode="edge")
        smooth_down = x[:-2] + 2 * x[1:-1] + x[2:]  # H W+2
        smooth_right = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]  # H+2 W
        across, down = smooth_down[:, 2:] - smooth_down[:, :-2], smooth_right[2:] - smooth_right[:-2]
        return np.rint(np.abs(np.stack([across, down])) / 4).astype(np.uint8)


class Colours(Derivation):
    """Class map (1, H, W) of eight colours: each of red, green and blue above or below the middle of its range."""

    kind = "classmap"
    classes = LEVELS**3

    def __call__(self, value: Value) -> Value:
        level = (value.astype(np.int32) * LEVELS) >> 8  # 3 H W
        return (level[0] * LEVELS**2 + level[1] * LEVELS + level[2])[None].astype(np.uint8)


DERIVATIONS: dict[str, Derivation] = {"luma": Luma(), "edges": Edges(), "colours": Colours()}


def _luma(value: Value) -> np.ndarray:
    return value[0].astype(np.float32) if len(value) == 1 else np.tensordot(LUMA, value.astype(np.float32), 1)


class DerivedColumn(Column):
    """What a derivation makes of another column's values."""

    def __init__(self, column: Column, name: str) -> None:
        made = DERIVATIONS[name]
        self.column, self.derivation = column, made
        self.kind, self.dtype, self.classes = kind_of(made.kind), made.dtype, made.classes
        self.shape = None if column.shape is None else (self.derivation.channels, *column.shape[1:])
        self.name = name

    def __len__(self) -> int:
        return len(self.column)

    def read(self, row: int) -> Value | None:
        value = self.column.read(row)
        return None if value is None else self.derivation(value)

    def raw(self, row: int) -> bytes:
        return self.name.encode() + self.column.raw(row)

    def nbytes(self, row: int) -> int | None:
        return self.column.nbytes(row)


def derive(column: Column, name: str, of: str) -> DerivedColumn:
    """A derived column. Raises DataError for an unknown derivation, or one that is not made from such values."""
    if name not in DERIVATIONS:
        raise DataError(f"nothing is called {name!r} that could be derived; there is: {', '.join(DERIVATIONS)}")
    want = DERIVATIONS[name].of
    if column.kind.name != want or column.dtype != "uint8" or (column.shape or (3,))[0] not in (1, 3):
        raise DataError(f"{name} is derived from an {want} of 8 bits, grey or in colour, and '{of}' is of kind "
                        f"{column.kind.name}, {column.dtype}; leave derive= (--derive) out")
    return DerivedColumn(column, name)


def derived(source: Source, names: Sequence[str]) -> Source:
    """The source with the parts that are named: its own, and derived from its only image; its splits likewise."""
    images = [part for part, kind in source.kinds.items() if kind.name == "image"]
    if len(images) != 1:
        raise DataError(f"{source.name} has {len(images)} images a sample, and parts are derived from one; describe "
                        "the parts in a mix.toml, with from and derive")
    columns = {name: source.columns.get(name) or derive(source.columns[images[0]], name, images[0]) for name in names}
    made = source.with_columns(columns)
    makers = {split: partial(_again, source, split, names) for split in (*source.splits, *_current(source))}
    return made.with_splits(source.current_split or "", makers) if makers else made


def _current(source: Source) -> tuple[str, ...]:
    return (source.current_split,) if source.splits and source.current_split else ()


def _again(source: Source, split: str, names: Sequence[str]) -> Source:
    return derived(source.split(split), names)
