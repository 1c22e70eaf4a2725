"""How training batches are made.

A batch is a function of (seed, step): epoch e is a permutation keyed by (seed, e), epochs follow one another without
a gap, and micro-step s takes positions s*B*world .. (s+1)*B*world - 1, rank r the r-th B of them. The dataset that
torch's DataLoader works on is therefore the sequence of steps, and starting anywhere costs nothing. Where reading is
what costs, R values are drawn from one reading (`Column.repeats`): R epochs in one, each sample R times in a row.

Where samples vary in length, the permutation is such that micro-steps hold samples of similar lengths, see `bucketed`;
it is still a function of (seed, e) alone, for a given batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .. import keyed
from .collate import Batch, marks, padded, stack, tensor
from .errors import DataError, Unreadable
from .schema import Field, Schema
from .source import Sample, Source

ORDER = 2**63 - 1  # the sample number under which orders are drawn: no sample has it
POOL = 64  # batches whose samples are sorted by length together
MULTIPLE = 8  # that lengths are rounded up to, so that a compiled graph meets few shapes
BUFFER = 1_000  # streams are shuffled in blocks of so many samples, at least


def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """(count,) the permutation of epoch `epoch`."""
    return keyed.generator(seed, epoch, ORDER).permutation(count)


def bucketed(order: np.ndarray, lengths: np.ndarray, batch: int, start: int, rng: np.random.Generator) -> np.ndarray:
    """The samples of `order` so arranged that batches hold similar lengths: every 64 batches are sorted by length and
    cut into batches, all of which are then shuffled, and the samples within each. The first `start` samples, which end
    a batch of the epoch before, and the last ones, which begin one of the next, stay where they are."""
    count = (len(order) - start) // batch
    body = order[start : start + count * batch].copy()
    for first in range(0, len(body), POOL * batch):
        pool = body[first : first + POOL * batch]
        body[first : first + POOL * batch] = pool[np.argsort(lengths[pool], kind="stable")]
    batches = rng.permuted(rng.permutation(body.reshape(count, batch)), axis=1)
    return np.concatenate([order[:start], batches.ravel(), order[start + count * batch :]])


def lengths_of(source: Source, schema: Schema) -> np.ndarray | None:
    """(N,) length of each sample in training, over the parts that vary; None where none does, or where lengths are not
    known without reading."""
    known = []
    for name, field in schema.fields.items():
        column = source.columns[name]
        lengths = column.lengths() if column.kind.varies else None
        if lengths is not None:
            known.append(np.minimum(lengths[source.rows], field.shape[0]))
    return np.sum(known, axis=0) if known else None


def padding_share(lengths: np.ndarray, batch: int) -> tuple[float, float]:
    """Share of a first epoch's positions that is padding, with batches of similar lengths, and of random ones."""
    shares = []
    plain = order(0, 0, len(lengths))
    for chosen in (bucketed(plain, lengths, batch, 0, np.random.default_rng(0)), plain):
        of = lengths[chosen[: max(batch, len(chosen) // batch * batch)]]
        of = of[: len(of) // batch * batch].reshape(-1, batch) if len(of) >= batch else of[None]
        width = -(-np.maximum(of.max(1), 1) // MULTIPLE) * MULTIPLE
        shares.append(float(1 - of.sum() / (width * of.shape[1]).sum()))
    return shares[0], shares[1]


class _Training:
    """What map-style and streamed training steps share."""

    def __init__(self, source: Any, *, schema: Schema, batch_size: int, steps: int, start: int, seed: int,
                 augment: dict[str, Callable[..., Any] | None], rank: int, world: int) -> None:
        self.source, self.schema, self.batch_size, self.steps, self.start = source, schema, batch_size, steps, start
        self.seed, self.augment, self.rank, self.world = seed, augment, rank, world
        self.kinds = source.kinds

    def build(self, samples: list[Sample], index: np.ndarray, labels: np.ndarray | None, step: int,
              turn: np.ndarray | None = None) -> Batch:
        """A batch of fitted samples."""
        out: Batch = {}
        for name, field in self.schema.fields.items():
            values = [s[name] for s in samples]
            if self.kinds[name].varies:
                out |= padded(name, values, field, MULTIPLE, only=len(self.schema.fields) == 1)
            else:
                out |= stack(name, values, field)
            self.kinds[name].check(out[name].numpy(), lambda row: self.name_of(int(index[row])))
        return {**out, **marks(index, labels, self.seed, step, turn)}

    def name_of(self, index: int) -> str:
        """The sample's name for messages."""
        return self.source.called(index) if isinstance(self.source, Source) else f"sample {index} of {self.source.name}"

    def fitted(self, sample: Sample, step: int, index: int, turn: int = 0) -> Sample:
        """The sample as training wants it. Raises Unreadable, for values that are read as far as they are needed."""
        return {name: self._fit(name, field, sample[name], step, index, turn)
                for name, field in self.schema.fields.items()}

    def _fit(self, name: str, field: Field, value: np.ndarray | None, step: int, index: int, turn: int
             ) -> np.ndarray | None:
        augment = self.augment[name]
        if value is None or (augment is None and isinstance(value, np.ndarray) and value.shape == field.shape):
            return value
        return self.kinds[name].fit(value, field, augment, keyed.generator(self.seed, step, index + turn * 2**48))


class Steps(_Training, Dataset[Any]):
    """Item n is the batch of step start + n: ([batch], row -> reason of what was unreadable), or an error."""

    def __init__(self, source: Source, **plan: Any) -> None:
        super().__init__(source, **plan)
        self._labels = source.labels
        self._lengths = lengths_of(source, self.schema)
        repeats = max(source.columns[name].repeats for name in self.schema.fields)
        self._repeats = repeats if self._lengths is None and self.batch_size % repeats == 0 else 1
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
        epoch, place = divmod(first, len(self.source) * self._repeats)
        taken = self._order(epoch)[place : place + self.batch_size]
        if len(taken) == self.batch_size:
            return taken
        return np.concatenate([taken, self._order(epoch + 1)[: self.batch_size - len(taken)]])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if abs(e - epoch) == 1}
            self._orders[epoch] = self._new_order(epoch)
        return self._orders[epoch]

    def _new_order(self, epoch: int) -> np.ndarray:
        plain = order(self.seed, epoch, len(self.source))
        if self._lengths is None:
            return plain.repeat(self._repeats)
        batch = self.batch_size * self.world  # boundaries lie at its multiples, counted over all epochs
        start = min(-epoch * len(plain) % batch, len(plain))
        return bucketed(plain, self._lengths, batch, start, keyed.generator(self.seed, epoch, ORDER - 1))

    def batch(self, step: int) -> Batch:
        index = self.indices(step)
        whole = self.source.batch(index) if self._whole else None
        if whole is not None:
            parts = {name: tensor(whole[name]) for name in self.schema.fields}
            for name, part in parts.items():
                self.kinds[name].check(part.numpy(), lambda row: self.name_of(int(index[row])))
            return {**parts, **marks(index, self._labels_of(index), self.seed, step)}
        turn = None if self._repeats == 1 else _turns(index)
        held: dict[int, tuple[Sample, int]] = {}
        made = []
        for n, i in enumerate(index.tolist()):
            if i not in held:
                held[i] = self.source.read(i)
            made.append(self._ready(*held[i], step, 0 if turn is None else int(turn[n])))
        index = np.array([actual for _, actual in made], dtype=np.int64)
        return self.build([sample for sample, _ in made], index, self._labels_of(index), step, turn)

    def _ready(self, sample: Sample, index: int, step: int, turn: int) -> tuple[Sample, int]:
        """The fitted sample and its number; those of the next one where it turns out that it cannot be read."""
        while True:
            try:
                return self.fitted(sample, step, index, turn), index
            except Unreadable as error:
                self.source.mark_bad(int(self.source.rows[index]), error.reason)
                sample, index = self.source.read(index)

    def _labels_of(self, index: np.ndarray) -> np.ndarray | None:
        return None if self._labels is None else self._labels[index]


def _turns(index: np.ndarray) -> np.ndarray:
    """(B,) how many times a number was there before."""
    seen: dict[int, int] = {}
    out = np.zeros(len(index), dtype=np.int64)
    for n, i in enumerate(index.tolist()):
        out[n] = seen.get(i, 0)
        seen[i] = out[n] + 1
    return out


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
        read = [(position, record, self._read(record, position, step)) for position, record in records]
        there = [n for n, (*_, sample) in enumerate(read) if sample is not None]
        if not there:
            raise DataError(f"no sample of step {step} of the stream {self.source.name} can be read; last: "
                            f"{': '.join(self.source.skipped[-1])}; mend them, or give other data")
        chosen = [read[next((k for k in there if k >= n), there[0])] for n in range(len(read))]
        label = self.source.label_of
        labels = None if label is None else np.array([label(record) for _, record, _ in chosen], dtype=np.int64)
        samples = [sample for *_, sample in chosen if sample is not None]  # none is
        return self.build(samples, np.array([p for p, *_ in chosen]), labels, step)

    def _read(self, record: Any, position: int, step: int) -> Sample | None:
        sample = self.source.decode(record, position)
        try:
            return None if sample is None else self.fitted(sample, step, position)
        except Unreadable as error:
            self.source.unreadable(error)
            return None
