"""Videos: clips (C, T, H, W) of uint8 (arrays may hold uint16 or float32), T frames at equal distances in time.

A value is a `Video`, of which training takes a clip at a random place, and evaluation the one in the middle. A video
that is too short for a clip fills its first frames; the others are no tokens (`extent`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..augment import Compose, Cover, FitSize, RandomCrop, RandomResizedCrop
from ..collate import tensor
from ..columns import BlobColumn, Blobs, Column
from ..errors import DataError, SchemaError, Unreadable
from ..kind import Kind, Meter, Settled, Value
from ..options import Options
from ..schema import Field
from ..source import Source
from . import _videos
from ._pictures import finite
from ._video_columns import LARGEST, ClipColumn, ListColumn, ScaledColumn, VideoMeter
from ._videos import Frames
from .image import SMALLEST_AUGMENTED

SHORT = 8 / 7  # short side of a decoded frame to that of a clip: 256 for 224, as Kinetics is kept
HEADERS = 20_000  # files that are looked into at opening; others are when they are read
LONG = 60.0  # seconds; of a longer video only a small part is seen at a time
EXAMPLE = (3, 6, 24, 32)  # made-up clips; no two sides are equal
_FIT = Compose(Cover(), RandomCrop(pad=0))
_CENTRE = FitSize()


class Clip(NamedTuple):
    """A clip (C, T, H, W) whose first `real` frames are of the video; the last of them is repeated behind it."""

    array: np.ndarray
    real: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def tobytes(self) -> bytes:
        return self.array.tobytes()


class VideoKind(Kind):
    name = "video"
    endings = _videos.FILES
    asked_endings = _videos.PICTURES | {".npy", ".gif", ""}
    recipe = "mae-st"
    samples_seen, most_epochs = 10_000, 200
    on_grid = True
    varies = True
    renderer = "anymask.reports.videos:Clips"

    def samples(self, names: Sequence[str]) -> list[str]:
        return _videos.samples_of(names)

    def open(self, spec: Any, options: Options) -> Source | None:
        if options.kind != self.name or not isinstance(spec, list) or not spec:
            return None
        if not all(isinstance(item, (np.ndarray, torch.Tensor)) for item in spec):
            return None
        videos = [_object(item, f"video {n}", layout=options.layout) for n, item in enumerate(spec)]
        return Source(name="videos", columns={self.name: ListColumn(self, videos, options)}, strict=options.strict)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        if options.channels not in (None, 1, 3):
            raise DataError(f"channels={options.channels}: videos have 3 channels, or 1 (grey) where it is asked for")
        decode = _videos.Decoder(channels=options.channels or 3, layout=options.layout, window=options.window,
                                 stride=options.stride)
        n, bad, seconds = len(blobs), {}, []
        chosen = np.arange(n) if n <= HEADERS else np.random.default_rng(0).permutation(n)[:HEADERS]
        for row in chosen.tolist():
            try:
                video = decode(blobs[row])
                if video.count < 2:
                    raise Unreadable(video.name, "it has a single frame")
                seconds.append((video.count / video.rate if video.rate else 0.0, video.name))
            except Unreadable as error:
                bad[row] = error.reason
        if not seconds:
            first = min(bad)
            raise DataError(f"none of {n} videos can be read; first: {blobs[first].name} ({bad[first]}); save them "
                            "again, or give others")
        longest, name = max(seconds)
        notes = [f"{sum(s > LONG for s, _ in seconds)} videos last longer than {LONG:.0f} s (longest: {name}, "
                 f"{longest:.0f} s), and each is one sample, of which one clip is taken at a time; cut them into "
                 "files of about 10 s: ffmpeg -i IN.mp4 -c copy -f segment -segment_time 10 OUT%04d.mp4"]
        return Settled(decode, None, "uint8", bad, notes if longest > LONG else [])

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        asked = options.kind == self.name
        if array.dtype.kind not in "biuf" or array.ndim not in ((4, 5) if asked else (5,)):
            return None
        if not asked and not _colour(array):
            return None
        view = partial(_as_nthwc, layout=options.layout, name=name)
        if array.shape[1 if array.ndim == 4 else 2] < 2 and array.ndim == 4:
            raise DataError(f"{name} has shape {array.shape}: videos of a single frame are pictures (--kind image)")
        reopen = None
        if isinstance(array, np.memmap) and array.filename:
            reopen = partial(_reopen, array.filename, view)
        return ClipColumn(self, view(array), options, mapped=isinstance(array, np.memmap), reopen=reopen)

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Value] | None:
        if not isinstance(example, (np.ndarray, torch.Tensor)) or example.ndim not in (3, 4):
            return None
        array = example.detach().cpu().numpy() if isinstance(example, torch.Tensor) else example
        if options.kind != self.name and not _colour(array[None]):
            return None
        return partial(_object, layout=options.layout)

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        return VideoMeter(name, size, column)

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        if batch.dtype.kind == "f" and not np.isfinite(batch).all():
            row = int(np.argwhere(~np.isfinite(batch))[0][0])
            finite(batch[row], names(row))

    def extent(self, value: Value) -> tuple[int, ...]:
        return value.shape[1:]

    def fit(self, value: Value, field: Field, augment: Any, rng: np.random.Generator | None) -> Clip:
        """The same crop and flip in all frames of a clip."""
        if value.shape[0] != field.shape[0]:
            raise DataError(f"'{field.name}' has {value.shape[0]} channels, in training {field.shape[0]}; open the "
                            f"data with channels={field.shape[0]}")
        frames = value.frames(clip_numbers(value.count, value.rate, field, rng))  # t h w C
        seed = 0 if rng is None else int(rng.integers(2**62))
        size = field.shape[2], field.shape[3]
        images = []
        for frame in frames:
            image, drawn = frame.transpose(2, 0, 1), None if rng is None else np.random.default_rng(seed)
            if augment is not None and drawn is not None:
                image = augment(image, drawn, size)
            if image.shape[1:] != size:
                image = _CENTRE(image, None, size) if drawn is None else _FIT(image, drawn, size)
            images.append(image)
        return Clip(np.stack(images + images[-1:] * (field.shape[1] - len(images)), 1), len(images))

    def natural(self, value: Value, field: Field, limit: int) -> Clip:
        return self.fit(value, field, None, None)

    def pad(self, values: Sequence[Value], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Clips have one size; `extent` says which frames are real, where not all are."""
        batch = tensor(np.stack([v.array if isinstance(v, Clip) else v for v in values]))
        real = [v.real if isinstance(v, Clip) else v.shape[1] for v in values]
        if min(real) == batch.shape[2]:
            return batch, None
        return batch, torch.tensor([[n, *batch.shape[3:]] for n in real])

    def align(self, column: Column, field: Field) -> Column:
        """Frames are decoded no larger than training needs them."""
        if not isinstance(getattr(column, "decode", None), _videos.Decoder) or isinstance(column, ScaledColumn):
            return column
        short, made = round(SHORT * min(field.shape[2:])), column.__dict__.setdefault("scaled", {})
        if short not in made:  # kept, so that videos are decoded once for training and evaluation
            made[short] = ScaledColumn(column, short)
        return made[short]

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        if trained.shape[0] != given.shape[0]:
            raise SchemaError(f"'{given.name}' has {given.shape[0]} channels in {given_by}; the model was trained on "
                              f"{trained.shape[0]} ({trained_on}): open the data with channels={trained.shape[0]}")
        if trained.dtype != given.dtype:
            raise SchemaError(f"'{given.name}' is {given.dtype} in {given_by}; the model was trained on "
                              f"{trained.dtype} ({trained_on}): convert the data to {trained.dtype}")
        if trained.interval and not given.interval:
            return [f"the frame rate of {given_by} is not known: clips take every {trained.more['stride']}th frame, "
                    f"whatever time that is (in training {trained.interval:.3g} s)"]
        return []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        c, t, h, w = field.shape
        figures = lambda values: ", ".join(f"{v:.4g}" for v in values)
        low, middle, high = (f"{s[0]} x {s[1]} x {s[2]}" for s in field.sizes)
        stride, rate = field.more["stride"], field.more["rate"]
        every = f"every {stride}{ {2: 'nd', 3: 'rd'}.get(stride, 'th')} frame" if stride > 1 else "every frame"
        when = f"{1 / field.interval:.3g} frames a second, {t * field.interval:.3g} s" if field.interval else \
            "frame rate not known"
        rows = [(field.name, f"{c} channel{'s' * (c > 1)}, {field.dtype}, {field.low:g} to {field.high:g}"),
                (f"{field.name} sizes", f"{low} to {high}, median {middle} (frames x height x width)"),
                (f"{field.name} clips", f"{t} frames of {h} x {w}; {every} ({when})")]
        if rate:
            rows.append((f"{field.name} rate", f"{rate:.4g} frames a second, median; clips keep to time where others "
                                               "differ"))
        if field.more["short"]:
            rows.append((f"{field.name} too short", f"{field.more['short']:.1%} of the videos do not fill a clip: its "
                                                    "last frames are left out"))
        return [*rows, (f"{field.name} mean, std", f"{figures(field.mean)}; {figures(field.std)}")]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        x, side = values.float(), _squares(field, limit)
        return (x if side == 1 else torch.nn.functional.avg_pool3d(x, (1, side, side), ceil_mode=True)).flatten(1)

    def flattened(self, field: Field, limit: int) -> str:
        side = _squares(field, limit)
        return f"averaged over squares of {side} pixels of each frame" if side > 1 else ""

    def example_field(self, name: str) -> Field:
        x = moving(64, EXAMPLE, 0).float()
        return Field(name=name, kind="video", dtype="uint8", shape=EXAMPLE, sizes=(EXAMPLE[1:],) * 3, low=0.0,
                     high=255.0, mean=tuple(x.mean((0, 2, 3, 4)).tolist()), std=tuple(x.std((0, 2, 3, 4)).tolist()),
                     interval=0.1, more={"stride": 3, "rate": 30.0, "short": 0.25})

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return moving(count, field.shape, seed)

    def example_batch(self, field: Field, count: int, seed: int) -> dict[str, Tensor]:
        """Every fourth clip lacks its last two frames."""
        extent = torch.tensor(field.shape[1:]).repeat(count, 1)
        extent[3::4, 0] -= 2
        return {field.name: self.examples(field, count, seed), "extent": extent}

    def patch(self, field: Field) -> tuple[int, ...]:
        """2 frames (both papers), and 4 pixels for short sides up to 32, 8 up to 64, else the papers' 16."""
        side = min(field.shape[2:])
        return 2 if field.shape[1] % 2 == 0 else 1, *(4 if side <= 32 else 8 if side <= 64 else 16,) * 2

    def resized(self, field: Field, size: tuple[int, int]) -> Field:
        return replace(field, shape=(*field.shape[:2], *size))

    def augmentable(self, field: Field) -> str:
        small = min(field.shape[2:]) < SMALLEST_AUGMENTED
        return f"videos below {SMALLEST_AUGMENTED} pixels are used as they are: not cropped, not mirrored" * small

    def light(self, field: Field) -> Any:
        return RandomCrop(pad=2) if self.augmentable(field) else RandomResizedCrop(scale=(0.6, 1.0))

    def model_size(self, field: Field) -> str:
        return "nano" if min(field.shape[2:]) <= LARGEST else "tiny"


def clipped(source: Source, *, frames: int, side: int) -> Source:
    """The same videos, of which clips of so many frames of so many pixels a side are taken. Raises DataError for videos
    that are not decoded."""
    columns = {}
    for name, column in source.columns.items():
        if not isinstance(column, BlobColumn) or not isinstance(column.decode, _videos.Decoder):
            raise DataError(f"'{name}' of {source.name} is not read from video files; give such data")
        decode = replace(column.decode, window=frames, side=side)
        columns[name] = BlobColumn(column.kind, column.blobs, Settled(decode, None, column.dtype, {}, []))
    return source.with_columns(columns)


def clip_numbers(count: int, rate: float | None, field: Field, rng: np.random.Generator | None) -> np.ndarray:
    """(t,) numbers of the frames of a clip, t = T unless the video is too short; in the middle without `rng`."""
    step = field.interval * rate if field.interval and rate else float(field.more["stride"])
    spare = count - 1 - step * (field.shape[1] - 1)
    start = 0.0 if spare < 0 else spare / 2 if rng is None else float(rng.random() * spare)
    numbers = np.floor(start + step * np.arange(field.shape[1]) + 0.5).astype(int)
    return numbers[numbers < count]


def _squares(field: Field, limit: int) -> int:
    """Side of the squares that plain input is averaged over."""
    return max(1, int(np.ceil(np.sqrt(np.prod(field.shape) / limit))))


def moving(count: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """(count, C, T, H, W) uint8: smooth random pictures that move at a steady pace, each in a direction of its own."""
    c, t, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, c, 5, 6, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(h + t, w + t), mode="bicubic", align_corners=True)
    frames = []
    for n in range(t):
        across = [w0 if left else t - w0 for left, w0 in ((i % 2 == 0, n) for i in range(count))]
        frames.append(torch.stack([wide[i, :, n : n + h, a : a + w] for i, a in enumerate(across)]))
    x = torch.stack(frames, 2)
    x = x + 0.02 * torch.randn(x.shape, generator=generator)
    return (128 + 45 * x).round().clamp(0, 255).to(torch.uint8)


def _colour(array: np.ndarray) -> bool:
    """Whether an array with 5 axes can be nothing but colour videos: bytes, three channels, several frames."""
    if array.dtype != np.uint8 or array.ndim != 5:
        return False
    return (array.shape[4] == 3 and array.shape[2] > 4) or (array.shape[1] == 3 and min(array.shape[3:]) > 4)


def _as_nthwc(array: np.ndarray, *, layout: str | None, name: str) -> np.ndarray:
    """(N, T, H, W, C) view of (N, T, H, W), (N, T, H, W, C) or (N, C, T, H, W)."""
    if array.ndim == 4:
        return array[..., None]
    axis = _videos.channel_axis(array.shape[1:], layout, f"{name} (shape {array.shape})")
    return array if axis == 3 else np.moveaxis(array, 1, -1)


def _reopen(path: str, view: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return view(np.load(path, mmap_mode="r", allow_pickle=False))


def _object(item: Any, name: str, *, layout: str | None) -> Frames:
    array = item.detach().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)
    return _videos.array_video(array, layout, name)


KIND = VideoKind()
