"""How a claim about parts of samples is measured: each rebuilt from another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.metrics import SEED, Metric

if TYPE_CHECKING:
    from anymask.data import Source
    from anymask.run import Run


@dataclass(frozen=True)
class Cross(Metric):
    """How much of the best constant's error is gone, in %, where a part is rebuilt from one other part that is seen
    wholly, mean over all pairs of parts that a test sample has, see `anymask.evaluation.crossing`.

    Args:
        samples: of the test part, at most; the same random choice for both arms and all seeds.
    """

    samples: int = 2_000
    unit = "% of the best constant's error removed"
    untrained = "untrained model"
    code = ("anymask.claims.cross", "anymask.evaluation.crossing")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if "test" not in whole.splits or len(whole.columns) < 2:
            raise ClaimError(f"{whole.name} needs a test split and several parts, of which one is rebuilt from another")
        test = whole.split("test")
        some = np.sort(np.random.default_rng(SEED).permutation(len(test))[: self.samples])
        return whole.subset(chosen).cached(), test.subset(some).cached()

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.crossing import crossed, left
        from anymask.evaluation.masked import frozen

        found = left(crossed(frozen(run, trained=trained), run.schema, test))
        return 100.0 - 100.0 * np.nanmean(np.stack(list(found.values())), 0)
