"""Images: (C, H, W) arrays of uint8, uint16 or float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..augment import Compose, Cover, FitSize, RandomCrop, RandomResizedCrop, resize
from ..collate import pad_grid
from ..columns import ArrayColumn, Blobs, Column
from ..errors import DataError, SchemaError, Unreadable, nothing_readable, some
from ..kind import Blob, Kind, Meter, Settled
from ..options import Options
from ..schema import Field
from ._pictures import (
    BROKEN,
    ENDINGS,
    Peek,
    channel_axis,
    decode,
    finite,
    from_pillow,
    peek,
    plain_dtype,
    to_plain,
)

HEADERS = 20_000  # headers read at opening; of more files a seeded choice, the rest is checked when read
ENOUGH_PIXELS = 2**27  # a schema's figures are taken from no more pixels than this (per channel) ...
ENOUGH_IMAGES = 64  # ... but from at least so many images
KEEP_BELOW = 256  # sets of one size below this are trained at their own size
SMALLEST_AUGMENTED = 24  # pixels of the short side
EXAMPLE = (3, 24, 32)  # made-up images are not square, so that rows and columns cannot be confused
LARGEST = 224  # training size at most, unless asked for
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's conversion to grey
_FIT = Compose(Cover(), RandomCrop(pad=0))
_CENTRE = FitSize()


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to (C, H, W) with the set's number of channels and dtype. Raises Unreadable for any other.

    Grey becomes RGB where the set is; RGB becomes grey only with `to_grey`, if that was asked for.
    """

    channels: int
    dtype: str
    layout: str | None
    to_grey: bool

    def __call__(self, blob: Blob) -> np.ndarray:
        return self.conform(decode(blob, self.layout, alpha=self.channels == 4), blob.name)

    def conform(self, image: np.ndarray, name: str) -> np.ndarray:
        c = image.shape[0]
        if c == 1 and self.channels == 3:
            image = np.repeat(image, 3, axis=0)
        elif c == 3 and self.channels == 1 and self.to_grey:
            image = np.round(np.tensordot(_LUMA, image.astype(np.float32), 1))[None].astype(image.dtype)
        elif c != self.channels:
            raise Unreadable(name, f"it has {c} channels, the set has {self.channels}; open with channels=3 for RGB")
        if image.dtype != self.dtype:
            raise Unreadable(name, f"its values are {image.dtype}, the set's are {self.dtype}")
        return image


def _decoder(channels: int, dtype: str, options: Options) -> Decoder:
    return Decoder(channels=channels, dtype=dtype, layout=options.layout, to_grey=options.channels == 1)


@dataclass(frozen=True, kw_only=True)
class ObjectReader:
    """An item of a dataset (Pillow image, tensor, array) to (C, H, W)."""

    decoder: Decoder

    def __call__(self, item: Any, name: str) -> np.ndarray:
        return self.decoder.conform(_object_array(item, self.decoder.layout, name), name)


class ImageKind(Kind):
    name = "image"
    elastic = True
    endings = ENDINGS
    recipe = "mae"
    on_grid = True
    renderer = "anymask.reports.images:Images"

    def patch(self, field: Field) -> tuple[int, ...]:
        """2 pixels for short sides up to 16, 4 up to 64, 8 up to 128, else the papers' 16."""
        side = min(field.shape[1:])
        return (2 if side <= 16 else 4 if side <= 64 else 8 if side <= 128 else 16,) * 2

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        peeks, bad = _peek_all(blobs, options.layout)
        if not peeks:
            first = f"; first: {blobs[next(iter(bad))].name} ({next(iter(bad.values()))})" if bad else ""
            raise DataError(f"none of {len(blobs)} image files can be read{first}; save them again, or give others")
        channels, notes = _settle_channels(blobs, peeks, options.channels)
        dtype = _settle_dtype(blobs, peeks)
        sizes = {(p.height, p.width) for p in peeks.values()}
        shape = (channels, *next(iter(sizes))) if len(sizes) == 1 else None
        return Settled(_decoder(channels, dtype, options), shape, dtype, bad, notes)

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if array.ndim not in (3, 4) or array.dtype.kind not in "biuf":
            return None
        if array.ndim == 3 and _coordinates(array) and options.kind is None:
            return None
        view = as_nchw(array, options.layout, name)
        return ArrayColumn(self, view, dtype=str(plain_dtype(array.dtype)), convert=to_plain,
                           mapped=isinstance(array, np.memmap),
                           reopen=partial(_reopen, array.filename, options.layout, name)
                           if isinstance(array, np.memmap) and array.filename else None)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        if not isinstance(example, (Image.Image, torch.Tensor, np.ndarray)):
            return None
        axes = getattr(example, "ndim", None)
        if axes not in (None, 2, 3) or (axes == 2 and _coordinates(example) and options.kind is None):
            return None
        array = _object_array(example, options.layout, "item 0")
        channels = options.channels or array.shape[0]
        return ObjectReader(decoder=_decoder(channels, str(array.dtype), options))

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        return ImageMeter(name, size)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        if batch.dtype.kind == "f" and not np.isfinite(batch).all():
            row = int(np.argwhere(~np.isfinite(batch))[0][0])
            finite(batch[row], names(row))

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape[1:]

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        size = field.shape[1], field.shape[2]
        if augment is not None and rng is not None:
            value = augment(value, rng, size)
        if value.shape[1:] != size:
            value = _CENTRE(value, None, size) if rng is None else _FIT(value, rng, size)
        return value

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        longest = max(value.shape[1:])
        if longest <= limit:
            return value
        h, w = (max(1, round(n * limit / longest)) for n in value.shape[1:])
        return resize(value, (h, w))

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        return pad_grid(values, multiple)

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        if trained.shape[0] != given.shape[0]:
            raise SchemaError(f"'{given.name}' has {given.shape[0]} channels in {given_by}; the model was trained on "
                              f"{trained.shape[0]} ({trained_on}): open the data with channels={trained.shape[0]} (1, "
                              f"3 and 4 can be converted), or train on such data")
        _compare_values(trained, given, trained_on, given_by)
        if trained.shape != given.shape:
            return [f"'{given.name}' would be trained at {_size(given.shape[1:])} in {given_by}; the model was "
                    f"trained at {_size(trained.shape[1:])}"]
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        c, h, w = field.shape
        sizes = [_size(s) for s in field.sizes]
        seen = sizes[0] if len(set(sizes)) == 1 else f"{sizes[0]} to {sizes[2]}, median {sizes[1]}"
        figures = lambda values: ", ".join(f"{v:.4g}" for v in values[:8]) + (" ..." if len(values) > 8 else "")
        return [(field.name, f"{c} channel{'s' * (c > 1)}, {field.dtype}, {field.low:g} to {field.high:g}"),
                (f"{field.name} sizes", f"{seen} (height x width); trained at {h} x {w}"),
                (f"{field.name} mean, std", f"{figures(field.mean)}; {figures(field.std)}")]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        side, x = _squares(field, limit), values.float()
        return (x if side == 1 else torch.nn.functional.avg_pool2d(x, side, ceil_mode=True)).flatten(1)

    def flattened(self, field: Field, limit: int) -> str:
        side = _squares(field, limit)
        return f"averaged over squares of {side} pixels" if side > 1 else ""

    def example_field(self, name: str) -> Field:
        x = smooth(64, EXAMPLE, 0).float()
        mean, std = x.mean((0, 2, 3)).tolist(), x.std((0, 2, 3)).tolist()
        return Field(name=name, kind="image", dtype="uint8", shape=EXAMPLE, sizes=(EXAMPLE[1:],) * 3, low=0.0,
                     high=255.0, mean=tuple(mean), std=tuple(std))

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        x = field.low + smooth(count, field.shape, seed).float() / 255 * (field.high - field.low)
        return x.to(torch.uint8 if field.dtype == "uint8" else torch.int32 if "int" in field.dtype else torch.float32)

    def resized(self, field: Field, size: tuple[int, int]) -> Field:
        return replace(field, shape=(field.shape[0], *size))

    def shrinks(self, field: Field, limit: int) -> bool:
        return max(field.sizes[-1]) > limit

    def augmentable(self, field: Field) -> str:
        small = min(field.shape[-2:]) < SMALLEST_AUGMENTED
        return f"images below {SMALLEST_AUGMENTED} pixels are used as they are: not cropped, not mirrored" * small

    def light(self, field: Field) -> Any:
        side = min(field.shape[1:])
        if side < SMALLEST_AUGMENTED:  # shifted only, as cropping and mirroring change what they show
            return RandomCrop(pad=max(1, side // 8))
        return RandomResizedCrop(scale=(0.6, 1.0))

    def model_size(self, field: Field) -> str:
        return "nano" if min(field.shape[-2:]) <= 16 else "tiny"


def _squares(field: Field, limit: int) -> int:
    """Side of the squares that plain input is averaged over."""
    return max(1, int(np.ceil(np.sqrt(np.prod(field.shape) / limit))))


def smooth(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """(count, C, H, W) uint8: smooth random images, so that a patch says something of its neighbours."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, shape[0], 4, 5, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bicubic", align_corners=True)
    fine = fine + 0.02 * torch.randn(fine.shape, generator=generator)
    return (128 + 45 * fine).round().clamp(0, 255).to(torch.uint8)


class ImageMeter(Meter):
    """Sizes, range, mean and deviation by channel."""

    def __init__(self, name: str, size: int | tuple[int, int] | None) -> None:
        self.name, self.size = name, size
        self.sizes: list[tuple[int, int]] = []
        self.seen = self.missing = self.pixels = 0
        self.dtype = ""
        self.shift = self.total = self.square = np.zeros(0)
        self.low, self.high = np.inf, -np.inf

    def add(self, name: str, value: np.ndarray | None) -> None:
        self.seen += 1
        if value is None:
            self.missing += 1
            return
        finite(value, name)
        x = value.reshape(len(value), -1).astype(np.float64)
        if not self.sizes:
            self.dtype, self.shift = str(value.dtype), x.mean(1)
            self.total, self.square = np.zeros(len(x)), np.zeros(len(x))
        x -= self.shift[:, None]  # sums of squares of shifted values keep their digits
        self.total = self.total + x.sum(1)
        self.square = self.square + np.einsum("cn,cn->c", x, x)
        self.low, self.high = min(self.low, float(value.min())), max(self.high, float(value.max()))
        self.pixels += x.shape[1]
        self.sizes.append((value.shape[1], value.shape[2]))
        self.full = self.pixels >= ENOUGH_PIXELS and len(self.sizes) >= ENOUGH_IMAGES

    def field(self) -> Field:
        if not self.sizes:
            raise nothing_readable(self.name)
        mean = self.total / self.pixels
        deviation = np.sqrt(np.maximum(self.square / self.pixels - mean**2, 0))
        flat = deviation <= 1e-7 * np.maximum(1, np.abs(mean + self.shift))
        notes = (f"channel(s) {some([str(i) for i in np.flatnonzero(flat)], 8)} of '{self.name}' are constant; "
                 "their deviation is taken as 1",) if flat.any() else ()
        low, high = (0.0, 255.0) if self.dtype == "uint8" else (self.low, self.high)
        area = sorted(self.sizes, key=lambda s: s[0] * s[1])
        median = tuple(int(np.median([s[i] for s in area])) for i in (0, 1))
        return Field(name=self.name, kind="image", dtype=self.dtype,
                     shape=(len(mean), *training_size(self.sizes, self.size)), sizes=(area[0], median, area[-1]),
                     low=low, high=high, mean=tuple(float(m) for m in mean + self.shift),
                     std=tuple(float(s) for s in np.where(flat, 1.0, deviation)), missing=self.missing / self.seen,
                     notes=notes)


def training_size(sizes: Sequence[tuple[int, int]], size: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """(H, W) in training. `size` decides where given. A set of one size below 256 keeps it. Else a square: the median
    short side rounded down to a multiple of 16 (of 2 below 32), at most 224."""
    if size is not None:
        h, w = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if h < 1 or w < 1:
            raise DataError(f"size={size} must be at least 1 pixel a side")
        return h, w
    if len(set(sizes)) == 1 and max(sizes[0]) < KEEP_BELOW:
        return sizes[0]
    short = int(np.median([min(s) for s in sizes]))
    step = 16 if short >= 32 else 2
    side = max(1, min(LARGEST, short // step * step))
    return side, side


def _coordinates(array: Any) -> bool:
    """Whether real numbers look like points in rows of three coordinates, rather than a picture three pixels wide."""
    real = array.is_floating_point() if isinstance(array, torch.Tensor) else array.dtype.kind == "f"
    return bool(real) and array.shape[-1] == 3


def as_nchw(array: np.ndarray, layout: str | None, name: str) -> np.ndarray:
    """(N, C, H, W) view of (N, H, W), (N, C, H, W) or (N, H, W, C)."""
    if array.ndim == 3:
        return array[:, None]
    axis = channel_axis(array.shape[1:], layout, f"{name} (shape {array.shape})")
    return array if axis == 0 else np.moveaxis(array, -1, 1)


def _reopen(path: str, layout: str | None, name: str) -> np.ndarray:
    return as_nchw(np.load(path, mmap_mode="r", allow_pickle=False), layout, name)


def _object_array(item: Any, layout: str | None, name: str) -> np.ndarray:
    if isinstance(item, Image.Image):
        try:
            return np.ascontiguousarray(from_pillow(item))
        except BROKEN as error:
            raise Unreadable(name, str(error)) from error
    array = item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)
    if array.ndim == 2:
        array = array[None]
    elif channel_axis(array.shape, layout, name) == 2:
        array = np.moveaxis(array, -1, 0)
    return np.ascontiguousarray(finite(to_plain(array), name))


def _peek_all(blobs: Blobs, layout: str | None) -> tuple[dict[int, Peek], dict[int, str]]:
    """Headers by row, and reasons by row of what is unreadable. Sizes are looked at for all rows."""
    n = len(blobs)
    chosen = np.arange(n) if n <= HEADERS else np.sort(np.random.default_rng(0).permutation(n)[:HEADERS])
    bad = {row: "the file is empty (0 bytes)" for row in range(n) if blobs.nbytes(row) == 0}
    peeks = {}
    for row in chosen.tolist():
        try:
            peeks[row] = peek(blobs[row], layout)
            bad.pop(row, None)
        except Unreadable as error:
            bad[row] = error.reason
    return peeks, bad


def _settle_channels(blobs: Blobs, peeks: dict[int, Peek], wanted: int | None) -> tuple[int, list[str]]:
    """The set's number of channels: grey among RGB becomes RGB with a note; any other mixture is refused."""
    counts = Counter(p.channels for p in peeks.values())
    if wanted is not None:
        if set(counts) != {wanted} and (wanted not in (1, 3, 4) or set(counts) - {1, 3}):
            raise DataError(f"channels={wanted} cannot be made of images with {sorted(counts)} channels; give 1, 3 or "
                            f"4, or leave channels out")
        return wanted, []
    if set(counts) == {1, 3}:
        grey = next(blobs[row].name for row, p in peeks.items() if p.channels == 1)
        return 3, [f"{counts[1]:,} of {len(peeks):,} images are grey (first: {grey}); they are repeated to RGB"]
    if len(counts) > 1:
        names = [f"{blobs[next(r for r, p in peeks.items() if p.channels == c)].name} has {c}" for c in sorted(counts)]
        raise DataError(f"images differ in their number of channels: {some(names, 4)}; put them into folders of their "
                        f"own")
    return next(iter(counts)), []


def _settle_dtype(blobs: Blobs, peeks: dict[int, Peek]) -> str:
    first: dict[str, int] = {}
    for row, p in peeks.items():
        first.setdefault(p.dtype, row)
    if len(first) > 1:
        names = [f"{blobs[row].name} is {dtype}" for dtype, row in first.items()]
        raise DataError(f"images differ in the type of their values: {some(names, 4)}; convert them to one type, or "
                        f"put them into folders of their own")
    return next(iter(first))


def _compare_values(trained: Field, given: Field, trained_on: str, given_by: str) -> None:
    """Refuses another dtype, or floats of a clearly other range (spans that differ 16-fold)."""
    spans = [max(f.high - f.low, 1e-12) for f in (trained, given)]
    if trained.dtype == given.dtype and not (given.dtype == "float32" and not 1 / 16 < spans[1] / spans[0] < 16):
        return
    mend = f"convert the data to {trained.dtype} in {trained.low:g}..{trained.high:g}"
    if trained.dtype == "uint8" and given.dtype == "float32" and given.low >= -0.01 and given.high <= 1.01:
        mend = "multiply by 255: (x * 255).round().astype('uint8')"
    elif given.dtype == "uint8" and trained.dtype == "float32" and trained.low >= -0.01 and trained.high <= 1.01:
        mend = "divide by 255: x.astype('float32') / 255"
    raise SchemaError(f"'{given.name}' is {given.dtype} {given.low:g}..{given.high:g} in {given_by}; the model was "
                      f"trained on {trained.dtype} {trained.low:g}..{trained.high:g} ({trained_on}): {mend}")


def _size(hw: Sequence[int]) -> str:
    return f"{hw[0]} x {hw[1]}"


KIND = ImageKind()
