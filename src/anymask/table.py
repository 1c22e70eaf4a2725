"""The one table that every command prints, returns and writes as JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable


class Figure(NamedTuple):
    """A mean, and its 95 % interval where there is one; printed with so many `digits` after the point."""

    mean: float
    low: float | None = None
    high: float | None = None
    digits: int = 1

    def __str__(self) -> str:
        mean, low, high = (None if v is None else f"{v:.{self.digits}f}" for v in self[:3])
        return f"{mean}" if low is None or high is None else f"{mean} ({low} to {high})"

    def to_json(self) -> dict[str, float | None]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def interval(values: np.ndarray, digits: int = 1) -> Figure:
    """The mean, and its 95 % interval by Student's t where there are two values or more."""
    from scipy import stats  # takes half a second to import

    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Figure(mean, digits=digits)
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Figure(mean, mean - half, mean + half, digits)


@dataclass
class Table:
    """Rows of cells: text, numbers, `Figure`s, or None for an empty cell.

    Args:
        columns: their names.
        rows: one cell a column in each.
        notes: sentences to be read with the table; printed below it.
    """

    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    title: str = ""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row}")

    def records(self) -> list[dict[str, Any]]:
        """One dict a row."""
        return [dict(zip(self.columns, row)) for row in self.rows]

    def cell(self, column: str, **where: Any) -> Any:
        """The cell of `column` in the first row whose other columns have the values `where`.

        Raises:
            KeyError: no such row or column.
        """
        for record in self.records():
            if all(record[name] == value for name, value in where.items()):
                return record[column]
        raise KeyError(f"no row with {where}")

    def to_json(self) -> dict[str, Any]:
        """Plain data; a Figure becomes {"mean", "low", "high"}."""
        rows = [[cell.to_json() if isinstance(cell, Figure) else cell for cell in row] for row in self.rows]
        return {"title": self.title, "columns": list(self.columns), "rows": rows, "notes": list(self.notes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Table:
        """A table from `to_json`."""
        rows = [[Figure(**cell) if isinstance(cell, dict) else cell for cell in row] for row in data["rows"]]
        return cls(tuple(data["columns"]), [*rows], title=data["title"], notes=list(data["notes"]))

    def to_csv(self) -> str:
        """With a line of column names; a Figure is written as its mean."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([cell.mean if isinstance(cell, Figure) else cell for cell in row] for row in self.rows)
        return out.getvalue()

    def __str__(self) -> str:
        """Plain text, columns aligned."""
        lines = [list(self.columns), *([_text(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([*([self.title] if self.title else []), *text, *(f"note: {note}" for note in self.notes)])

    def print(self, console: Console | None = None) -> None:
        """To a terminal, in colour where it has it."""
        console = console or Console()
        table = RichTable(title=self.title or None, title_justify="left")
        for i, name in enumerate(self.columns):
            numeric = bool(self.rows) and all(isinstance(row[i], (int, float, Figure, type(None))) for row in self.rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(_text(cell) for cell in row))
        console.print(table)
        for note in self.notes:
            console.print(f"note: {note}", style="dim", markup=False)


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
