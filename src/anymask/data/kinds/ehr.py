"""Health records: a value is one stay, (n, 3) float32 of measurements: the number of the code, its value (NaN =
missing), and the hour since the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..columns import Blobs, Column
from ..errors import DataError, SchemaError, some
from ..kind import Kind, Meter, Settled, Value
from ..options import Options
from ..schema import Field
from ..source import Source
from . import _events
from ._events import Events

LONGEST = 128  # measurements of a stay that are looked at together, unless asked for
MOST_CODES = 500
KNOTS = 33  # of the distribution of a code's values
UNCUT = 2**20  # more measurements than a stay has
AGGREGATES = ("mean", "least", "largest", "first", "last")  # of a code's values in a stay, for baselines
EXAMPLE, EXAMPLE_CODES = 24, 6  # measurements and codes of made-up stays


class EventColumn(Column):
    """The measurements of all stays, one stay after another."""

    dtype, shape, in_memory = "float32", None, True

    def __init__(self, events: Events) -> None:
        self.kind, self.names, self.ends = KIND, events.names, events.ends
        self.table = np.stack([events.codes.astype(np.float32), events.values, events.hours], 1)  # E 3

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, row: int) -> np.ndarray:
        return self.table[self.ends[row - 1] if row else 0 : self.ends[row]]

    def lengths(self) -> np.ndarray:
        return np.diff(self.ends, prepend=0)

    def raw(self, row: int) -> bytes:
        value = self.read(row)
        return value[:, 1:].tobytes() + "\0".join(self.names[int(code)] for code in value[:, 0]).encode()

    def nbytes(self, row: int) -> int:
        return self.read(row).nbytes

    def renumbered(self, names: tuple[str, ...]) -> EventColumn:
        """The same stays with codes numbered as in `names`; measurements of other codes are left out."""
        place = {name: n for n, name in enumerate(names)}
        number = np.array([place.get(name, -1) for name in self.names], dtype=np.int64)
        codes = number[self.table[:, 0].astype(np.int64)]
        kept = codes >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[self.ends]
        values, hours = self.table[kept, 1], self.table[kept, 2]
        return EventColumn(Events(codes=codes[kept], values=values, hours=hours, ends=ends, ids=[], names=names,
                                  notes=[]))  # fmt: skip


class EhrKind(Kind):
    name = "ehr"
    endings: frozenset[str] = frozenset()  # a file holds many stays
    recipe = "labrador"
    varies = True
    samples_seen, most_epochs = 60_000, 100

    def open(self, spec: Any, options: Options) -> Source | None:
        if options.kind not in (None, self.name):
            return None
        return _events.open_events(spec, options, EventColumn)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError("measurements are one long table (stay, time, code, value) with all stays, not a file for each")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        return None

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], Value] | None:
        return None

    def meter(self, name: str, size: Any, column: Column | None) -> Meter:
        if size is not None and (not isinstance(size, int) or size < 8):
            raise DataError(f"size={size!r} (--image-size) of '{name}' is the number of measurements of a stay that "
                            "are looked at together, 8 or more")  # fmt: skip
        return EhrMeter(name, size or LONGEST, getattr(column, "names", ()))

    def check(self, batch: np.ndarray, names: Callable[[int], str]) -> None:
        return None

    def extent(self, value: np.ndarray) -> tuple[int, ...]:
        return (len(value),)

    def fit(self, value: np.ndarray, field: Field, augment: Any, rng: np.random.Generator | None) -> np.ndarray:
        return thinned(value, field.shape[0], rng)

    def natural(self, value: np.ndarray, field: Field, limit: int) -> np.ndarray:
        return thinned(value, field.shape[0], None)

    def absent(self, field: Field) -> np.ndarray:
        return np.zeros((0, 3), dtype=np.float32)

    def pad(self, values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """(B, n, 3) with the code -1 behind the end of a stay."""
        step = multiple if isinstance(multiple, int) else multiple[0]
        longest = max(1, *(len(value) for value in values))
        out = np.zeros((len(values), -(-longest // step) * step, 3), dtype=np.float32)
        out[..., 0] = -1
        for row, value in zip(out, values):
            row[: len(value)] = value
        return torch.from_numpy(out), None

    def align(self, column: Column, field: Field) -> Column:
        same = not isinstance(column, EventColumn) or column.names == field.columns
        return column if same else column.renumbered(field.columns)  # type: ignore[attr-defined]

    def compare(self, trained: Field, given: Field, trained_on: str, given_by: str) -> list[str]:
        new = [f"'{name}'" for name in given.columns if name not in trained.columns]
        if len(new) == len(given.columns):
            raise SchemaError(f"no code of {given_by} ({some(new, 6)}) was met in training ({trained_on}: "
                              f"{some(list(trained.columns), 6)}); rename the codes")  # fmt: skip
        return [f"codes of {given_by} that were not met in training are left out: {some(new, 8)}"] if new else []

    def describe(self, field: Field) -> list[tuple[str, str]]:
        low, median, high = (size[0] for size in field.sizes)
        rows = [(field.name, f"{low:,} to {high:,} measurements a stay, median {median:,}, of {len(field.columns)} "
                             f"codes; {field.shape[0]} at most are looked at together")]  # fmt: skip
        counts = field.more["counts"]
        for n in sorted(range(len(counts)), key=lambda n: -counts[n])[:40]:
            quarter, middle, three = (np.interp(q, np.linspace(0, 1, KNOTS), field.more["knots"][n]) for q in
                                      (0.25, 0.5, 0.75))  # fmt: skip
            text = f"{counts[n]:,} measurements, median {middle:.4g} ({quarter:.4g} to {three:.4g})"
            gap = f", {field.gaps[n]:.1%} missing" if field.gaps[n] else ""
            rows.append((f"  {field.columns[n]}", text + gap))
        return rows

    def uncut(self, field: Field) -> Field:
        return replace(field, shape=(UNCUT, 3))

    def flat(self, values: Tensor, field: Field, limit: int) -> Tensor:
        """(B, 6 * codes): of the values of each code, as distances from its median in units of its spread, at most 5,
        mean, least, largest, first and last one (0 where there is none), and the logarithm of how many there are."""
        codes = len(field.columns)
        code, value = values[..., 0].long(), values[..., 1]
        centre, spread = (torch.tensor(field.more[name])[code.clamp(min=0)] for name in ("median", "spread"))
        there = (code >= 0) & ~value.isnan()
        x = torch.where(there, ((value - centre) / spread).clamp(-5, 5), 0.0)
        place = torch.where(there, code, codes)
        blank = torch.zeros(len(values), codes + 1)
        count = blank.scatter_add(1, place, there.float())
        mean = blank.scatter_add(1, place, x) / count.clamp(min=1)
        least, largest = (blank.scatter_reduce(1, place, x, how, include_self=False) for how in ("amin", "amax"))
        order = torch.arange(values.shape[1]).expand_as(code)  # a stay is in the order of its times
        ends = [blank.long().scatter_reduce(1, place, order, how, include_self=False) for how in ("amin", "amax")]
        first, last = (torch.where(count > 0, x.gather(1, end), 0.0) for end in ends)
        return torch.cat([part[:, :-1] for part in (mean, least, largest, first, last, count.log1p())], 1)

    def flattened(self, field: Field, limit: int) -> str:
        return (f"{', '.join(AGGREGATES)} value of each code and the logarithm of how many there are, of all "
                "measurements of a stay")  # fmt: skip

    def example_field(self, name: str) -> Field:
        meter = EhrMeter(name, EXAMPLE, tuple(f"code {n}" for n in range(EXAMPLE_CODES)))
        for stay in made_up(64, 0):
            meter.add("", stay)
        return meter.field()

    def examples(self, field: Field, count: int, seed: int) -> Tensor:
        return self.pad(made_up(count, seed), 8)[0]

    def model_size(self, field: Field) -> str:
        return "pico"


class EhrMeter(Meter):
    """How many measurements stays have, which codes there are, and how the values of each are distributed."""

    most = 20_000

    def __init__(self, name: str, longest: int, names: tuple[str, ...]) -> None:
        self.name, self.longest, self.names = name, longest, names
        self.stays: list[np.ndarray] = []

    def add(self, name: str, value: Value | None) -> None:
        if value is not None:
            self.stays.append(value)

    def field(self) -> Field:
        lengths = np.array([len(stay) for stay in self.stays])
        if not lengths.sum():
            raise DataError(f"no sample that was looked at has a measurement in '{self.name}'")
        table = np.concatenate(self.stays).astype(np.float64)
        codes, values = table[:, 0].astype(np.int64), table[:, 1]
        if np.isnan(values).all():
            raise DataError(f"all {len(values):,} values of '{self.name}' are missing; look whether the right column "
                            "was read: events= (--events ID,TIME,CODE,VALUE)")  # fmt: skip
        counts = np.bincount(codes, minlength=len(self.names))
        kept = np.sort(np.argsort(-counts, kind="stable")[:MOST_CODES])
        kept = kept[counts[kept] > 0]
        notes = [f"{int((counts > 0).sum()) - len(kept):,} rarer codes are left out, {MOST_CODES} are told apart"
                 ] if (counts > 0).sum() > len(kept) else []  # fmt: skip
        held = [values[(codes == n) & ~np.isnan(values)] for n in kept]
        knots = [np.quantile(v, np.linspace(0, 1, KNOTS)) if len(v) else np.zeros(KNOTS) for v in held]
        medians = [float(np.median(v)) if len(v) else 0.0 for v in held]
        spreads = [max(float(np.subtract(*np.quantile(v, (0.75, 0.25)))) / 1.349, float(v.std()) / 4, 1e-6) if len(v)
                   else 1.0 for v in held]  # fmt: skip
        long = float((lengths > self.longest).mean())
        if long:
            notes.append(f"{long:.0%} of the stays have more than {self.longest} measurements: these are thinned, rare "
                         "codes last (size=, --image-size takes more)")  # fmt: skip
        gaps = tuple(1 - len(v) / counts[n] for v, n in zip(held, kept))
        names = tuple(self.names[n] for n in kept)
        sizes = tuple((int(np.quantile(lengths, q, method="nearest")),) for q in (0, 0.5, 1))
        return Field(
            name=self.name, kind=KIND.name, dtype="float32", shape=(self.longest, 3), sizes=sizes,
            low=float(np.nanmin(values)), high=float(np.nanmax(values)), mean=(0.0,), std=(1.0,), notes=tuple(notes),
            columns=names, gaps=tuple(map(float, gaps)),
            more={"counts": counts[kept].tolist(), "knots": [k.tolist() for k in knots], "median": medians,
                  "spread": spreads},
        )  # fmt: skip


def thinned(value: np.ndarray, most: int, rng: np.random.Generator | None) -> np.ndarray:
    """At most `most` rows of a stay: as many of each code as the rarer ones leave room for, at equal distances along
    the stay, or random ones with `rng`."""
    if len(value) <= most:
        return value
    codes = value[:, 0].astype(np.int64)
    counts = np.bincount(codes)
    low, high = 0, int(counts.max())  # the most of one code: the largest that fits
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= most else (low, middle - 1)
    if not low:  # more codes than room: the rarest in this stay give way
        chosen = np.arange(len(value)) if rng is None else rng.permutation(len(value))
        return value[np.sort(chosen[:most])]
    key = np.arange(len(value)) if rng is None else rng.permutation(len(value))
    order = np.lexsort((key, codes))
    start = np.concatenate([[0], np.cumsum(counts)])[codes[order]]
    rank, count = np.arange(len(value)) - start, counts[codes[order]]
    share = np.minimum(count, low)
    kept = rank < share if rng is not None else (rank + 1) * share // count > rank * share // count
    return value[np.sort(order[kept])]


def made_up(count: int, seed: int) -> list[np.ndarray]:
    """Stays of 8 to 24 measurements in the order of their hours; one hidden number of a stay decides the values of all
    codes, one in eight of which is missing."""
    rng = np.random.default_rng([seed, 3])
    stays = []
    for n in range(count):
        size = EXAMPLE if not n else int(rng.integers(8, EXAMPLE + 1))
        code = rng.integers(0, EXAMPLE_CODES, size)
        hours = np.sort(rng.uniform(0, 48, size))
        value = 10.0 * (code + 1) + (1 + code) * (rng.normal() + 0.2 * rng.normal(size=size))
        value[rng.random(size) < 0.125] = np.nan
        stays.append(np.stack([code, value, hours], 1).astype(np.float32))
    return stays


KIND = EhrKind()
