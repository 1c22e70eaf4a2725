"""Columns of videos, and what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..columns import ArrayColumn, Column
from ..errors import DataError, Unreadable, nothing_readable
from ..kind import Kind, Meter, Value
from ..options import Options
from ..schema import Field
from ..source import CACHE_BYTES
from ._pictures import finite, plain_dtype
from ._videos import Frames, Video
from .image import training_size

FRAMES = 16  # of a clip (VideoMAE, arXiv:2203.12602, section 4.2; MAE-ST, arXiv:2205.09113, section 4.1), if they fit
RATE = 7.5  # frames a second of a clip: every 4th of 30 (both papers, on Kinetics), if they fit
FIT = 10  # per cent of the videos that may be too short for a clip by default
LARGEST = 112  # pixels of a training clip, unless asked for
REPEATS = 4  # clips drawn from one decoding of a video that is not in memory (MAE-ST, section 3.4)
PROBED = 32  # videos whose decoded size tells that of all


class ClipColumn(ArrayColumn):
    """Videos of one array (N, T, H, W, C)."""

    def __init__(self, kind: Kind, array: np.ndarray, options: Options, **more: Any) -> None:
        dtype = str(plain_dtype(array.dtype))
        super().__init__(kind, array, dtype=dtype, convert=np.asarray, **more)
        self.shape: tuple[int, ...] | None = None  # values are cut into clips
        self.window, self.stride = options.window, options.stride

    def read(self, row: int) -> Value | None:
        return Frames(self.array[row], f"video {row}", None)

    def batch(self, rows: np.ndarray) -> np.ndarray | None:
        return None


class ScaledColumn(Column):
    """Another column's videos, decoded with a short side of `short` pixels at most; kept in memory once they are
    decoded, if all of them fit into 1 GiB."""

    shape, dtype = None, "uint8"

    def __init__(self, column: Any, short: int) -> None:
        self.kind, self.column, self.decode = column.kind, column, replace(column.decode, short=short)
        self._kept: dict[int, Video] = {}
        self.in_memory = self._bytes() <= CACHE_BYTES
        self.repeats = 1 if self.in_memory else REPEATS

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def __len__(self) -> int:
        return len(self.column)

    def read(self, row: int) -> Value | None:
        if row in self._kept:
            return self._kept[row]
        video = self.decode(self.column.blobs[row])
        if self.in_memory:
            self._kept[row] = video = video.held()
        return video

    def raw(self, row: int) -> bytes:
        return self.column.raw(row)

    def nbytes(self, row: int) -> int | None:
        return self.column.nbytes(row)

    def _bytes(self) -> float:
        """Of all videos when decoded, judged from some."""
        sizes = []
        for row in np.random.default_rng(0).permutation(len(self))[:PROBED]:
            try:
                sizes.append(self.decode(self.column.blobs[int(row)]).nbytes)
            except Unreadable:  # named when it is read
                continue
        return float(np.mean(sizes)) * len(self) if sizes else np.inf


class ListColumn(Column):
    """Videos of several lengths and sizes, in memory."""

    shape, in_memory = None, True

    def __init__(self, kind: Kind, videos: Sequence[Frames], options: Options) -> None:
        self.kind, self.videos, self.dtype = kind, list(videos), str(videos[0].dtype)
        self.window, self.stride = options.window, options.stride

    def __len__(self) -> int:
        return len(self.videos)

    def read(self, row: int) -> Value | None:
        return self.videos[row]

    def nbytes(self, row: int) -> int:
        return self.videos[row].nbytes


class VideoMeter(Meter):
    """Lengths, rates and sizes by header; range, mean and deviation by channel of a few frames of some videos."""

    most = 400
    decoded, few = 48, 4  # videos that frames are taken of, and how many of each

    def __init__(self, name: str, size: Any, column: Column | None) -> None:
        asked = getattr(column, "decode", column)
        self.name, self.size = name, size or getattr(asked, "side", None)
        self.window, self.stride = getattr(asked, "window", None), getattr(asked, "stride", None)
        self.sizes: list[tuple[int, int, int]] = []
        self.rates: list[float | None] = []
        self.values: list[np.ndarray] = []
        self.seen = 0

    def add(self, name: str, value: Value | None) -> None:
        if value is None:
            self.seen += 1
            return
        if len(self.values) < self.decoded:
            numbers = np.unique(np.linspace(0, value.count - 1, self.few).round().astype(int))
            x = value.frames(numbers)
            self.values.append(finite(x, name)[:, ::2, ::2].reshape(-1, x.shape[-1]))
            if x.shape[-1] != self.values[0].shape[1] or x.dtype != self.values[0].dtype:
                raise DataError(f"{name} has {x.shape[-1]} channels of {x.dtype}, others have "
                                f"{self.values[0].shape[1]} of {self.values[0].dtype}; give all the same")
        self.seen += 1
        self.sizes.append((value.count, *value.size))
        self.rates.append(value.rate)

    def field(self) -> Field:
        if not self.sizes:
            raise nothing_readable(self.name)
        values = np.concatenate(self.values)
        mean, std = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
        dtype = str(values.dtype)
        low, high = (0.0, 255.0) if dtype == "uint8" else (float(values.min()), float(values.max()))
        frames, stride, rate, short = self._clip()
        order = sorted(self.sizes, key=lambda s: s[0] * s[1] * s[2])
        median = tuple(int(np.median([s[axis] for s in order])) for axis in range(3))
        space = training_size([s[1:] for s in self.sizes], self.size)
        if self.size is None and min(space) > LARGEST:
            space = (LARGEST, LARGEST)
        return Field(name=self.name, kind="video", dtype=dtype, shape=(len(mean), frames, *space),
                     sizes=(order[0], median, order[-1]), low=low, high=high, mean=tuple(mean.tolist()),
                     std=tuple(np.where(std > 1e-7 * np.maximum(1, np.abs(mean)), std, 1.0).tolist()),
                     missing=1 - len(self.sizes) / self.seen, interval=stride / rate if rate else None,
                     more={"stride": stride, "rate": rate, "short": short})

    def _clip(self) -> tuple[int, int, float | None, float]:
        """Frames of a clip, from one to the next, median rate, and the share of videos that do not fill a clip."""
        known = [rate for rate in self.rates if rate]
        rate = float(np.median(known)) if known else None
        # Lengths in frames at the median rate.
        lengths = np.array([s[0] * (rate / r if rate and r else 1.0) for s, r in zip(self.sizes, self.rates)])
        most = float(np.percentile(lengths, FIT))
        frames = self.window or max(2, min(FRAMES, int(most) // 2 * 2))
        if frames < 2 or (self.stride or 1) < 1:
            raise DataError(f"window={self.window} (--window) are the frames of a clip, at least 2, and stride="
                            f"{self.stride} (--stride) those from one to the next, at least 1")
        wanted = round(rate / RATE) if rate else 1
        stride = self.stride or max(1, min(wanted, int((most - 1) // (frames - 1))))
        short = float((lengths < (frames - 1) * stride + 1 - 0.5).mean())
        if short == 1.0:
            raise DataError(f"no video of '{self.name}' is long enough for {frames} frames, one of {stride} (longest: "
                            f"{int(lengths.max())} frames); lower --window or --stride")
        return frames, stride, rate, short
