"""Batches for training and in order.

A training batch is a function of (seed, step): epoch e is a permutation keyed by (seed, e), epochs follow one another
without a gap, and micro-step s takes positions s*B*world .. (s+1)*B*world - 1, rank r the r-th B of them. The dataset that
torch's DataLoader works on is therefore the sequence of steps, and starting anywhere costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from .. import keyed
from .collate import Batch, marks, stack
from .errors import DataError
from .schema import Field, Schema
from .source import AnySource, Sample, Source
from .stream import StreamSource

ORDER = 2**64 - 1  # the sample number under which orders are drawn: no sample has it
BUFFER = 1_000  # streams are shuffled in blocks of so many samples, at least
BATCH_PIXELS = 2**26  # positions (H x W x B) in one ordered batch; a fuller one is handed out in parts
Augments = Any  # a callable, or a mapping from part to callable


class Loader:
    """Iterable over batches, with `source`, `schema` and `workers`. `len` is the number of steps.

    What workers could not read is named in `source.skipped`; errors of workers are raised here as they were.
    """

    def __init__(self, source: AnySource, schema: Schema, steps: Dataset[Any], length: int, workers: int) -> None:
        self.source, self.schema, self.workers, self._length = source, schema, workers, length
        self._loader = DataLoader(steps, batch_size=None, num_workers=workers, persistent_workers=workers > 0,
                                  generator=torch.Generator())  # its own, so that the global state stays untouched

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        for result, skipped in self._loader:
            if isinstance(result, Exception):
                raise result
            self._report(skipped)
            yield from result

    def _report(self, skipped: Any) -> None:
        if isinstance(self.source, Source):
            for row, reason in skipped.items():
                self.source.mark_bad(row, reason)
        else:
            self.source.skipped += [s for s in skipped if s not in self.source.skipped]


def training_loader(source: AnySource, schema: Schema, *, batch_size: int, steps: int, start: int = 0, seed: int,
                    augment: Augments | None = None, workers: int | Literal["auto"] = "auto", rank: int = 0,
                    world: int = 1) -> Loader:
    """Batches of micro-steps start .. steps-1.

    A batch has every part of the schema, (B, *shape) in its raw dtype (uint16 as int32); `index` (B,), the sample's
    number in the source; `key` (B,) = keyed.keys(seed, step, index); `label` (B,) where there are labels; and
    `<part>.present` (B,) bool where a part is missing in some. `augment` is called as augment(array, generator, (H, W));
    for several parts give a mapping from part to callable. Images of another size than the schema's are then scaled to
    cover it and cropped at a random place. An unreadable sample is replaced by the next readable one.

    `workers="auto"`: none where the set lies in memory, else the cores but one, at most 8. A stream is shuffled in blocks
    of at least 1,000 samples, whose undecoded records are held in memory; resuming costs what the stream's skipping
    costs; every worker passes over all undecoded records, so "auto" takes one; `index` is the position in a pass.

    Raises DataError for a batch larger than the set, and impossible arguments.
    """
    if batch_size < 1 or steps < start or start < 0 or not 0 <= rank < world:
        raise DataError(f"training_loader needs batch_size >= 1, 0 <= start <= steps and 0 <= rank < world; got "
                        f"batch_size={batch_size}, start={start}, steps={steps}, rank={rank}, world={world}")
    if source.count is not None and batch_size * world > source.count:
        raise DataError(f"a batch of {batch_size}{f' on {world} devices' * (world > 1)} is larger than {source.name} with "
                        f"{source.count} samples; lower --batch-size to {max(1, source.count // world)} or less")
    plan = dict(schema=schema, batch_size=batch_size, steps=steps, start=start, seed=seed,
                augment=_augments(augment, schema), rank=rank, world=world)
    dataset: Dataset[Any]
    if isinstance(source, StreamSource):
        dataset = StreamSteps(source, **plan)
        count = _workers(workers, False, most=1)
    else:
        cached = source.cached()
        dataset = Steps(cached, **plan)
        count = _workers(workers, cached.in_memory)
        source = cached if cached is not source else source
    return Loader(source, schema, dataset, steps - start, count)


def ordered_loader(source: AnySource, schema: Schema, *, batch_size: int, workers: int | Literal["auto"] = 0,
                   size: int | tuple[int, int] | None = None, multiple: int = 1, max_side: int = 1024) -> Loader:
    """Every sample once, in order, nothing random; keys are keyed.keys(0, 0, index).

    Images keep their sizes: within a batch they are padded with 0 at the bottom and right to a multiple of `multiple`,
    and `extent` (B, 2) int64 has the true (H, W); it is absent where every image fills its batch. With several such parts
    the name is `<part>.extent`. A side longer than `max_side` is scaled down to it; `size`, one side or (H, W), makes all
    images one size instead (short side resized, centre cropped). A batch of more than 2**26 positions is handed out in
    parts, so there may be more batches than `len`. A sample that cannot be read is left out and named in
    `source.skipped`: `index` says which samples are there.
    """
    if batch_size < 1 or multiple < 1 or max_side < 1:
        raise DataError(f"ordered_loader needs positive numbers; got batch_size={batch_size}, multiple={multiple}, "
                        f"max_side={max_side}")
    if isinstance(source, StreamSource):
        raise DataError(f"{source.name} is a stream, which has no end that is known; open it without streaming=True, or "
                        "take a part of it: list(itertools.islice(source.iterate(0), n))")
    fixed = None if size is None else (size, size) if isinstance(size, int) else size
    dataset = OrderedSteps(source, schema, batch_size, fixed, multiple, max_side)
    return Loader(source, schema, dataset, len(dataset), _workers(workers, source.in_memory))


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """(count,) the permutation of epoch `epoch`."""
    return keyed.generator(seed, epoch, ORDER).permutation(count)


def _workers(asked: int | str, in_memory: bool, most: int = 8) -> int:
    if isinstance(asked, int):
        return asked
    return 0 if in_memory else max(1, min(most, (os.cpu_count() or 1) - 1))


def _augments(augment: Augments | None, schema: Schema) -> dict[str, Callable[..., Any] | None]:
    if isinstance(augment, Mapping):
        unknown = sorted(set(augment) - set(schema.fields))
        if unknown:
            raise DataError(f"augment names the unknown part '{unknown[0]}'; there is: {', '.join(schema.fields)}")
        return {name: augment.get(name) for name in schema.fields}
    if augment is not None and len(schema.fields) > 1:
        raise DataError(f"the data have several parts; give augment as a mapping from part ({', '.join(schema.fields)}) "
                        "to augmentation")
    return dict.fromkeys(schema.fields, augment)


class _Training:
    """What map-style and streamed training steps share."""

    def __init__(self, source: Any, *, schema: Schema, batch_size: int, steps: int, start: int, seed: int,
                 augment: dict[str, Callable[..., Any] | None], rank: int, world: int) -> None:
        self.source, self.schema, self.batch_size, self.steps, self.start = source, schema, batch_size, steps, start
        self.seed, self.augment, self.rank, self.world = seed, augment, rank, world
        self.kinds = source.kinds

    def build(self, samples: list[Sample], index: np.ndarray, labels: np.ndarray | None, step: int) -> Batch:
        out: Batch = {}
        for name, field in self.schema.fields.items():
            values = [self._fit(name, field, s[name], step, int(i)) for s, i in zip(samples, index)]
            out[name], present = stack(values, field.shape, field.dtype)
            if present is not None:
                out[f"{name}.present"] = present
        return {**out, **marks(index, labels, self.seed, step)}

    def _fit(self, name: str, field: Field, value: np.ndarray | None, step: int, index: int) -> np.ndarray | None:
        augment = self.augment[name]
        if value is None or (augment is None and value.shape == field.shape):
            return value
        return self.kinds[name].fit(value, field, augment, keyed.generator(self.seed, step, index))


class Steps(_Training, Dataset[Any]):
    """Item n is the batch of step start + n: ([batch], row -> reason of what was unreadable), or an error."""

    def __init__(self, source: Source, **plan: Any) -> None:
        super().__init__(source, **plan)
        self._labels = source.labels
        self._orders: dict[int, np.ndarray] = {}
        # a batch is one array index if nothing is done to the samples
        self._whole = all(self.augment[name] is None and source.columns[name].shape == field.shape
                          for name, field in self.schema.fields.items())

    def __len__(self) -> int:
        return self.steps - self.start

    def __getitem__(self, item: int) -> tuple[Any, dict[int, str]]:
        if item >= len(self):
            raise IndexError(item)
        try:
            return [self.batch(self.start + item)], self.source.bad_rows
        except DataError as error:  # handed over, as a DataLoader would wrap its message in the worker's traceback
            return error, {}

    def indices(self, step: int) -> np.ndarray:
        """(B,) sample numbers of a step."""
        first = (step * self.world + self.rank) * self.batch_size
        epoch, place = divmod(first, len(self.source))
        taken = self._order(epoch)[place : place + self.batch_size]
        if len(taken) == self.batch_size:
            return taken
        return np.concatenate([taken, self._order(epoch + 1)[: self.batch_size - len(taken)]])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = order(self.seed, epoch, len(self.source))
        return self._orders[epoch]

    def batch(self, step: int) -> Batch:
        index = self.indices(step)
        whole = self.source.batch(index) if self._whole else None
        if whole is not None:
            parts = {name: stack(list(part), (), "")[0] for name, part in whole.items()}
            return {**parts, **marks(index, self._labels_of(index), self.seed, step)}
        read = [self.source.read(int(i)) for i in index]
        index = np.array([actual for _, actual in read], dtype=np.int64)
        return self.build([sample for sample, _ in read], index, self._labels_of(index), step)

    def _labels_of(self, index: np.ndarray) -> np.ndarray | None:
        return None if self._labels is None else self._labels[index]


class StreamSteps(_Training, IterableDataset[Any]):
    """Batches of a stream, shuffled block by block: sample n of a run is in block n // block, at the place that the
    permutation keyed by (seed, block) gives. Worker w of W makes the steps w, w + W, ..."""

    def __iter__(self) -> Iterator[tuple[Any, list[tuple[str, str]]]]:
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        samples = self._records(self.start * self.batch_size * self.world)
        for step in range(self.start, self.steps):
            records = [next(samples) for _ in range(self.batch_size * self.world)]
            if (step - self.start) % count != number:
                continue
            try:
                batch = self.batch(records[self.rank * self.batch_size : (self.rank + 1) * self.batch_size], step)
            except DataError as error:
                yield error, []
                return
            yield [batch], list(self.source.skipped)

    def _records(self, start: int) -> Iterator[tuple[int, Any]]:
        """(position, record) from sample number `start` of the run on."""
        size = max(BUFFER, self.batch_size * self.world)
        block = start // size
        stream = self.source.endless(block * size)
        while True:
            held = [next(stream) for _ in range(size)]
            shuffled = order(self.seed, block, size)
            yield from (held[i] for i in shuffled[max(0, start - block * size) :])
            block += 1

    def batch(self, records: list[tuple[int, Any]], step: int) -> Batch:
        """An unreadable record is replaced by the next readable one of the same batch."""
        read = [(position, record, self.source.decode(record, position)) for position, record in records]
        there = [n for n, (_, _, sample) in enumerate(read) if sample is not None]
        if not there:
            raise DataError(f"no sample of step {step} of the stream {self.source.name} can be read; last: "
                            f"{': '.join(self.source.skipped[-1])}")
        chosen = [read[next((k for k in there if k >= n), there[0])] for n in range(len(read))]
        label = self.source.label_of
        labels = None if label is None else np.array([label(record) for _, record, _ in chosen], dtype=np.int64)
        return self.build([sample for *_, sample in chosen], np.array([p for p, *_ in chosen]), labels, step)


class OrderedSteps(Dataset[Any]):
    """Item n is the n-th run of batch_size samples: ([batches], row -> reason of what was unreadable), or an error."""

    def __init__(self, source: Source, schema: Schema, batch_size: int, size: tuple[int, int] | None, multiple: int,
                 max_side: int) -> None:
        self.source, self.schema, self.batch_size, self.size = source, schema, batch_size, size
        self.multiple, self.max_side, self.kinds, self._labels = multiple, max_side, source.kinds, source.labels

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, item: int) -> tuple[Any, dict[int, str]]:
        if item >= len(self):
            raise IndexError(item)
        first = item * self.batch_size
        index = np.arange(first, min(first + self.batch_size, len(self.source)))
        try:
            read = [(i, self.source.try_read(int(i))) for i in index]
            samples = [(int(i), self._natural(s)) for i, s in read if s is not None]
            return [self._batch(part) for part in self._parts(samples)], self.source.bad_rows
        except DataError as error:
            return error, {}

    def _natural(self, sample: Sample) -> Sample:
        out: Sample = {}
        for name, field in self.schema.fields.items():
            value, kind = sample[name], self.kinds[name]
            if value is not None and self.size is not None:
                value = kind.fit(value, _resized(field, self.size), None, None)
            elif value is not None:
                value = kind.natural(value, field, self.max_side)
            out[name] = value
        return out

    def _parts(self, samples: list[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
        """Runs of samples that together stay below the cap, padding counted."""
        part: list[tuple[int, Sample]] = []
        extent = np.zeros(2, dtype=np.int64)
        for index, sample in samples:
            sides = [v.shape[1:3] for v in sample.values() if v is not None and v.ndim >= 3] or [(1, 1)]
            wider = np.maximum(extent, np.max(sides, axis=0))
            if part and int(wider.prod()) * (len(part) + 1) > BATCH_PIXELS:
                yield part
                part, wider = [], np.max(sides, axis=0)
            part.append((index, sample))
            extent = wider
        if part:
            yield part

    def _batch(self, samples: list[tuple[int, Sample]]) -> Batch:
        index = np.array([i for i, _ in samples], dtype=np.int64)
        out: Batch = {}
        for name, field in self.schema.fields.items():
            values = [s[name] for _, s in samples]
            there = [v is not None for v in values]
            out[name], extent = self.kinds[name].pad(
                [np.zeros(field.shape, field.dtype) if v is None else v for v in values], self.multiple)
            if extent is not None:
                out["extent" if len(self.schema.fields) == 1 else f"{name}.extent"] = extent
            if not all(there):
                out[f"{name}.present"] = torch.tensor(there)
        labels = None if self._labels is None else self._labels[index]
        return {**out, **marks(index, labels, 0, 0)}


def _resized(field: Field, size: tuple[int, int]) -> Field:
    import dataclasses

    return dataclasses.replace(field, shape=(field.shape[0], *size))
