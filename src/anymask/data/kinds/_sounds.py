"""Sound files: headers, waveforms mixed to mono, and other sampling rates, through libsndfile (soundfile) and SciPy."""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, Unreadable
from ..kind import Blob

ENDINGS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"})
OPEN_ENDED = (0, 0xFFFFFFFF)  # sizes that a .wav written to a pipe has in its header


class Header(NamedTuple):
    """What a file says of itself."""

    rate: int
    channels: int
    length: int  # samples of each channel


def soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, RuntimeError, OSError) as error:
        raise DataError(f"sound files are read by the library soundfile: pip install 'anymask[audio]' ({error})") \
            from error
    return soundfile


def header(blob: Blob) -> Header:
    """Raises Unreadable."""
    library = soundfile()
    _refuse_cut(blob)
    try:
        about = library.info(_stream(blob))
    except (library.SoundFileError, OSError) as error:
        raise Unreadable(blob.name, _reason(error)) from error
    if about.frames < 1:
        raise Unreadable(blob.name, "it holds no samples")
    return Header(about.samplerate, about.channels, about.frames)


def read(blob: Blob, rate: int) -> np.ndarray:
    """(T,) float32, whole numbers as shares of their range, channels averaged, at `rate`. Raises Unreadable; DataError
    for values that are not finite."""
    library = soundfile()
    try:
        values, own = library.read(_stream(blob), dtype="float32", always_2d=True)
    except (library.SoundFileError, OSError) as error:
        raise Unreadable(blob.name, _reason(error)) from error
    if not len(values):
        raise Unreadable(blob.name, "it holds no samples")
    return resampled(finite(values.mean(1) if values.shape[1] > 1 else values[:, 0], blob.name), own, rate)


def finite(wave: np.ndarray, name: str) -> np.ndarray:
    """The waveform itself. Raises DataError if a sample is NaN or infinite."""
    if not np.isfinite(wave).all():
        raise DataError(f"{name} holds NaN or infinite values (first at sample {int(np.argmin(np.isfinite(wave)))}); "
                        "replace them, as by numpy.nan_to_num(x), or remove the file")
    return wave


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A waveform at another rate, filtered so that nothing is aliased."""
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    shared = math.gcd(rate, wanted)
    return resample_poly(wave, wanted // shared, rate // shared).astype(np.float32)


def length_at(length: Any, rate: int, wanted: int) -> Any:
    """Samples (a number or an array) that `resampled` makes."""
    shared = math.gcd(rate, wanted)
    return -(-length * (wanted // shared) // (rate // shared))


def plain(array: np.ndarray) -> np.ndarray:
    """Samples of any type as float32: whole numbers as shares of their range, unsigned ones about their middle."""
    if array.dtype.kind == "b":
        raise DataError("waveforms are numbers, not true and false")
    if array.dtype.kind in "iu":
        half = 2.0 ** (8 * array.dtype.itemsize - 1)
        return ((array.astype(np.float64) - half * (array.dtype.kind == "u")) / half).astype(np.float32)
    return array.astype(np.float32, copy=False)


def _stream(blob: Blob) -> Any:
    return io.BytesIO(blob.data) if isinstance(blob.data, bytes) else str(blob.data)


def _refuse_cut(blob: Blob) -> None:
    """Raises Unreadable for a .wav that is shorter than its header says, which libsndfile reads as far as it goes."""
    try:
        if isinstance(blob.data, bytes):
            start, size = blob.data[:8], len(blob.data)
        else:
            size = blob.data.stat().st_size
            with blob.data.open("rb") as file:
                start = file.read(8)
    except OSError as error:
        raise Unreadable(blob.name, _reason(error)) from error
    told = int.from_bytes(start[4:8], "little")
    if start[:4] == b"RIFF" and told not in OPEN_ENDED and told + 8 > size + 1:  # an odd last chunk may lack its filler
        raise Unreadable(blob.name, f"it is cut off: {size:,} of {told + 8:,} bytes are there")


def _reason(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    return str(error).partition(": ")[2] or str(error) or type(error).__name__
