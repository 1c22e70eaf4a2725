"""How ordered batches are made: every sample once, nothing random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .collate import Batch, marks, padded
from .errors import DataError
from .schema import Schema
from .source import Sample, Source

BATCH_PIXELS = 2**26  # positions (H x W x B) in one batch; a fuller one is handed out in parts


class OrderedSteps(Dataset[Any]):
    """Item n is the n-th run of batch_size samples: ([batches], row -> reason of what was unreadable), or an error."""

    def __init__(self, source: Source, schema: Schema, batch_size: int, size: tuple[int, int] | None,
                 multiple: int | Sequence[int] | Mapping[str, int | Sequence[int]],
                 max_side: int, fixed: bool) -> None:
        self.source, self.schema, self.batch_size, self.size = source, schema, batch_size, size
        self.multiple, self.max_side, self.kinds, self._labels = multiple, max_side, source.kinds, source.labels
        self.fixed = fixed

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
            if value is not None and (self.size is not None or self.fixed):
                target = field if self.size is None else kind.resized(field, self.size)
                value = kind.fit(value, target, None, None)
            elif value is not None:
                value = kind.natural(value, field, self.max_side)
            out[name] = value
        return out

    def _parts(self, samples: list[tuple[int, Sample]]) -> Iterator[list[tuple[int, Sample]]]:
        """Runs of samples that together stay below the cap, padding counted."""
        part: list[tuple[int, Sample]] = []
        extents: dict[str, np.ndarray] = {}
        for index, sample in samples:
            own = {name: np.array(self.kinds[name].extent(v)) for name, v in sample.items() if v is not None}
            wider = {**extents, **{n: np.maximum(e, extents.get(n, e)) for n, e in own.items()}}
            if part and sum(int(e.prod()) for e in wider.values()) * (len(part) + 1) > BATCH_PIXELS:
                yield part
                part, wider = [], own
            part.append((index, sample))
            extents = wider
        if part:
            yield part

    def _batch(self, samples: list[tuple[int, Sample]]) -> Batch:
        index = np.array([i for i, _ in samples], dtype=np.int64)
        out: Batch = {}
        for name, field in self.schema.fields.items():
            values = [s[name] for _, s in samples]
            multiple = self.multiple.get(name, 1) if isinstance(self.multiple, Mapping) else self.multiple
            out |= padded(name, values, field, multiple, only=len(self.schema.fields) == 1)
            self.kinds[name].check(out[name].numpy(), lambda row: self.source.called(int(index[row])))
        labels = None if self._labels is None else self._labels[index]
        return {**out, **marks(index, labels, 0, 0)}
