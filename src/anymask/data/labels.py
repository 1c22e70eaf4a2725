"""Labels as given (numbers, text, gaps) to class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import DataError

PARTS = ("train", "validation", "test")
FEW = 20  # labels; of fewer, each may be a class of its own


@dataclass(frozen=True)
class TokenLabels:
    """Labels of tokens (nodes, points, residues) in place of samples.

    `labels` are by sample, (N,) int64 class numbers with -1 for none. Where the tokens of one sample are divided into
    parts, `parts` are by sample (N,) int8, the place in `PARTS`, -1 for none; None: whole samples are.
    """

    labels: Sequence[np.ndarray]
    names: list[str] | None = None
    parts: Sequence[np.ndarray] | None = None

    def of(self, rows: np.ndarray) -> TokenLabels:
        """Those of some samples."""
        parts = None if self.parts is None else [self.parts[row] for row in rows]
        return TokenLabels([self.labels[row] for row in rows], self.names, parts)

    def tobytes(self) -> bytes:
        return b"".join(array.tobytes() for array in (*self.labels, *(self.parts or ())))


def encode(values: Sequence[Any] | np.ndarray, what: str) -> tuple[np.ndarray, list[str] | None]:
    """(N,) int64 class numbers, and names.

    Whole numbers that mostly fill 0..max stay, without names; others, and text, are numbered in sorted order. None,
    '' and NaN, and numbers below 0, are -1: unlabelled. Raises DataError naming `what` for fractional numbers.
    """
    cells = [_plain(v) for v in (values.tolist() if isinstance(values, np.ndarray) else values)]
    known = [c for c in cells if c is not None]
    numbers = _whole_numbers(known)
    if numbers is None:
        names = sorted({str(c) for c in known})
        return _number(cells, {n: i for i, n in enumerate(names)}, str), names
    distinct = sorted({n for n in numbers.values() if n >= 0})
    if any(n != int(n) for n in distinct):
        raise DataError(f"{what} holds fractional numbers (as {next(n for n in distinct if n != int(n))}), not "
                        f"classes; name a column of classes with label=, or leave the labels out")
    if distinct and 2 * len(distinct) < distinct[-1] + 1:  # sparse codes, as 10, 20, 30
        order = {n: i for i, n in enumerate(distinct)}
        codes = {c: order.get(numbers[c], -1) for c in numbers}
        return _number(cells, codes, lambda c: c), [str(int(n)) for n in distinct]
    return _number(cells, {c: int(max(n, -1)) for c, n in numbers.items()}, lambda c: c), None


def classes_or_numbers(
    values: Sequence[Any] | np.ndarray,
) -> tuple[np.ndarray | None, list[str] | None, np.ndarray | None]:
    """(class numbers, names, targets), each None where it does not apply.

    Numbers are targets, (N,) float64 with NaN where there is none. Whole numbers are classes as well (see `encode`),
    unless hardly two samples share one; text is classes only.
    """
    cells = [_plain(v) for v in (values.tolist() if isinstance(values, np.ndarray) else values)]
    numbers = _whole_numbers([c for c in cells if c is not None])
    if numbers is None:
        return *encode(values, "the labels"), None
    targets = np.array([np.nan if c is None else numbers[c] for c in cells], dtype=np.float64)
    known = targets[np.isfinite(targets)]
    found = np.unique(known)
    if not len(known) or (found != np.round(found)).any() or (len(known) >= FEW and 2 * len(found) > len(known)):
        return None, None, targets if len(known) else None
    return *encode(values, "the labels"), targets


def _number(cells: list[Any], codes: dict[Any, int], key: Any) -> np.ndarray:
    return np.array([-1 if c is None else codes[key(c)] for c in cells], dtype=np.int64)


def _plain(value: Any) -> Any:
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return None
    return value.decode() if isinstance(value, bytes) else value


def _whole_numbers(cells: list[Any]) -> dict[Any, float] | None:
    """Cell -> number if all cells are numbers (also as text), else None."""
    try:
        return {c: float(c) for c in cells}
    except (TypeError, ValueError):
        return None
