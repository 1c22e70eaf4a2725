"""Claims about numbers that are predicted from frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.metrics import SEED, Metric, others

if TYPE_CHECKING:
    from anymask.data import Schema, Source
    from anymask.run import Run

TESTED = 5_000  # rows of the test part, at most


@dataclass(frozen=True)
class Regress(Metric):
    """Ridge regression of a column of a table on frozen features of the others, with all rows of the training part;
    alpha by leaving one out there. A score is minus the squared error of a test row in per cent of the mean squared
    deviation of the test part, so that the mean over rows is 100 (R2 - 1). The test part are rows that are not chosen
    for training.

    Args:
        column: that is predicted, which is then no part of the rows.
        pool: of the features, see `anymask.evaluation.embed`.
    """

    column: str
    pool: str = "tokens"
    unit = "points of R2"
    code = ("anymask.evaluation.regression",)

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        from anymask.data.kinds.table import with_target

        if {kind.name for kind in whole.kinds.values()} != {"table"}:
            raise ClaimError(f"{whole.name} is no table, of which a column could be predicted; use a table")
        made = with_target(whole, self.column)
        return made.subset(chosen), made.subset(others(whole, chosen, TESTED))

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.features import embed

        options = dict(pool=self.pool, trained=trained, precision=precision)
        return self._scores(train, test, *(np.asarray(embed(run, part, **options)) for part in (train, test)))  # type: ignore[arg-type]

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.evaluation.inputs import raw_input
        from anymask.evaluation.regression import boosting

        x, test_x = (raw_input(part, schema) for part in (train, test))
        return {
            "raw input": float(self._scores(train, test, x, test_x).mean()),
            "gradient boosting on raw input": float(self._scores(train, test, x, test_x, boosting).mean()),
        }

    def _scores(self, train: Source, test: Source, x: np.ndarray, test_x: np.ndarray, method=None) -> np.ndarray:  # type: ignore[no-untyped-def]
        from anymask.evaluation.regression import ridge

        assert train.targets is not None and test.targets is not None
        found = (method or ridge)(x, train.targets, test_x, test.targets, seed=SEED)
        return -100.0 * (found.predicted - test.targets) ** 2 / test.targets.var()
