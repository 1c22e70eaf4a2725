"""Sounds: (T,) float32 waveforms, mono, within -1 and 1 as files hold them, at one sampling rate for a set. Sounds of
several lengths are padded with NaN at their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import one_a_sample
from ..collate import tensor
from ..columns import ArrayColumn, Blobs, Column
from ..errors import DataError, Unreadable, nothing_readable, some
from ..kind import Kind, Meter, Settled, Value
from ..labels import classes_or_numbers
from ..options import Options
from ..schema import Field
from ..source import Source
from . import _mel, _sounds
from ._sound_columns import Decoder, ListColumn, Mono, ObjectReader, held, rate_of

LONGEST = 10.0  # seconds of a training sample, unless asked for (Audio-MAE, arXiv:2207.06405, section 4.2)
ENOUGH_SECONDS, ENOUGH_SOUNDS = 1200.0, 64  # that the figures of a schema are taken from
CEPSTRA = 20  # of each frame, for the classical baseline
EXAMPLE = (4_000, 1_600)  # rate and samples of made-up sounds


class AudioKind(Kind):
    name = "audio"
    endings = _sounds.ENDINGS
    recipe = "audio-mae"
    renderer = "anymask.reports.spectrograms:Spectrograms"
    elastic = varies = True
    classics = ("MFCC",)
    samples_seen, most_epochs = 60_000, 120

    def open(self, spec: Any, options: Options) -> Source | None:
        labels = options.label
        if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], list):
            spec, labels = spec
        if options.kind != self.name or not isinstance(spec, list):
            return None
        rate = _asked_rate(options, "a list")
        reader = ObjectReader(rate=rate)
        try:
            sounds = [reader(item, f"sound {n} of the list") for n, item in enumerate(spec)]
        except Unreadable as error:
            raise DataError(str(error)) from error
        if not sounds:
            raise DataError("the list of sounds is empty")
        numbers = names = targets = None
        if labels is not None:
            numbers, names, targets = classes_or_numbers(one_a_sample(labels, len(sounds), "labels", "list"))
        return Source(name="sounds", columns={self.name: ListColumn(self, sounds, rate)}, labels=numbers,
                      label_names=names, targets=targets, strict=options.strict)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        heads: dict[int, _sounds.Header] = {}
        bad: dict[int, str] = {}
        for row in range(len(blobs)):
            try:
                if blobs.nbytes(row) == 0:
                    raise Unreadable(blobs[row].name, "the file is empty (0 bytes)")
                heads[row] = _sounds.header(blobs[row])
            except Unreadable as error:
                bad[row] = error.reason
        if not heads:
            row = next(iter(bad))
            raise DataError(f"none of {len(blobs)} sound files can be read; first: {blobs[row].name} ({bad[row]}); "
                            "save them again, or give others")
        rates = Counter(head.rate for head in heads.values())
        rate = _rate(options) or rates.most_common(1)[0][0]
        lengths = np.zeros(len(blobs), dtype=np.int64)
        for row, head in heads.items():
            lengths[row] = _sounds.length_at(head.length, head.rate, rate)
        same = len({int(lengths[row]) for row in heads}) == 1
        return Settled(Decoder(rate=rate), (int(lengths.max()),) if same else None, "float32", bad,
                       _notes(heads, blobs, rate), lengths)

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        if options.kind != self.name or array.ndim not in (2, 3) or array.dtype.kind not in "iuf":
            return None
        column = ArrayColumn(self, array, dtype="float32", mapped=isinstance(array, np.memmap),
                             convert=Mono(channels=array.ndim == 3, name=name),
                             reopen=partial(np.load, array.filename, mmap_mode="r", allow_pickle=False)
                             if isinstance(array, np.memmap) and array.filename else None)
        column.shape = array.shape[-1:]
        column.about = {"rate": _asked_rate(options, name)}
        return column

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Value] | None:
        if isinstance(example, Mapping) and {"array", "sampling_rate"} <= set(example):
            return ObjectReader(rate=_rate(options) or int(example["sampling_rate"]))
        if options.kind != self.name or not isinstance(example, (Tensor, np.ndarray)) or example.ndim not in (1, 2):
            return None
        return ObjectReader(rate=_asked_rate(options, "a dataset of arrays"))

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None and (not isinstance(size, int) or size < 1):
            raise DataError(f"size={size!r} (--image-size) of '{name}' is the longest training sample in seconds, such "
                            "as 5")
        return AudioMeter(name, size, rate_of(column))

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        return None  # files and arrays are checked as they are decoded

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return value.shape

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        """Longer sounds are cut at a random place, or in the middle; shorter ones stay."""
        if augment is not None and rng is not None:
            value = augment(value, rng, field.shape)
        spare = len(value) - field.shape[0]
        if spare <= 0:
            return value
        start = spare // 2 if rng is None else int(rng.integers(spare + 1))
        return value[start : start + field.shape[0]]

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return self.fit(value, field, None, None)

    def absent(self, field: Field) -> np.ndarray:
        return np.zeros(0, dtype=np.float32)

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(B, T) with NaN behind the end of a sound: no extents."""
        step = multiple if isinstance(multiple, int) else multiple[-1]
        longest = -(-max(1, *(len(value) for value in values)) // step) * step
        if all(len(value) == len(values[0]) for value in values) and len(values[0]):
            longest = len(values[0])
        out = np.full((len(values), longest), np.nan, dtype=np.float32)
        for row, value in zip(out, values):
            row[: len(value)] = value
        return tensor(out), None

    def align(self, column: Column, field: Field) -> Column:
        return held(column, int(field.more["rate"]))

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        rates = [int(field.more["rate"]) for field in (trained, given)]
        if rates[0] == rates[1]:
            return []
        return [f"the sounds of {given_by} are at {rates[1]:,} Hz; they are resampled to the {rates[0]:,} Hz of "
                f"{trained_on}, which the model was trained on"]

    def describe(self, field: Field) -> list[tuple[str, str]]:
        rate, front = int(field.more["rate"]), front_of(field)
        low, median, high = (size[0] / rate for size in field.sizes)
        seen = f"{low:.3g} s" if low == high else f"{low:.3g} to {high:.3g} s, median {median:.3g} s"
        patch = " x ".join(map(str, self.patch(field)))
        return [(field.name, f"{rate:,} Hz, mono, {field.low:.3g} to {field.high:.3g}"),
                (f"{field.name} length", f"{seen}; trained at {field.shape[0] / rate:.3g} s at most"),
                (f"{field.name} spectrogram", f"{front.mels} mel bands, {front.low:g} to {front.high:g} Hz, windows of "
                 f"{1000 * front.window / rate:.3g} ms every {1000 * front.hop / rate:.3g} ms; patches of {patch}"),
                (f"{field.name} level", f"{np.mean(field.mean):.3g} dB in a band on average, spread "
                                        f"{np.mean(field.std):.3g} dB")]

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        """The log-mel spectrogram, from the start to the training length, the mean of a band where nothing is."""
        x, there = self.spectrogram(values, field)
        frames = _mel.frames_of(field.shape[0], front_of(field))
        x = torch.where(there[:, None], x, 0.0)[..., :frames]
        x = torch.nn.functional.pad(x, (0, frames - x.shape[2]))
        step = _averaged(field, limit)
        x = torch.nn.functional.pad(x, (0, -frames % step)).unflatten(2, (-1, step)).mean(3)
        return x.flatten(1)

    def flattened(self, field: Field, limit: int) -> str:
        step = _averaged(field, limit)
        return "the log-mel spectrogram, standardised by band" + f", averaged over {step} frames" * (step > 1)

    def classical(self, values: Tensor, field: Field) -> dict[str, Tensor]:
        """Mean and spread over time of mel-frequency cepstral coefficients and of their differences between frames
        (Davis & Mermelstein 1980)."""
        from scipy.fft import dct

        x, there = self.spectrogram(values, field)
        x = x * torch.tensor(field.std)[:, None] + torch.tensor(field.mean)[:, None]
        cepstra = torch.from_numpy(dct(x.numpy(), axis=1, norm="ortho")[:, :CEPSTRA])  # B c frames
        both = torch.cat([cepstra, torch.diff(cepstra, dim=2, prepend=cepstra[..., :1])], 1)
        there = there[:, None].float()
        count = there.sum(2).clamp(min=1)
        mean = (both * there).sum(2) / count
        spread = (((both - mean[..., None]).square() * there).sum(2) / count).sqrt()
        return {"MFCC": torch.cat([mean, spread], 1)}

    def spectrogram(self, values: Tensor, field: Field) -> tuple[Tensor, Tensor]:
        """Waveforms (B, T), NaN behind their end -> log-mel spectrograms (B, mels, frames) standardised by band, and
        which frames lie in the sound, (B, frames)."""
        front = front_of(field)
        length = (~values.isnan()).sum(1)
        x = _mel.log_mel(values.nan_to_num(), front)
        x = (x - torch.tensor(field.mean)[:, None]) / torch.tensor(field.std)[:, None]
        return x, torch.arange(x.shape[2]) * front.hop < length[:, None]

    def example_field(self, name: str) -> Field:
        meter = AudioMeter(name, None, EXAMPLE[0])
        for n, value in enumerate(tones(64, EXAMPLE[1], EXAMPLE[0], 0)):
            meter.add(str(n), value)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return self.pad(tones(count, field.shape[0], int(field.more["rate"]), seed), 8)[0]

    def patch(self, field: Field) -> tuple[int, ...]:
        """An eighth of the bands, as the papers' 16 of 128, and 16 frames where the median sound has 200 and more, 8
        from 60 on, else 4."""
        front = front_of(field)
        frames = _mel.frames_of(field.sizes[1][0], front)
        return front.mels // 8, 16 if frames >= 200 else 8 if frames >= 60 else 4

    def augmentable(self, field: Field) -> str:
        return "sounds are used as they are, but for a random part of long ones: not augmented"

    def model_size(self, field: Field) -> str:
        return "nano"


def front_of(field: Field) -> _mel.FrontEnd:
    """The front end that the field's figures were measured with: the default of its rate."""
    return _mel.front_end(int(field.more["rate"]))


def _averaged(field: Field, limit: int) -> int:
    """Frames that plain input is averaged over."""
    front = front_of(field)
    return max(1, -(-front.mels * _mel.frames_of(field.shape[0], front) // limit))


def _rate(options: Options) -> int | None:
    """The sampling rate that is asked for."""
    rate = options.rate
    if rate is not None and (not isinstance(rate, int) or rate < 1):
        raise DataError(f"rate={rate!r} (--rate) is the sampling rate of sounds in whole Hz, as 16000")
    return rate


def _asked_rate(options: Options, what: str) -> int:
    rate = _rate(options)
    if rate is None:
        raise DataError(f"{what} does not say the sampling rate of its sounds; give rate= (--rate), as 16000")
    return rate


def _notes(heads: Mapping[int, _sounds.Header], blobs: Blobs, rate: int) -> list[str]:
    notes = []
    other = [row for row, head in heads.items() if head.rate != rate]
    if other:
        told = some([f"{blobs[row].name} at {heads[row].rate:,} Hz" for row in other[:1]])
        notes.append(f"{len(other):,} of {len(heads):,} sounds have another sampling rate (first: {told}); they are "
                     f"resampled to {rate:,} Hz")
    several = sum(head.channels > 1 for head in heads.values())
    if several:
        notes.append(f"{several:,} of {len(heads):,} sounds have several channels, which are averaged")
    return notes


class AudioMeter(Meter):
    """Lengths, and mean and spread of the log-mel spectrogram by band."""

    def __init__(self, name: str, size: int | None, rate: int) -> None:
        self.name, self.size, self.rate, self.front = name, size, rate, _mel.front_end(rate)
        self.lengths: list[int] = []
        self.seen = self.frames = 0
        self.total = np.zeros(self.front.mels)
        self.square = np.zeros(self.front.mels)
        self.low, self.high = np.inf, -np.inf

    def add(self, name: str, value: Value | None) -> None:
        self.seen += 1
        if value is None:
            return
        _sounds.finite(value, name)
        start = torch.from_numpy(np.ascontiguousarray(value[: int(60 * self.rate)]))
        # Sums of squares of shifted values keep their digits.
        x = _mel.log_mel(start[None], self.front)[0].double().numpy() + 50.0
        self.total += x.sum(1)
        self.square += np.square(x).sum(1)
        self.frames += x.shape[1]
        self.low, self.high = min(self.low, float(value.min())), max(self.high, float(value.max()))
        self.lengths.append(len(value))
        self.full = sum(self.lengths) > ENOUGH_SECONDS * self.rate and len(self.lengths) >= ENOUGH_SOUNDS

    def field(self) -> Field:
        if not self.lengths:
            raise nothing_readable(self.name)
        if self.low == self.high:
            raise DataError(f"all sounds that were looked at hold nothing but {self.low:g} in '{self.name}'; look "
                            "whether the right files or column were read")
        mean = self.total / self.frames
        spread = np.sqrt(np.maximum(self.square / self.frames - mean**2, 0))
        most = int((self.size or LONGEST) * self.rate)
        sizes = tuple((int(np.quantile(self.lengths, q, method="nearest")),) for q in (0, 0.5, 1))
        longest = min(most, sizes[2][0])
        return Field(name=self.name, kind=KIND.name, dtype="float32", shape=(longest,), sizes=sizes, low=self.low,
                     high=self.high, mean=tuple((mean - 50.0).tolist()),
                     std=tuple(np.where(spread > 1e-3, spread, 1.0).tolist()),
                     missing=1 - len(self.lengths) / self.seen, notes=self._notes(longest), more={"rate": self.rate})

    def _notes(self, longest: int) -> tuple[str, ...]:
        share = float(np.mean(np.array(self.lengths) > longest))
        if not share:
            return ()
        return (f"{share:.1%} of the sounds are longer than {longest / self.rate:.3g} s: training takes a part at a "
                "random place, other uses the middle; size= (--image-size) takes longer ones, in seconds",)


def tones(count: int, samples: int, rate: int, seed: int) -> list[np.ndarray]:
    """Made-up sounds: a tone with overtones that glides and swells, in a little noise; every third is shorter."""
    rng = np.random.default_rng([seed, 2])
    found = []
    for n in range(count):
        t = np.arange(samples * 2 // 3 if n % 3 == 1 else samples) / rate
        pitch = rng.uniform(0.04, 0.1) * rate * (1 + rng.uniform(-0.4, 0.4) * t * rate / samples)
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        swell = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t + rng.uniform(0, 6))
        wave = sum(np.sin(k * phase) / k for k in (1, 2, 3)) * swell
        found.append((0.2 * wave + 0.003 * rng.normal(size=len(t))).astype(np.float32))
    return found


KIND = AudioKind()
