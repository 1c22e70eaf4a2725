"""Cross-validation of small labelled sets, repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anymask.claims.metrics import SEED, Folds

if TYPE_CHECKING:
    from anymask.data import Schema, Source
    from anymask.run import Run


@dataclass(frozen=True)
class RepeatedFolds(Folds):
    """As `Folds`, with the samples divided into folds anew several times: a sample's score is the share of times that
    it was classified rightly.

    Args:
        repeats: how many times.
    """

    repeats: int = 5

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.features import embed

        return self._right(np.asarray(embed(run, test, pool=self.pool, trained=trained, precision=precision)), test)

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.evaluation.inputs import raw_input

        return {"raw input": float(self._right(raw_input(test, schema), test).mean())}

    def _right(self, x: np.ndarray, test: Source) -> np.ndarray:
        from anymask.evaluation.folds import svm_folds

        assert test.labels is not None
        each = [svm_folds(x, test.labels, folds=self.folds, seed=SEED + n)[0] for n in range(self.repeats)]
        return 100.0 * np.mean(each, axis=0)
