"""Claims about values of measurements that are filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.metrics import SEED, Metric, others

if TYPE_CHECKING:
    from torch import Tensor

    from anymask.data import Schema, Source
    from anymask.run import Run

TESTED = 1_000  # stays of the test part, at most


@dataclass(frozen=True)
class FillIn(Metric):
    """How near hidden values of health records are filled in, with their codes and times shown: minus the mean squared
    error of a stay's hidden values, as places in the distribution of their code (0 to 1), times 100. The test part are
    stays that are not chosen for training.

    Args:
        ratio: share of the measurements whose value is hidden, the same ones for both arms and all seeds.
    """

    ratio: float = 0.15
    unit = "-100 x mean squared error"
    untrained = None
    code = ("anymask.parts.ehr", "anymask.evaluation.masked")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if {kind.name for kind in whole.kinds.values()} != {"ehr"}:
            raise ClaimError(f"{whole.name} holds no health records, which values are filled in of; use such data")
        return whole.subset(chosen), whole.subset(others(whole, chosen, TESTED))

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.masked import frozen

        alone = replace(run, recipe=run.recipe.but({"corruption.value_only": 1.0, "mask.ratio": self.ratio}))
        model = frozen(alone, trained=trained)
        return self._scores(model, run.schema, test, lambda step: model.predict(step).pred["value"][..., 0].float())

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        """The median of the code, and the visible value of the same code that is nearest in time (or that median)."""
        import torch

        from anymask.recipe import find

        recipe = find("labrador").but({"mask.ratio": self.ratio})
        model = recipe.build(schema, "pico")

        def nearest(step) -> Tensor:  # type: ignore[no-untyped-def]
            x, seen = step.tokens.x["ehr"], step.mask.visible
            seen = seen & (x[..., 1] > -0.5)
            gap = (x[:, :, None, 2] - x[:, None, :, 2]).abs()
            same = (x[:, :, None, 0] == x[:, None, :, 0]) & seen[:, None]
            gap, found = gap.masked_fill(~same, torch.inf).min(-1)
            value = x[..., 1].gather(1, found)
            return torch.where(gap.isinf(), 0.5, value).gather(1, step.mask.ask)

        half = lambda step: torch.full_like(step.mask.ask, 0.5, dtype=torch.float32)
        fills = {"median of the code": half, "nearest value of the code": nearest}
        return {name: float(self._scores(model, schema, test, fill).mean()) for name, fill in fills.items()}

    def _scores(self, model, schema: Schema, test: Source, fill) -> np.ndarray:  # type: ignore[no-untyped-def]
        import torch

        from anymask.evaluation.masked import batches, redrawn

        out = np.full(len(test), np.nan)
        with torch.no_grad():
            for sample in batches(model, schema, test, batch_size=128, fixed=True):
                step = model.hide(redrawn(sample, SEED, 0))
                goal = model.target(step, model)["value"][..., 0]
                known = ~goal.isnan() if step.mask.ask_ok is None else ~goal.isnan() & step.mask.ask_ok
                square = torch.where(known, fill(step) - goal, 0.0).square().sum(1) / known.sum(1).clamp(min=1)
                out[sample["index"].cpu().numpy()] = -100.0 * square.double().cpu().numpy()
        return np.nan_to_num(out)
