"""How training batches are made.

A batch is a function of (seed, step): epoch e is a permutation keyed by (seed, e), epochs follow one another without
a gap, and micro-step s takes positions s*B*world .. (s+1)*B*world - 1, rank r the r-th B of them. The dataset that
torch's DataLoader works on is therefore the sequence of steps, and starting anywhere costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .. import keyed
from .collate import Batch, marks, tensor
from .errors import DataError
from .schema import Field, Schema
from .source import Sample, Source

ORDER = 2**63 - 1  # the sample number under which orders are drawn: no sample has it
BUFFER = 1_000  # streams are shuffled in blocks of so many samples, at least


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """(count,) the permutation of epoch `epoch`."""
    return keyed.generator(seed, epoch, ORDER).permutation(count)


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
            out[name], present = self.kinds[name].stack(values, field)
            out |= {f"{name}.{suffix}": more for suffix, more in self.kinds[name].beside(values).items()}
            self.kinds[name].check(out[name].numpy(), lambda row: self.name_of(int(index[row])))
            if present is not None:
                out[f"{name}.present"] = present
        return {**out, **marks(index, labels, self.seed, step)}

    def name_of(self, index: int) -> str:
        """The sample's name for messages."""
        return self.source.called(index) if isinstance(self.source, Source) else f"sample {index} of {self.source.name}"

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
            parts = {name: tensor(whole[name]) for name in self.schema.fields}
            for name, part in parts.items():
                self.kinds[name].check(part.numpy(), lambda row: self.name_of(int(index[row])))
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
