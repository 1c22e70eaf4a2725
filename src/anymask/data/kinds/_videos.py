"""Videos as they are stored: files by PyAV, folders of pictures, arrays. Frames are decoded when they are asked for.

A frame is (h, w, C); several are (n, h, w, C). Time is told by the number of a frame at the video's own rate, taken as
constant.
"""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..augment import resize
from ..errors import DataError, Unreadable
from ..kind import Blob
from . import _pictures

FILES = frozenset([".mp4", ".m4v", ".mov", ".avi", ".webm", ".mkv", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp"])
PICTURES = _pictures.ENDINGS - {".npy", ".gif"}
WHOLE_BYTES = 2**27  # a video that is no larger than this when decoded is decoded once, and whole
LOST = 0.05  # share of the promised frames that may lack at the end, as some writers count wrongly
FASTEST = 960.0  # frames a second
FORMATS = {1: "gray", 3: "rgb24"}


class Video(ABC):
    """One video: a value whose frames are read when they are asked for. `rate` is in frames a second, None where it is
    not known; `size` is (h, w) of its frames."""

    name: str
    count: int
    rate: float | None
    size: tuple[int, int]
    channels: int
    dtype: np.dtype[Any] = np.dtype(np.uint8)

    @abstractmethod
    def frames(self, numbers: np.ndarray) -> np.ndarray:
        """(n, h, w, C) of the frames with these numbers, which rise. Raises Unreadable."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, T, h, w)"""
        return self.channels, self.count, *self.size

    @property
    def nbytes(self) -> int:
        """Of all frames, decoded."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def held(self) -> Frames:
        """The same video in memory. Raises Unreadable."""
        return Frames(self.frames(np.arange(self.count)), self.name, self.rate)

    def tobytes(self) -> bytes:
        return self.frames(np.arange(self.count)).tobytes()


class Frames(Video):
    """A video in memory, or memory-mapped: (T, h, w, C)."""

    def __init__(self, array: np.ndarray, name: str, rate: float | None) -> None:
        self.array, self.name, self.rate = array, name, rate
        self.count, self.size, self.channels = len(array), (array.shape[1], array.shape[2]), array.shape[3]
        self.dtype = _pictures.plain_dtype(array.dtype)

    def frames(self, numbers: np.ndarray) -> np.ndarray:
        return _pictures.to_plain(self.array[numbers])


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its frames, before any is decoded."""

    count: int
    rate: float | None
    size: tuple[int, int]


class Film(Video):
    """A file that PyAV reads.

    Args:
        short: pixels that the short side is scaled down to while decoding; None = as it is.
    """

    def __init__(self, blob: Blob, channels: int, short: int | None) -> None:
        self.blob, self.name, self.channels, self.short = blob, blob.name, channels, short
        header = peek(blob)
        self.count, self.rate, self.size = header.count, header.rate, scaled(header.size, short)
        self._whole: np.ndarray | None = None

    def tobytes(self) -> bytes:
        """Of the file: decoding all of it costs too much where only duplicates are looked for."""
        return self.blob.read()

    def frames(self, numbers: np.ndarray) -> np.ndarray:
        if self.nbytes > WHOLE_BYTES and len(numbers) < self.count:
            return self._some(numbers)
        if self._whole is None:
            self._whole = self._some(np.arange(self.count))
        return self._whole[numbers]

    def _some(self, numbers: np.ndarray) -> np.ndarray:
        """Frames found by their times, from the key frame before the first one; by counting from the start where all
        are wanted, or the times are of no use."""
        found: list[np.ndarray] = []
        if self.rate and len(numbers) < self.count:
            found = list(self._found(numbers, self.rate))
        if len(found) < len(numbers):
            found = list(self._found(numbers, None))
        if not found or (len(found) < len(numbers) and int(numbers[len(found)]) < self.count * (1 - LOST) - 1):
            reached = int(numbers[len(found) - 1]) + 1 if found else 0
            raise Unreadable(self.name, f"it breaks off after {reached} of {self.count} frames")
        return np.stack(found + found[-1:] * (len(numbers) - len(found)))

    def _found(self, numbers: np.ndarray, rate: float | None) -> Iterator[np.ndarray]:
        left = numbers.tolist()
        with opened(self.blob) as (_, container, stream):
            zero, unit = stream.start_time or 0, float(stream.time_base or 0)
            if rate and left[0] and unit:
                container.seek(zero + int((left[0] - 0.5) / rate / unit), stream=stream)
            for place, frame in enumerate(container.decode(stream)):
                number = place if rate is None or frame.pts is None else round((frame.pts - zero) * unit * rate)
                while left and left[0] <= number:
                    yield self._pixels(frame)
                    left = left[1:]
                if not left:
                    return

    def _pixels(self, frame: Any) -> np.ndarray:
        """(h, w, C) upright."""
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        h, w = scaled((frame.height, frame.width), self.short)
        array = frame.to_ndarray(format=FORMATS[self.channels], width=w, height=h, interpolation="AREA")
        return np.rot90(array.reshape(h, w, self.channels), turns)


class Folder(Video):
    """A folder of pictures, one a frame, in the order of the numbers in their names."""

    def __init__(self, blob: Blob, channels: int, short: int | None) -> None:
        assert isinstance(blob.data, Path)
        self.name, self.channels, self.short, self.rate = blob.name, channels, short, None
        self.files = pictures(blob.data)
        if not self.files:
            raise Unreadable(blob.name, "the folder holds no pictures")
        self.count = len(self.files)
        first = _pictures.peek(self._blob(0))
        self.own = (first.height, first.width)
        self.size = scaled(self.own, short)

    def _blob(self, number: int) -> Blob:
        return Blob(f"{self.name}/{self.files[number].name}", self.files[number])

    def frames(self, numbers: np.ndarray) -> np.ndarray:
        return np.stack([self._frame(int(n)) for n in numbers])

    def _frame(self, number: int) -> np.ndarray:
        blob = self._blob(number)
        try:
            image = _pictures.decode(blob)
        except DataError as error:
            raise Unreadable(self.name, str(error)) from error
        if image.dtype != np.uint8 or image.shape[1:] != self.own:
            raise Unreadable(self.name, f"{blob.name} is {image.dtype} of {image.shape[1]} x {image.shape[2]}; frames "
                                        f"are pictures of 8 bits and one size ({self.own[0]} x {self.own[1]})")
        return _channels(resize(image, self.size).transpose(1, 2, 0), self.channels, self.name)


def _channels(frame: np.ndarray, channels: int, name: str) -> np.ndarray:
    """A frame with 1 or 3 channels."""
    have = frame.shape[-1]
    if have == channels:
        return frame
    if have == 1:
        return np.repeat(frame, channels, axis=-1)
    if have == 3 and channels == 1:
        return (frame @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]  # ITU-R BT.601
    raise Unreadable(name, f"its frames have {have} channels, the set has {channels}")


def array_video(array: np.ndarray, layout: str | None, name: str) -> Frames:
    """A video from (T, H, W), (T, H, W, C) or (C, T, H, W)."""
    if array.dtype.kind not in "biuf" or array.ndim not in (3, 4):
        raise Unreadable(name, f"it is {array.dtype} of shape {array.shape}; a video is numbers (T, H, W, C), "
                               "(C, T, H, W) or (T, H, W)")
    if array.ndim == 3:
        return Frames(array[..., None], name, None)
    return Frames(array if channel_axis(array.shape, layout, name) == 3 else np.moveaxis(array, 0, -1), name, None)


def channel_axis(shape: tuple[int, ...], layout: str | None, name: str) -> int:
    """Which axis of one video (4 axes) holds the channels, 0 or 3: the smaller one, if it is at most 16."""
    if layout is not None:
        wanted = layout.upper().removeprefix("N")
        if wanted not in ("CTHW", "THWC"):
            raise DataError(f"layout={layout!r} is not known for videos; give layout='NCTHW' or layout='NTHWC'")
        return 0 if wanted == "CTHW" else 3
    first, last = shape[0], shape[3]
    if first == last or min(first, last) > _pictures.MAX_CHANNELS:
        raise DataError(f"{name}: with videos of shape {shape} it is not clear which axis holds the channels; give "
                        "layout=\"NCTHW\" or layout=\"NTHWC\"")
    return 0 if first < last else 3


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Blob to Video. `window`, `stride` and `side` are the frames of a clip, those from one to the next, and its
    pixels, where they were asked for; `short` see `Film`."""

    channels: int
    layout: str | None = None
    window: int | None = None
    stride: int | None = None
    side: int | None = None
    short: int | None = None

    def __call__(self, blob: Blob) -> Video:
        if isinstance(blob.data, Path) and blob.data.is_dir():
            return Folder(blob, self.channels, self.short)
        if blob.ending == ".npy":
            return array_video(_loaded(blob), self.layout, blob.name)
        return Film(blob, self.channels, self.short)


def _loaded(blob: Blob) -> np.ndarray:
    try:
        if isinstance(blob.data, bytes):
            return np.load(io.BytesIO(blob.data), allow_pickle=False)
        return np.load(blob.data, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unreadable(blob.name, str(error)) from error


def scaled(size: tuple[int, int], short: int | None) -> tuple[int, int]:
    """(h, w) with the short side scaled down to `short`."""
    h, w = size
    if short is None or min(h, w) <= short:
        return h, w
    factor = short / min(h, w)
    return max(1, round(h * factor)), max(1, round(w * factor))


def pictures(folder: Path) -> list[Path]:
    """Picture files in a folder, frame2 before frame10."""
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    except OSError as error:
        raise Unreadable(folder.name, str(error)) from error
    return sorted(found, key=lambda path: natural(path.name))


def natural(name: str) -> list[Any]:
    """A key that sorts numbers in names as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def samples_of(names: Sequence[str]) -> list[str]:
    """The videos that files make up: video files (or .npy, .gif) as they are; where there are none, folders that hold
    pictures; names without ending are folders that a table names."""
    films = [n for n in names if Path(n).suffix.lower() not in PICTURES]
    return films or sorted({str(Path(n).parent.as_posix()) for n in names})


# PyAV.


def _import_av(name: str) -> Any:
    try:
        import av
    except (ImportError, RuntimeError, OSError) as error:
        raise DataError(f"{name} is a video, which PyAV reads: pip install 'anymask[video]' ({error})") from error
    return av


@contextmanager
def opened(blob: Blob) -> Iterator[tuple[Any, Any, Any]]:
    """(av, container, video stream) of a file. Raises Unreadable, for what goes wrong inside the block as well."""
    av = _import_av(blob.name)
    av.logging.set_level(None)  # what is wrong is said by errors
    try:
        source = io.BytesIO(blob.data) if isinstance(blob.data, bytes) else str(blob.data)
        with av.open(source) as container:
            if not container.streams.video:
                raise Unreadable(blob.name, "it holds no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # workers are processes
            yield av, container, stream
    except (av.FFmpegError, OSError, ValueError, EOFError, IndexError) as error:
        raise Unreadable(blob.name, _reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, (PermissionError, FileNotFoundError)):
        return _pictures._reason(error)
    told = getattr(error, "strerror", None) or str(error)
    return f"not a video in any known format, or cut off ({told})"


def peek(blob: Blob) -> Header:
    """Reads a header. Raises Unreadable."""
    if blob.data == b"" or (isinstance(blob.data, Path) and blob.data.is_file() and not blob.data.stat().st_size):
        raise Unreadable(blob.name, "the file is empty (0 bytes)")
    with opened(blob) as (av, container, stream):
        rate = _rate(float(stream.guessed_rate or stream.average_rate or 0))
        seconds = stream.duration * float(stream.time_base) if stream.duration and stream.time_base else None
        seconds = container.duration / av.time_base if seconds is None and container.duration else seconds
        count = stream.frames or (max(1, round(seconds * rate)) if rate and seconds else 0)
        if not count:  # nothing says how long it lasts
            count = sum(1 for packet in container.demux(stream) if packet.size)
        if not count or not stream.width or not stream.height:
            raise Unreadable(blob.name, "it holds no frames")
        if rate is None and seconds:
            rate = _rate(count / seconds)
        return Header(count=count, rate=rate, size=(stream.height, stream.width))


def _rate(rate: float) -> float | None:
    """Frames a second; None for what is no rate of frames, but of a clock that they are timed by."""
    return rate if 0 < rate <= FASTEST else None
