"""Samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import keyed
from .kind import kind_of

if TYPE_CHECKING:
    from .schema import Field

Batch = dict[str, Tensor]


def tensor(array: np.ndarray) -> Tensor:
    """A tensor of the array; uint16 becomes int32, as torch computes little with uint16."""
    array = array.astype(np.int32) if array.dtype == np.uint16 else np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def stack(name: str, values: Sequence[np.ndarray | None], field: Field) -> Batch:
    """A part whose values are of one shape; and where it is present, if not everywhere. Missing ones are 0."""
    there = [v is not None for v in values]
    if all(there):
        return {name: tensor(np.stack(values))}  # type: ignore[arg-type]
    out = np.zeros((len(values), *field.shape), dtype=field.dtype)
    for row, value in zip(out, values):
        if value is not None:
            row[...] = value
    return {name: tensor(out), f"{name}.present": torch.tensor(there)}


def padded(name: str, values: Sequence[np.ndarray | None], field: Field, multiple: int, *, only: bool) -> Batch:
    """A part whose values vary in length, as a batch padded to a multiple: itself, its true extents where the kind
    gives them (`extent`, or `<part>.extent` beside other parts), and where it is present if not everywhere."""
    kind = kind_of(field.kind)
    there = [value is not None for value in values]
    filled = [kind.absent(field) if value is None else value for value in values]
    part, extent = kind.pad(filled, multiple)
    out = {name: part}
    if extent is not None:
        out["extent" if only else f"{name}.extent"] = extent
    if not all(there):
        out[f"{name}.present"] = torch.tensor(there)
    return out


def marks(index: np.ndarray, labels: np.ndarray | None, seed: int, step: int) -> dict[str, Any]:
    """What every batch has beside its parts: `index` (B,), `key` (B,) and, where there are labels, `label` (B,)."""
    numbers = torch.from_numpy(np.asarray(index, dtype=np.int64))
    out = {"index": numbers, "key": keyed.keys(seed, step, numbers)}
    if labels is not None:
        out["label"] = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return out
