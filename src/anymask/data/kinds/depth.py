"""Depth maps: (1, H, W) float32 in the units of the files, NaN where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..collate import pad_grid
from ..columns import Blobs, Column
from ..errors import DataError, Unreadable
from ..kind import Blob, Meter, Settled
from ..options import Options
from ..schema import Field
from . import _pictures, image
from ._maps import MapKind, one_channel

HIDDEN = 0.15  # share of the pixels of a made-up map that are unknown, about


def known(array: np.ndarray) -> np.ndarray:
    """float32 with NaN for what is no depth: 0, what is negative, NaN or infinite."""
    out = array.astype(np.float32)
    return np.where(np.isfinite(out) & (out > 0), out, np.float32(np.nan))


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to a map."""

    layout: str | None

    def __call__(self, blob: Blob) -> np.ndarray:
        array = _pictures.decode(blob, self.layout, holes=True)
        if len(array) != 1:
            raise Unreadable(blob.name, f"it has {len(array)} channels; a depth map has one")
        return known(array)


class DepthKind(MapKind):
    name = "depth"
    called, held, converted = "depth map", "float32", staticmethod(known)
    folders = ("depth", "depths", "disparity", "disparities")
    parts = "anymask.parts.maps:DEPTH"

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        found = super().settle(blobs, one_channel(options))
        channels = getattr(found.decode, "channels", 1)
        if channels != 1:
            raise DataError(f"{blobs[0].name} has {channels} channels, and a depth map has one: give grey pictures of "
                            "8 or 16 bits, .tif or .npy, or read them as images (kind=image)")
        return Settled(Decoder(layout=options.layout), found.shape, "float32", found.bad, [])

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        return DepthMeter(name, size)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        return None

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        out, extent = pad_grid(values, multiple)
        for row, (h, w) in zip(out, () if extent is None else extent.tolist()):
            row[:, h:], row[:, :, w:] = torch.nan, torch.nan
        return out, extent

    def absent(self, field: Field) -> np.ndarray:
        return np.full(field.shape, np.nan, dtype=np.float32)

    def describe(self, field: Field) -> list[tuple[str, str]]:
        rows = super().describe(field)
        words = f"depth, {field.low:.4g} to {field.high:.4g}; {field.gaps[0]:.1%} of the pixels unknown"
        return [(field.name, words), *rows[1:]]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        return super().flat(values.nan_to_num(field.mean[0]), field, limit)

    def flattened(self, field: Field, limit: int) -> str:
        told = (super().flattened(field, limit), "unknown depth is the mean" * any(field.gaps))
        return "; ".join(text for text in told if text)

    def example_field(self, name: str) -> Field:
        meter = DepthMeter(name, None)
        for value in made_up(64, image.EXAMPLE[1:], 0).numpy():
            meter.add("", value)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        x = (made_up(count, field.shape[1:], seed) - 1000) / (3000 * (1 - HIDDEN))  # 0..1
        return field.low + x * (field.high - field.low)


class DepthMeter(image.ImageMeter):
    """Figures of the known pixels, and the share of the unknown ones."""

    def __init__(self, name: str, size: Any) -> None:
        super().__init__(name, size)
        self.unknown = 0

    def add(self, name: str, value: np.ndarray | None) -> None:
        if value is None:
            return
        there = value[np.isfinite(value)]
        self.unknown += value.size - there.size
        self.sizes.append((value.shape[1], value.shape[2]))
        if not there.size:
            return
        x = there.astype(np.float64)
        if not self.pixels:
            self.shift, self.total, self.square = np.array([x.mean()]), np.zeros(1), np.zeros(1)
        x -= self.shift
        self.total, self.square = self.total + x.sum(), self.square + np.square(x).sum()
        self.low, self.high = min(self.low, float(there.min())), max(self.high, float(there.max()))
        self.pixels += there.size
        self.full = self.pixels >= image.ENOUGH_PIXELS and len(self.sizes) >= image.ENOUGH_IMAGES

    def field(self) -> Field:
        if self.sizes and not self.pixels:
            raise DataError(f"no pixel of '{self.name}' that was looked at is a depth: all are 0, negative or not "
                            "finite, which stands for unknown; look whether the right files were read")
        self.dtype, self.seen = "float32", max(1, len(self.sizes))
        share = self.unknown / max(1, self.unknown + self.pixels)
        return replace(super().field(), kind=KIND.name, gaps=(share,))


def made_up(count: int, size: tuple[int, ...], seed: int) -> Tensor:
    """(count, 1, H, W) float32 smooth maps of 1,000 to 4,000 with a hole in most of them, and specks."""
    smooth = image.smooth(count, (1, *size), seed + 5).float()
    fine = torch.rand(smooth.shape, generator=torch.Generator().manual_seed(seed + 6))
    hole = (smooth > 255 * (1 - HIDDEN)) | (fine < 0.02)
    return torch.where(hole, torch.nan, 1000 + 3000 * smooth / 255)


KIND = DepthKind()
