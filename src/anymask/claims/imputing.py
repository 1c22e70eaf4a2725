"""Imputation as a claim's metric: cells are taken out of a table, and what is put in their place is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.metrics import SEED, Metric

if TYPE_CHECKING:
    from anymask.data import Schema, Source
    from anymask.run import Run


@dataclass(frozen=True)
class Imputation(Metric):
    """Minus the squared error of cells that were taken out, mean over those of a row, in % of the column's range.

    Both arms are trained on the table without these cells, and fill them.

    Args:
        share: of the cells taken out, completely at random; the same ones for all arms and seeds.
    """

    share: float = 0.3
    unit = "squared % of a column's range"
    untrained = "untrained model"
    code = ("anymask.evaluation.imputing",)

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        from anymask.data.kinds.table import TableColumn

        column = whole.columns.get("table")
        if not isinstance(column, TableColumn):
            raise ClaimError(f"{whole.name} is no table, which imputation needs; set the claim's `on` to one")
        cells = np.array(column.array, dtype=np.float64)
        cells[np.random.default_rng(SEED).random(cells.shape) < self.share] = np.nan
        holed = whole.with_columns({"table": TableColumn(cells, column.names)})
        return holed.subset(chosen), whole.subset(chosen)

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.imputing import impute

        return _scores(impute(run, train, trained=trained), train, test)

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        mean = np.broadcast_to(schema.fields["table"].mean, (len(train), len(schema.fields["table"].mean)))
        return {"mean of the column": float(_scores(mean, train, test).mean())}


def _scores(filled: np.ndarray, holed: Source, whole: Source) -> np.ndarray:
    """(T,) for the rows that cells were taken out of."""
    truth, left = (np.stack([row["table"] for row in s.fetch(range(len(s)))]) for s in (whole, holed))
    out = np.isnan(left) & ~np.isnan(truth)
    span = np.nanmax(truth, 0) - np.nanmin(truth, 0)
    error = np.where(out, 100 * (filled - truth) / np.where(span > 0, span, 1.0), 0.0) ** 2
    rows = out.any(1)
    return -(error.sum(1)[rows] / out.sum(1)[rows])
