"""Class maps, as of semantic segmentation: (1, H, W) with the number of a class in every pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..columns import Blobs, Column
from ..errors import DataError, SchemaError, Unreadable, nothing_readable
from ..kind import Blob, Meter, Settled
from ..options import Options
from ..schema import Field
from . import _pictures, image
from ._maps import MapKind, one_channel

UNKNOWN = 255  # of a pixel that has no class, as in PASCAL VOC and Cityscapes
CLASSES = 5  # of made-up maps
MOST = 255


def _bytes(array: np.ndarray) -> np.ndarray:
    return numbered(array.reshape(1, -1), "the array").reshape(array.shape)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to a map. The numbers of a palette are the classes; its colours are not looked at."""

    layout: str | None

    def __call__(self, blob: Blob) -> np.ndarray:
        if blob.ending == ".npy":
            return numbered(_pictures._npy(blob, self.layout), blob.name)
        try:
            with Image.open(_pictures._stream(blob)) as picture:
                plain = picture.mode in ("P", "L", "1", *_pictures._DEEP)
                array = np.asarray(picture) if plain else None
        except _pictures.BROKEN as error:
            raise Unreadable(blob.name, _pictures._reason(error)) from error
        if array is None:
            raise Unreadable(blob.name, "it is a colour picture; a class map has one number a pixel, or a palette")
        return numbered(array[None], blob.name)


def numbered(array: np.ndarray, name: str) -> np.ndarray:
    """uint8. Raises Unreadable for what are no numbers of classes."""
    if len(array) != 1:
        raise Unreadable(name, f"it has {len(array)} channels; a class map has one")
    if array.size and not (array.min() >= 0 and array.max() <= MOST and (array == np.floor(array)).all()):
        raise Unreadable(name, f"it holds {array.min():g} to {array.max():g}; classes are whole numbers from 0 to "
                               f"{MOST - 1}, and {UNKNOWN} stands for none")
    return array.astype(np.uint8)


class ClassMapKind(MapKind):
    name = "classmap"
    called, held, converted = "class map", "uint8", staticmethod(_bytes)
    folders = ("classmap", "classes", "semseg", "segmentation", "segmentations", "mask", "masks")
    parts = "anymask.parts.maps:CLASSES"

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        found = super().settle(blobs, one_channel(options))
        shape = None if found.shape is None else (1, *found.shape[1:])
        return Settled(Decoder(layout=options.layout), shape, "uint8", found.bad, [])

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        return ClassMeter(name, size, getattr(column, "classes", None))

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        ours, theirs = trained.more["classes"], given.more["classes"]
        if theirs > ours:
            raise SchemaError(f"'{given.name}' has classes up to {theirs - 1} in {given_by}; the model was trained "
                              f"with {ours} classes ({trained_on}): number them alike")
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        words = f"class map, {field.more['classes']} classes; {field.gaps[0]:.1%} of the pixels without"
        return [(field.name, words), *super().describe(field)[1:2]]

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, UNKNOWN, dtype=np.uint8)

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        """One-hot, averaged over squares."""
        count = field.more["classes"]
        one_hot = torch.nn.functional.one_hot(values[:, 0].long().clamp(max=count), count + 1)[..., :-1]
        wide = replace(field, shape=(count, *field.shape[1:]))
        return super().flat(one_hot.movedim(-1, 1), wide, limit)

    def flattened(self, field: Field, limit: int) -> str:
        wide = replace(field, shape=(field.more["classes"], *field.shape[1:]))
        return "; ".join(text for text in ("classes one by one", super().flattened(wide, limit)) if text)

    def example_field(self, name: str) -> Field:
        meter = ClassMeter(name, None, CLASSES)
        for value in made_up(64, image.EXAMPLE[1:], CLASSES, 0).numpy():
            meter.add("", value)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return made_up(count, field.shape[1:], field.more["classes"], seed)


class ClassMeter(image.ImageMeter):
    """Sizes, and how often each class occurs."""

    def __init__(self, name: str, size: Any, classes: int | None) -> None:
        super().__init__(name, size)
        self.classes, self.counts = classes, np.zeros(MOST + 1, dtype=np.int64)

    def add(self, name: str, value: np.ndarray | None) -> None:
        if value is None:
            return
        self.sizes.append((value.shape[1], value.shape[2]))
        self.counts += np.bincount(value.ravel(), minlength=MOST + 1)
        self.full = self.counts.sum() >= image.ENOUGH_PIXELS and len(self.sizes) >= image.ENOUGH_IMAGES

    def field(self) -> Field:
        if not self.sizes:
            raise nothing_readable(self.name)
        there = np.flatnonzero(self.counts[:UNKNOWN])
        count = self.classes or (int(there[-1]) + 1 if len(there) else 0)
        if count < 2:
            raise DataError(f"'{self.name}' has one class only, which leaves nothing to predict; look whether the "
                            "right files were read")
        height, width = image.training_size(self.sizes, self.size)
        area = sorted(self.sizes, key=lambda s: s[0] * s[1])
        median = tuple(int(np.median([s[i] for s in area])) for i in (0, 1))
        return Field(name=self.name, kind=KIND.name, dtype="uint8", shape=(1, height, width),
                     sizes=(area[0], median, area[-1]), low=0.0, high=float(count - 1), mean=(0.0,), std=(1.0,),
                     gaps=(float(self.counts[UNKNOWN] / self.counts.sum()),),
                     more={"classes": count, "counts": self.counts[:count].tolist()})


def made_up(count: int, size: tuple[int, ...], classes: int, seed: int) -> Tensor:
    """(count, 1, H, W) uint8 smooth borders between classes, and a few pixels without."""
    smooth = image.smooth(count, (1, *size), seed + 8).float()
    fine = torch.rand(smooth.shape, generator=torch.Generator().manual_seed(seed + 9))
    return torch.where(fine < 0.02, UNKNOWN, (smooth / 256 * classes).floor()).to(torch.uint8)


KIND = ClassMapKind()
