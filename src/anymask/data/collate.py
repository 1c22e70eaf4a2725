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
    """A part whose values are of one shape; and where it is present, if not everywhere. What stands for missing ones
    the kind says."""
    there = [v is not None for v in values]
    if all(there):
        return {name: tensor(np.stack(values))}  # type: ignore[arg-type]
    absent = kind_of(field.kind).absent(field)
    filled = np.stack([absent if value is None else value for value in values])
    return {name: tensor(filled), f"{name}.present": torch.tensor(there)}


def padded(name: str, values: Sequence[np.ndarray | None], field: Field, multiple: int | Sequence[int], *, only: bool
           ) -> Batch:
    """A part whose values vary in length, as a batch padded to a multiple: itself, its true extents where the kind
    gives them (`extent`, or `<part>.extent` beside other parts), where it is present if not everywhere, and what the
    kind puts beside it."""
    kind = kind_of(field.kind)
    there = [value is not None for value in values]
    filled = [kind.absent(field) if value is None else value for value in values]
    part, extent = kind.pad(filled, multiple)
    out = {name: part} | {f"{name}.{suffix}": more for suffix, more in kind.beside(filled).items()}
    if extent is not None:
        out["extent" if only else f"{name}.extent"] = extent
    if not all(there):
        out[f"{name}.present"] = torch.tensor(there)
    return out


def pad_grid(values: Sequence[np.ndarray], multiple: int | Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """A batch of values (C, *space) of several sizes, 0 at the end of each axis up to a multiple of `multiple`, and
    their (B, axes) extents; None where all fill the batch."""
    sizes = [v.shape[1:] for v in values]
    each = (multiple,) * len(sizes[0]) if isinstance(multiple, int) else tuple(multiple)
    space = tuple(-(-max(s[axis] for s in sizes) // m) * m for axis, m in enumerate(each))
    if all(s == space for s in sizes):
        return tensor(np.stack(values)), None
    out = np.zeros((len(values), values[0].shape[0], *space), dtype=values[0].dtype)
    for row, value in zip(out, values):
        row[(slice(None), *(slice(n) for n in value.shape[1:]))] = value
    return tensor(out), torch.tensor(sizes, dtype=torch.int64)


def marks(index: np.ndarray, labels: np.ndarray | None, seed: int, step: int) -> dict[str, Any]:
    """What every batch has beside its parts: `index` (B,), `key` (B,) and, where there are labels, `label` (B,)."""
    numbers = torch.from_numpy(np.asarray(index, dtype=np.int64))
    out = {"index": numbers, "key": keyed.keys(seed, step, numbers)}
    if labels is not None:
        out["label"] = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return out
