"""What tells one source from another: a hash of names, labels and content."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from .columns import ArrayColumn, Column

if TYPE_CHECKING:
    from .source import Source

WHOLE_BYTES = 2**26  # sets that are no larger than this when stored are hashed whole
HASHED = 256  # of a larger set, the content of so many samples is hashed


def fingerprint(source: Source) -> str:
    """See `Source.fingerprint`."""
    digest = hashlib.sha256(f"{len(source)}".encode())
    if source._ids is not None:
        digest.update("\n".join(source.ids).encode())
    if source._row_labels is not None and not callable(source._row_labels):
        digest.update(source._row_labels[source.rows].tobytes())
    if source.targets is not None:
        digest.update(source.targets.tobytes())
    if source.token_labels is not None:
        digest.update(source.token_labels.tobytes())
    for name, column in sorted(source.columns.items()):
        digest.update(name.encode())
        sizes = _sizes(column, source.rows)
        digest.update(sizes.tobytes())
        rows = source.rows
        if sizes.sum() > WHOLE_BYTES or (sizes < 0).any():
            rows = np.random.default_rng(0).permutation(rows)[:HASHED]
        for row in rows:
            if int(row) not in source._bad:
                digest.update(column.raw(int(row)))
    return digest.hexdigest()


def _sizes(column: Column, rows: np.ndarray) -> np.ndarray:
    if isinstance(column, ArrayColumn):
        return np.full(len(rows), column.nbytes(0), dtype=np.int64)
    sizes = (column.nbytes(int(row)) for row in rows)
    return np.array([-1 if size is None else size for size in sizes], dtype=np.int64)
