"""metrics.csv: one row each few optimiser steps."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from anymask.run import write_atomically

NAME = "metrics.csv"
Row = Mapping[str, float]


def read(path: Path) -> list[dict[str, float]]:
    """Rows in order, without the last one where its writing was cut short."""
    if not path.is_file():
        return []
    text = path.read_text()
    text = text[: text.rfind("\n") + 1]  # a row without its line end was cut short
    return [{name: float(v) for name, v in row.items() if v != ""} for row in csv.DictReader(io.StringIO(text))]


class Metrics:
    """Appends rows, `step` first. Opening it drops the rows after `step`: a resumed run writes them again."""

    def __init__(self, path: Path, *, step: int) -> None:
        self.path, self.columns = path, list[str]()
        rows = [row for row in read(path) if row["step"] <= step]
        if path.is_file():
            self._rewrite(rows)

    def append(self, row: Row) -> None:
        if set(row) - set(self.columns):
            self._rewrite([*read(self.path), row])
            return
        with self.path.open("a") as file:
            file.write(_line([_text(row.get(name)) for name in self.columns]))
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self, rows: list[Row] | list[dict[str, float]]) -> None:
        self.columns = list(dict.fromkeys(name for row in rows for name in row))
        lines = [_line(self.columns)] if self.columns else []
        lines += [_line([_text(row.get(name)) for name in self.columns]) for row in rows]
        write_atomically(self.path, "".join(lines).encode())


def _line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value)).removesuffix(".0")
