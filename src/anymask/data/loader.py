"""Loaders: batches for training and in order (how they are made is in `training` and `ordered`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from .collate import Batch
from .columns import Absent, Column
from .errors import DataError
from .kind import kind_of
from .ordered import OrderedSteps
from .schema import Schema
from .source import AnySource, Source
from .stream import StreamSource
from .training import Steps, StreamSteps

Augments = Any  # a callable, or a mapping from part to callable
Multiple = int | Sequence[int] | Mapping[str, int | Sequence[int]]


class Loader:
    """Iterable over batches, with `source`, `schema`, `workers` and `notes`. `len` is the number of steps.

    What workers could not read is named in `source.skipped`; errors of workers are raised here as they were.
    """

    def __init__(self, source: AnySource, schema: Schema, steps: Dataset[Any], length: int, workers: int) -> None:
        self.source, self.schema, self.workers, self._length = source, schema, workers, length
        self.notes: list[str] = []
        # One iteration spans all epochs, so workers live as long as it does and stop with it, also after an error.
        # The generator is the loader's own, so that torch's global random state stays untouched.
        self._loader = DataLoader(steps, batch_size=None, num_workers=workers, generator=torch.Generator())

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
            for name, reason in skipped:
                self.source.mark_bad(name, reason)


def training_loader(source: AnySource, schema: Schema, *, batch_size: int, steps: int, start: int = 0, seed: int,
                    augment: Augments | None = None, workers: int | Literal["auto"] = "auto", rank: int = 0,
                    world: int = 1) -> Loader:
    """Batches of micro-steps start .. steps-1.

    A batch has every part of the schema, (B, *shape) in its raw dtype (uint16 as int32); `index` (B,), the sample's
    number in the source; `key` (B,) = keyed.keys(seed, step, index); `label` (B,) where there are labels; and
    `<part>.present` (B,) bool where a part is missing in some. `augment` is called as augment(array, generator, (H,
    W)); for several parts give a mapping from part to callable. Images of another size than the schema's are then
    scaled to cover it and cropped at a random place. An unreadable sample is replaced by the next readable one.

    `workers="auto"`: none where the set lies in memory, else the cores but one, at most 8. A stream is shuffled in
    blocks of at least 1,000 samples, whose undecoded records are held in memory; resuming costs what the stream's
    skipping costs; every worker passes over all undecoded records, so "auto" takes one; `index` is the position in a
    pass.

    Raises DataError for a batch larger than the set, and impossible arguments.
    """
    if batch_size < 1 or steps < start or start < 0 or not 0 <= rank < world:
        raise DataError(f"training_loader needs batch_size >= 1, 0 <= start <= steps and 0 <= rank < world; got "
                        f"batch_size={batch_size}, start={start}, steps={steps}, rank={rank}, world={world}")
    if source.count is not None and batch_size * world > source.count:
        raise DataError(f"a batch of {batch_size}{f' on {world} devices' * (world > 1)} is larger than {source.name} "
                        f"with {source.count} samples; lower --batch-size to {max(1, source.count // world)} or less")
    plan: dict[str, Any] = dict(schema=schema, batch_size=batch_size, steps=steps, start=start, seed=seed,
                                augment=_augments(augment, schema), rank=rank, world=world)
    dataset: Dataset[Any]
    if isinstance(source, StreamSource):
        dataset = StreamSteps(source, **plan)
        count = _workers(workers, False, most=1)
    else:
        cached = aligned(source, schema).cached()
        dataset = Steps(cached, **plan)
        count = _workers(workers, cached.in_memory)
        source = cached
    return Loader(source, schema, dataset, steps - start, count)


def ordered_loader(source: AnySource, schema: Schema, *, batch_size: int, workers: int | Literal["auto"] = 0,
                   size: int | tuple[int, int] | None = None, multiple: Multiple = 1, max_side: int = 1024,
                   fixed: bool = False) -> Loader:
    """Every sample once, in order, nothing random; keys are keyed.keys(0, 0, index).

    Images keep their sizes: within a batch they are padded with 0 at the bottom and right to a multiple of
    `multiple` (one number, or one for each axis; of several parts, a mapping from part to these), and `extent` (B,
    2) int64 has the true (H, W); values of other kinds likewise, with an extent for each of their axes. It is
    absent where every value fills its batch. With several such parts the name is `<part>.extent`. A side longer
    than `max_side` is scaled down to it (see `loader.notes`); `size`, one side or (H, W), makes all images one size
    instead (short side resized, centre cropped), and `fixed` the size of training. A batch of more than 2**26
    positions is handed out in parts, so there may be more batches than `len`. A sample that cannot be read is left
    out and named in `source.skipped`: `index` says which samples are there.
    """
    if batch_size < 1 or _least(multiple) < 1 or max_side < 1:
        raise DataError(f"ordered_loader needs positive numbers; got batch_size={batch_size}, multiple={multiple}, "
                        f"max_side={max_side}")
    if isinstance(source, StreamSource):
        raise DataError(f"{source.name} is a stream, which has no end that is known; open it without streaming=True, "
                        f"or take a part of it: list(itertools.islice(source.iterate(0), n))")
    both = None if size is None else (size, size) if isinstance(size, int) else size
    source = aligned(source, schema).cached()
    dataset = OrderedSteps(source, schema, batch_size, both, multiple, max_side, fixed)
    loader = Loader(source, schema, dataset, len(dataset), _workers(workers, source.in_memory))
    if both is None and not fixed:
        loader.notes += [f"'{name}' with a side above max_side={max_side} is scaled down to it (largest seen: "
                         f"{' x '.join(str(n) for n in field.sizes[-1])})"
                         for name, field in schema.fields.items() if source.kinds[name].shrinks(field, max_side)]
    return loader


def aligned(source: Source, schema: Schema) -> Source:
    """The source with its values laid out as in the schema, and with the parts of several that it lacks as missing
    ones: the same object where they are already."""
    columns: dict[str, Column] = {}
    for name, field in schema.fields.items():
        column = source.columns.get(name)
        there = column is not None or len(schema.fields) == 1
        columns[name] = source.columns[name].aligned(field) if there else Absent(kind_of(field.kind), source.total)
    same = all(source.columns.get(name) is column for name, column in columns.items())
    return source if same else source.with_columns(columns)


def _least(multiple: Multiple) -> int:
    if isinstance(multiple, Mapping):
        return min((_least(each) for each in multiple.values()), default=1)
    return multiple if isinstance(multiple, int) else min(multiple)


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
        raise DataError(f"the data have several parts; give augment as a mapping from part "
                        f"({', '.join(schema.fields)}) "
                        "to augmentation")
    return dict.fromkeys(schema.fields, augment)
