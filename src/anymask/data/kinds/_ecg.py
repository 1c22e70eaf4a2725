"""Electrocardiograms in wfdb records (.hea with .dat or .mat): leads, rates, filters, beats, parts by time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, Unreadable

RATE = 250  # moments a second, unless all records have fewer (ST-MEM, arXiv:2402.09450, and its code)
BAND = (0.67, 40.0)  # Hz that pass: without the drift of the baseline and the noise of muscles (as ST-MEM's code)
BLOCK = 60.0  # seconds: a record is divided into training, validation and test by blocks of at most so many
STANDARD = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6", "VX", "VY", "VZ")
# Signals beside the electrocardiogram, as monitors call them: recorded in mV as well where a header gives no unit.
OTHERS = frozenset(
    ["abp", "art", "pap", "cvp", "icp", "bp", "pleth", "ppg", "spo2", "resp", "co2", "eeg", "emg", "eog", "pulse"]
)
VOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "v": 1e3}  # in mV
BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")  # annotations that are beats (wfdb; PhysioBank's codes)
ANNOTATORS = ("atr", "ecg", "qrs")


class Header(NamedTuple):
    """What a header file says; leads by usual name, each its place among the record's signals and its unit in mV."""

    path: Path  # without an ending
    rate: float
    length: int  # moments at that rate
    leads: dict[str, tuple[int, float]]
    left_out: tuple[str, ...]


def library() -> Any:
    try:
        import wfdb
    except ImportError as error:
        raise DataError("wfdb records are read by the library wfdb: pip install 'anymask[ecg]'") from error
    return wfdb


def canonical(name: str) -> str:
    """Standard leads in their usual spelling, others as they are."""
    known = {lead.lower(): lead for lead in STANDARD}
    plain = name.strip()
    return known.get(plain.lower(), plain)


def read_header(path: Path, ignore: Sequence[str] = ()) -> Header:
    """
    Raises:
        Unreadable: it is no header, its signals lie elsewhere, or none is an electrocardiogram.
    """
    wfdb, name = library(), path.name
    path = path.with_suffix("") if path.suffix == ".hea" else path
    try:
        found = wfdb.rdheader(str(path))
        signals, length, rate = found.sig_name, found.sig_len, float(found.fs)
        units = found.units or []
    # A damaged header shows itself in wfdb by whatever breaks first on the way.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OSError) as error:
        raise Unreadable(name, f"it is no wfdb header ({type(error).__name__}: {error})") from error
    if not signals or not length or not math.isfinite(rate) or rate <= 0:
        raise Unreadable(name, "it names no signals of a known length and rate")
    missing = sorted({file for file in found.file_name or () if not (path.parent / file).is_file()})
    if missing:
        raise Unreadable(name, f"its signals are in {missing[0]}, which is not there")
    leads: dict[str, tuple[int, float]] = {}
    left_out = []
    for place, (signal, unit) in enumerate(zip(signals, units)):
        lead, volts = canonical(str(signal)), VOLTS.get(str(unit).strip().lower())
        if volts is None or str(signal).strip().lower() in OTHERS:
            left_out.append(lead)
        elif lead not in ignore and str(signal) not in ignore and lead not in leads:
            leads[lead] = (place, volts)
    if not leads:
        told = ", ".join(map(str, signals))
        raise Unreadable(name, f"none of its signals ({told}) is a lead of an electrocardiogram")
    return Header(path, rate, int(length), leads, tuple(left_out))


def in_order(leads: Sequence[str]) -> tuple[str, ...]:
    """The twelve and Frank's leads in their usual order, others behind them as they come."""
    distinct = dict.fromkeys(leads)
    return (*(lead for lead in STANDARD if lead in distinct), *(lead for lead in distinct if lead not in STANDARD))


def read_signals(header: Header, leads: Sequence[str], rate: float) -> np.ndarray:
    """(L, T) float32 in mV at a rate, filtered; NaN where the record lacks a lead or a value.

    Raises:
        Unreadable: the file of the signals is cut off or damaged.
    """
    try:
        found = library().rdrecord(str(header.path), physical=True)
        values = np.asarray(found.p_signal, dtype=np.float64)  # T n
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OSError) as error:
        raise Unreadable(header.path.name, f"its signals cannot be read ({type(error).__name__}: {error})") from error
    if len(values) < header.length:
        raise Unreadable(header.path.name, f"it has {len(values):,} of the {header.length:,} moments of its header")
    rows = {}
    for lead in leads:
        if lead in header.leads:
            place, volts = header.leads[lead]
            rows[lead] = prepared(volts * values[:, place], header.rate, rate)
    out = np.full((len(leads), moments(header, rate)), np.nan, dtype=np.float32)
    for n, lead in enumerate(leads):
        if lead in rows:
            out[n] = rows[lead][: out.shape[1]]
    return out


def moments(header: Header, rate: float) -> int:
    """Length of a record at another rate."""
    return math.ceil(header.length * rate / header.rate)


def prepared(x: np.ndarray, rate: float, wanted: float) -> np.ndarray:
    """(T,) a lead at another rate, without what is below and above `BAND`; NaN where it was."""
    from fractions import Fraction

    from scipy.signal import butter, resample_poly, sosfiltfilt

    gone = ~np.isfinite(x)
    if gone.all():
        return np.full(math.ceil(len(x) * wanted / rate), np.nan)
    if gone.any():
        there = np.flatnonzero(~gone)
        x = np.interp(np.arange(len(x)), there, x[there])
    x = x - np.median(x)  # what is padded with 0 at the ends
    if wanted != rate:
        ratio = Fraction(wanted).limit_denominator(1000) / Fraction(rate).limit_denominator(1000)
        x = resample_poly(x, ratio.numerator, ratio.denominator)
    high = min(BAND[1], 0.45 * wanted)
    sos = butter(2, (BAND[0], high), btype="band", fs=wanted, output="sos")
    if len(x) > 3 * (2 * len(sos) + 1):
        x = sosfiltfilt(sos, x)
    if gone.any():
        place = np.minimum((np.arange(len(x)) * rate / wanted).round().astype(int), len(gone) - 1)
        x = np.where(gone[place], np.nan, x)
    return x


def beats(header: Header, rate: float) -> tuple[np.ndarray, list[str]] | None:
    """Moments (at a rate) and symbols of a record's annotated beats; None where there is no file of annotations.

    Raises:
        DataError: the file is damaged.
    """
    kinds = [kind for kind in ANNOTATORS if header.path.with_name(f"{header.path.name}.{kind}").is_file()]
    if not kinds:
        return None
    try:
        found = library().rdann(str(header.path), kinds[0])
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{header.path.name}.{kinds[0]} cannot be read as annotations ({error}); download it again"
                        ) from error
    chosen = [n for n, symbol in enumerate(found.symbol) if symbol in BEATS]
    place = np.round(np.asarray(found.sample)[chosen] * rate / header.rate).astype(int)
    return place, [found.symbol[n] for n in chosen]


# Parts by time.


class Blocks(NamedTuple):
    """The part of each block of a record, 0 training, 1 validation, 2 test, and the moments of a block."""

    parts: np.ndarray
    size: int

    def spans(self, part: int, length: int) -> list[tuple[int, int]]:
        """Stretches (from, to) of neighbouring blocks of a part; the last block ends with the record."""
        out: list[tuple[int, int]] = []
        for n in np.flatnonzero(self.parts == part).tolist():
            end = length if n == len(self.parts) - 1 else (n + 1) * self.size
            if out and out[-1][1] == n * self.size:
                out[-1] = (out[-1][0], end)
            else:
                out.append((n * self.size, end))
        return out


def blocks(length: int, rate: float, window: int, shares: Sequence[float]) -> Blocks:
    """Blocks of a tenth of the record, at most a minute and at least a window, given to the parts as evenly over time
    as their shares allow."""
    size = int(min(BLOCK * rate, max(window, length // 10)))
    given, parts = np.zeros(3), []
    for n in range(max(1, length // size)):
        part = int(np.argmax(np.asarray(shares) * (n + 1) - given))  # the part that is furthest behind its share
        given[part] += 1
        parts.append(part)
    return Blocks(np.array(parts), size)
