"""Encoded pictures to (C, H, W) arrays: Pillow formats, TIFF, .npy.

Rules. Alpha is composited on white, unless four channels are asked for. Palette, CMYK and other colour spaces become
RGB. One-bit pictures become 0 and 255. Grey of 16 bits stays uint16; Pillow reads 16-bit *colour* PNG with 8 bits. The
EXIF orientation is applied. Of an animation the first frame is taken. TIFF that Pillow does not hold (many channels,
several pages, floats) is read by tifffile; pages count as channels.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import DataError, Unreadable
from ..kind import Blob

# What Pillow's decoders raise on broken files, beside its own UnidentifiedImageError (an OSError).
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error,
          Image.DecompressionBombError)
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_ORIENTATION = 0x0112
MAX_CHANNELS = 16  # the larger of two candidate axes is never taken for the channels

ENDINGS = frozenset([".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".npy"])


class Peek(NamedTuple):
    """What a header says of the decoded picture."""

    channels: int
    height: int
    width: int
    dtype: str


def peek(blob: Blob, layout: str | None = None) -> Peek:
    """Reads a header, and decodes only where the end of the file looks cut off. Raises Unreadable."""
    size = blob.data.stat().st_size if not isinstance(blob.data, bytes) and blob.data.exists() else None
    if size == 0 or blob.data == b"":
        raise Unreadable(blob.name, "the file is empty (0 bytes)")
    if blob.ending == ".npy":
        array = _npy(blob, layout, mmap_mode="r")
        return _peek_array(array, plain_dtype(array.dtype))
    if _needs_tifffile(blob):
        array = _tiff(blob)
        return _peek_array(array, array.dtype)
    try:
        with Image.open(_stream(blob)) as image:
            if _looks_cut(blob, image):
                image.load()
            channels, dtype = _channels_of(image)
            width, height = image.size
            if "exif" in image.info and image.getexif().get(_ORIENTATION, 1) >= 5:
                width, height = height, width
            return Peek(channels, height, width, dtype)
    except BROKEN as error:
        raise Unreadable(blob.name, _reason(error)) from error


def _peek_array(array: np.ndarray, dtype: np.dtype[Any]) -> Peek:
    channels, height, width = array.shape
    return Peek(channels, height, width, str(dtype))


def decode(blob: Blob, layout: str | None = None, *, alpha: bool = False, holes: bool = False) -> np.ndarray:
    """(C, H, W) uint8, uint16 or float32. Raises Unreadable; DataError for values that are not finite, unless the
    picture may have `holes`."""
    checked = (lambda array, _: array) if holes else finite
    if blob.ending == ".npy":
        array = checked(to_plain(_npy(blob, layout)), blob.name)
    elif _needs_tifffile(blob):
        array = checked(_tiff(blob), blob.name)
    else:
        try:
            with Image.open(_stream(blob)) as image:
                array = from_pillow(image, alpha=alpha)
        except BROKEN as error:
            raise Unreadable(blob.name, _reason(error)) from error
    return np.ascontiguousarray(array)


def from_pillow(image: Image.Image, *, alpha: bool = False) -> np.ndarray:
    """(C, H, W) of a Pillow image, by the rules above; with `alpha` colour pictures have 4 channels."""
    if ("exif" in image.info or image.format in ("PNG", "TIFF", "WEBP")) and image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        return np.asarray(image).astype(np.uint16)[None]
    if image.mode == "F":
        return np.asarray(image, dtype=np.float32)[None]
    if alpha:
        image = image.convert("RGBA")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        grey = image.mode in ("L", "LA", "La", "1")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L" if grey else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """uint8 and uint16 stay; bool becomes uint8 (0 and 255); all others float32."""
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    return dtype.newbyteorder("=") if dtype in (np.uint8, np.uint16) else np.dtype(np.float32)


def to_plain(array: np.ndarray) -> np.ndarray:
    """An array in its plain dtype; a copy only where the dtype changes."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    return array.astype(plain_dtype(array.dtype), copy=False)


def finite(array: np.ndarray, name: str) -> np.ndarray:
    """The array itself. Raises DataError if a float is NaN or infinite."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise DataError(f"{name} holds NaN or infinite values (first at channel, row, column {where}); replace them "
                        "before training, as by numpy.nan_to_num(x), or remove the file")
    return array


def channel_axis(shape: tuple[int, ...], layout: str | None, name: str) -> int:
    """Which axis of one (3-dimensional) picture holds the channels: 0 or 2.

    The smaller of the first and the last axis, if it is at most 16. Raises DataError where that does not decide.
    """
    if layout is not None:
        wanted = layout.upper().removeprefix("N")
        if wanted not in ("CHW", "HWC"):
            raise DataError(f"layout={layout!r} is not known; give layout='NCHW' or layout='NHWC'")
        return 0 if wanted == "CHW" else 2
    first, last = shape[0], shape[2]
    if first == last or min(first, last) > MAX_CHANNELS:
        raise DataError(f"{name}: with pictures of shape {shape} it is not clear which axis holds the channels; give "
                        "layout=\"NCHW\" or layout=\"NHWC\"")
    return 0 if first < last else 2


def _npy(blob: Blob, layout: str | None, mmap_mode: Any = None) -> np.ndarray:
    """(C, H, W) view of a file with one picture (H, W), (C, H, W) or (H, W, C)."""
    try:
        source: Any = io.BytesIO(blob.data) if isinstance(blob.data, bytes) else blob.data
        array = np.load(source, mmap_mode=None if isinstance(blob.data, bytes) else mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise Unreadable(blob.name, _reason(error)) from error
    if array.dtype.kind not in "biuf":
        raise Unreadable(blob.name, f"it holds {array.dtype}, not numbers")
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        raise Unreadable(blob.name, f"it has {array.ndim} axes {array.shape}; a picture has (H, W), (C, H, W) or (H, "
                                    f"W, C)")
    return array if channel_axis(array.shape, layout, blob.name) == 0 else np.moveaxis(array, -1, 0)


def _needs_tifffile(blob: Blob) -> bool:
    """Whether a TIFF is more than the pictures Pillow holds: one page, up to 4 channels of 8 bits, or grey of 16."""
    if blob.ending not in (".tif", ".tiff"):
        return False
    try:
        import tifffile
    except (ImportError, RuntimeError, OSError):
        return _beyond_pillow(blob)
    try:
        with tifffile.TiffFile(_stream(blob)) as file:
            page = file.pages[0]
            assert isinstance(page, tifffile.TiffPage)
            bits, channels = page.bitspersample, page.samplesperpixel
            plain = page.sampleformat == 1 and (bits <= 8 or (bits == 16 and channels == 1))
            return len(file.pages) > 1 or channels > 4 or not plain
    except (*BROKEN, tifffile.TiffFileError):
        return False  # Pillow's message names what is broken


def _beyond_pillow(blob: Blob) -> bool:
    """The same without tifffile, which `_tiff` will then ask for."""
    try:
        with Image.open(_stream(blob)) as image:
            bits = getattr(image, "tag_v2", {}).get(258, 8)  # BitsPerSample, one a channel
            deep = (max(bits) if isinstance(bits, tuple) else int(bits)) > 8 and image.mode not in _DEEP
            return image.mode in ("F", "I") or deep or getattr(image, "n_frames", 1) > 1
    except BROKEN:
        return True


def _tiff(blob: Blob) -> np.ndarray:
    tifffile = _import_tifffile(blob.name)
    broken = (*BROKEN, tifffile.TiffFileError, KeyError, TypeError, RuntimeError)  # codecs raise the last three
    try:
        with tifffile.TiffFile(_stream(blob)) as file:
            series = file.series[0]
            array, axes = series.asarray(), series.axes
    except ImportError as error:
        raise DataError(f"{blob.name} needs a TIFF codec: pip install imagecodecs ({error})") from error
    except broken as error:
        raise Unreadable(blob.name, _reason(error)) from error
    if "Y" not in axes or "X" not in axes:
        raise Unreadable(blob.name, f"it has the axes {axes}, not a picture's")
    order = [i for i, axis in enumerate(axes) if axis not in "YX"] + [axes.index("Y"), axes.index("X")]
    array = array.transpose(order)
    return to_plain(array.reshape(-1, *array.shape[-2:]))


def _import_tifffile(name: str) -> Any:
    try:
        import tifffile
    except (ImportError, RuntimeError, OSError) as error:
        raise DataError(f"{name} is a TIFF with many channels, pages or float values; reading it needs tifffile: "
                        f"pip install anymask[images] ({error})") from error
    return tifffile


def _stream(blob: Blob) -> Any:
    return io.BytesIO(blob.data) if isinstance(blob.data, bytes) else blob.data


def _channels_of(image: Image.Image) -> tuple[int, str]:
    if image.mode in _DEEP:
        return 1, "uint16"
    if image.mode == "F":
        return 1, "float32"
    return (1 if image.mode in ("1", "L", "LA", "La") else 3), "uint8"


_TRAILERS: dict[str, Callable[[bytes], bool]] = {
    "JPEG": lambda tail: b"\xff\xd9" in tail,
    "PNG": lambda tail: b"IEND" in tail,
    "GIF": lambda tail: b";" in tail,
}


def _looks_cut(blob: Blob, image: Image.Image) -> bool:
    """Whether the end of file lacks the format's end mark: a suspicion only, as some files have bytes appended."""
    whole = _TRAILERS.get(image.format or "")
    if whole is None:
        return image.format in ("BMP", "WEBP", "PPM", "TIFF") and _shorter_than_told(blob, image)
    if isinstance(blob.data, bytes):
        return not whole(blob.data[-64:])
    with blob.data.open("rb") as file:
        file.seek(max(0, blob.data.stat().st_size - 64))
        return not whole(file.read())


def _shorter_than_told(blob: Blob, image: Image.Image) -> bool:
    """For formats without an end mark: compares the size with the one in the header, or with the raw pixels'."""
    size = len(blob.data) if isinstance(blob.data, bytes) else blob.data.stat().st_size
    if image.format in ("BMP", "PPM"):
        return size < image.width * image.height * len(image.getbands()) * (image.mode != "1")
    return size < 4096 or image.format == "TIFF"  # WebP fails at opening; TIFF strips lie anywhere: decode to know


def _reason(error: BaseException) -> str:
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "the file is not there"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture in any known format, or its header is broken"
    return f"{error}" or type(error).__name__
