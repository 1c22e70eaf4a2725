"""Satellite scenes from GeoTIFF and .npy files: their pixels, bands, dates and ground resolution.

Bands come from a TIFF's GDAL metadata, ground resolution from its pixel scale, values without data from its nodata tag.
A file NAME.json beside NAME.tif or NAME.npy, or metadata.json in the folder, may say more, and goes before:
{"bands": ["B02", ...], "dates": ["2019-05-01", ...], "resolution": 10}.
"""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, Unreadable
from ..kind import Blob
from ._pictures import BROKEN, _import_tifffile

TIFF = (".tif", ".tiff")
FEWEST = 5  # bands of a georeferenced TIFF that is a satellite's without being asked for
SCALE, GEOKEYS, GDAL, NODATA = 33550, 34735, 42112, 42113  # TIFF tags
DATE = re.compile(r"^(\d{4})-(\d{2})-(\d{2})")
SENTINEL2 = {  # metres of each band
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A"), 20),
    **dict.fromkeys(("B11", "B12"), 21),  # 20 m as well, but of another part of the spectrum
    **dict.fromkeys(("B01", "B09", "B10"), 60),
}


class About(NamedTuple):
    """What is known of a scene beside its pixels."""

    bands: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    resolution: float | None = None  # metres of a pixel


class Header(NamedTuple):
    """What a TIFF says before its pixels are read."""

    shape: tuple[int, int, int]  # bands, rows, columns
    georeferenced: bool
    nodata: float | None
    about: About


def canonical(band: str) -> str:
    """'b2' and 'B2' as 'B02', as Sentinel-2's bands are called; other names as they are."""
    found = re.fullmatch(r"[bB]0?(\d{1,2})", band)
    return f"B{int(found.group(1)):02d}" if found else "B8A" if band.lower() in ("b8a", "b08a") else band


def header(blob: Blob) -> Header:
    """
    Raises:
        Unreadable: a broken file, or one that is no picture of bands.
    """
    tifffile = _import_tifffile(blob.name)
    try:
        with tifffile.TiffFile(_stream(blob)) as file:
            page, series = file.pages[0], file.series[0]
            shape = _band_first(series.shape, series.axes, blob.name)
            tags = {tag.code: tag.value for tag in page.tags.values()}
    except (*BROKEN, tifffile.TiffFileError, KeyError, TypeError, RuntimeError) as error:
        raise Unreadable(blob.name, f"{error}" or type(error).__name__) from error
    scale = tags.get(SCALE)
    nodata = tags.get(NODATA)
    about = About(_names(tags.get(GDAL), shape[0]), (), float(scale[0]) if scale and _metric(tags) else None)
    try:
        empty = None if nodata is None else float(str(nodata).strip("\0 "))
    except ValueError:
        empty = None
    return Header(shape, SCALE in tags or GEOKEYS in tags, empty, about)


def _metric(tags: dict[int, Any]) -> bool:
    """Whether a TIFF's model space is projected, so that its scale is in metres."""
    keys = tags.get(GEOKEYS) or ()
    entries = {keys[n]: keys[n + 3] for n in range(4, len(keys) - 3, 4)}
    return entries.get(1024) == 1  # GTModelType: projected


def _band_first(shape: tuple[int, ...], axes: str, name: str) -> tuple[int, int, int]:
    if "Y" not in axes or "X" not in axes:
        raise Unreadable(name, f"it has the axes {axes}, not a picture's")
    rows, columns = shape[axes.index("Y")], shape[axes.index("X")]
    return int(np.prod(shape)) // (rows * columns), rows, columns


def _names(text: Any, count: int) -> tuple[str, ...]:
    """Descriptions of the bands in GDAL's metadata; none where not all have one."""
    if not text:
        return ()
    try:
        items = ET.fromstring(str(text)).iter("Item")
    except ET.ParseError:
        return ()
    found = {int(item.get("sample", -1)): (item.text or "").strip() for item in items
             if item.get("role") == "description" or item.get("name") == "DESCRIPTION"}  # fmt: skip
    return tuple(found[n] for n in range(count)) if all(found.get(n) for n in range(count)) else ()


def pixels(blob: Blob) -> np.ndarray:
    """(C, H, W) float32 of a TIFF, NaN where it says that there are no data. Raises Unreadable."""
    tifffile = _import_tifffile(blob.name)
    nodata = header(blob).nodata
    try:
        with tifffile.TiffFile(_stream(blob)) as file:
            series = file.series[0]
            array, axes = series.asarray(), series.axes
    except ImportError as error:
        raise DataError(f"{blob.name} needs a TIFF codec: pip install imagecodecs ({error})") from error
    except (*BROKEN, tifffile.TiffFileError, KeyError, TypeError, RuntimeError) as error:
        raise Unreadable(blob.name, f"{error}" or type(error).__name__) from error
    order = [n for n, axis in enumerate(axes) if axis not in "YX"] + [axes.index("Y"), axes.index("X")]
    array = array.transpose(order)
    out = array.reshape(-1, *array.shape[-2:]).astype(np.float32)
    if nodata is not None and np.isfinite(nodata):
        out[out == np.float32(nodata)] = np.nan
    return sound(out, blob.name)


def sound(scene: np.ndarray, name: str) -> np.ndarray:
    """The scene. Raises Unreadable where it holds nothing, or an infinite value."""
    if np.isinf(scene).any():
        raise Unreadable(name, "it holds an infinite value")
    if np.isnan(scene).all():
        raise Unreadable(name, "none of its pixels has data")
    return scene


def from_array(array: np.ndarray, name: str) -> np.ndarray:
    """(C, H, W) of an array (H, W, C), (C, T, H, W) of (T, H, W, C); float32, a view where it can be.

    Raises:
        DataError: another shape or type.
    """
    if array.ndim not in (3, 4) or array.dtype.kind not in "iuf":
        raise DataError(f"{name} has shape {array.shape} and type {array.dtype}; give numbers (H, W, C), or "
                        "(T, H, W, C) of several dates")
    if min(array.shape[-3:-1]) < 8:
        raise DataError(f"{name} has {array.shape[-3]} x {array.shape[-2]} pixels: too few; a satellite scene is (H, "
                        "W, C), or (T, H, W, C) of several dates")
    return np.moveaxis(array, -1, 0)


def beside(path: Path) -> About:
    """What NAME.json beside a file, or metadata.json in its folder, says. Raises DataError for what makes no sense."""
    for file in (path.with_suffix(".json"), path.parent / "metadata.json"):
        if not file.is_file():
            continue
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            bands, dates = (tuple(str(v) for v in told.get(key, ())) for key in ("bands", "dates"))
            resolution = None if told.get("resolution") is None else float(told["resolution"])
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{file} does not say what a scene is ({error}); write such as {{\"bands\": [\"B02\"], "
                            "\"dates\": [\"2019-05-01\"], \"resolution\": 10}") from error
        wrong = next((date for date in dates if not DATE.match(date)), None)
        if wrong is not None:
            raise DataError(f"{file}: {wrong!r} is no date; write dates as 2019-05-01")
        return About(bands, dates, resolution)
    return About()


def merged(first: About, second: About) -> About:
    """What the first says, and where it is silent, the second."""
    return About(first.bands or second.bands, first.dates or second.dates, first.resolution or second.resolution)


def _stream(blob: Blob) -> Any:
    return io.BytesIO(blob.data) if isinstance(blob.data, bytes) else blob.data
