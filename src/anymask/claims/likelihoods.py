"""Claims about likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.metrics import SEED, Metric, others

if TYPE_CHECKING:
    from anymask.data import Source
    from anymask.run import Run

TESTED = 500  # texts of the test part, at most


@dataclass(frozen=True)
class Bound(Metric):
    """Bits a token of texts that were not trained on, at most (see `evaluation.likelihood.nats`): minus a text's nats,
    in bits, over the mean number of tokens of a text. The test part are texts that are not chosen for training.

    Args:
        draws: noise levels a text, the same for both arms.
    """

    draws: int = 16
    unit = "-bits a token"
    untrained = None
    code = ("anymask.evaluation.likelihood", "anymask.evaluation.masked")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if not all(kind.spelled for kind in whole.kinds.values()):
            raise ClaimError(f"{whole.name} holds no sequences, whose likelihood is measured; use texts")
        return whole.subset(chosen), whole.subset(others(whole, chosen, TESTED))

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.likelihood import nats
        from anymask.evaluation.masked import frozen

        found, count = nats(frozen(run, trained=trained), run.schema, test, draws=self.draws, seed=SEED)
        return -np.nan_to_num(found) / math.log(2) / count[count > 0].mean()
