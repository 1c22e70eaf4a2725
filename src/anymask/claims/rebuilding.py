"""Claims about content that is filled in: cells of tables, hidden parts of samples."""

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
class Impute(Metric):
    """Error of filling cells that were removed completely at random from the very table that is trained on (ReMasker,
    arXiv:2309.13793, section 4): minus the squared error of a row's removed cells, in units of each column's range,
    times 100, so weighed that the mean over rows is the mean over cells.

    Args:
        rate: share of the cells that is removed, the same ones for both arms and all seeds.
    """

    rate: float = 0.3
    unit = "-100 x mean squared error"
    untrained = None
    code = ("anymask.evaluation.imputing", "anymask.evaluation.missing")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        from anymask.data.kinds.table import cells_of, with_cells
        from anymask.evaluation.missing import make_missing

        if {kind.name for kind in whole.kinds.values()} != {"table"}:
            raise ClaimError(f"{whole.name} is no table, which imputation is measured on; use a table")
        complete = whole.subset(chosen)
        x = cells_of(complete)
        return with_cells(complete, np.where(make_missing(x, rate=self.rate, seed=SEED), np.nan, x)), complete

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.imputing import impute

        return self._scores(train, test, impute(run, train, trained=trained))

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.data.kinds.table import cells_of
        from anymask.evaluation.classical import IMPUTERS, min_max

        known = cells_of(train)
        low, spread = min_max(known)
        fills = {name: fill((known - low) / spread) * spread + low for name, fill in IMPUTERS.items()}
        return {f"{name} imputation": float(self._scores(train, test, filled).mean()) for name, filled in fills.items()}

    def _scores(self, train: Source, test: Source, filled: np.ndarray) -> np.ndarray:
        from anymask.data.kinds.table import cells_of
        from anymask.evaluation.classical import min_max

        known, truth = cells_of(train), cells_of(test)
        removed = np.isnan(known) & ~np.isnan(truth)
        error = np.where(removed, ((filled - truth) / min_max(truth)[1]) ** 2, 0.0).sum(1)
        return -100.0 * error * len(error) / removed.sum()


@dataclass(frozen=True)
class Rebuild(Metric):
    """How near hidden tokens are rebuilt, by the distance of the recipe's own target: minus its mean over the hidden
    tokens of a test sample. The test part is the data's own, or the last of the groups that samples are of, which is
    then not trained on.

    Args:
        ratio: share of the tokens that is hidden, the same ones for both arms and all seeds.
    """

    ratio: float = 0.7
    unit = "-distance"
    untrained = "untrained model"
    code = ("anymask.evaluation.masked", "anymask.evaluation.tasks.reconstruct")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if "test" in whole.splits:
            return whole.subset(chosen).cached(), whole.split("test").cached()
        if whole.groups is None or len(np.unique(whole.groups)) < 2:
            raise ClaimError(f"{whole.name} has neither a test split nor groups, of which one could be held back")
        held = whole.groups == np.unique(whole.groups)[-1]
        return whole.subset(chosen[~held[chosen]]), whole.subset(np.flatnonzero(held))

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        import torch

        from anymask.evaluation.masked import batches, content, frozen
        from anymask.evaluation.tasks.reconstruct import hidden_at

        model = frozen(run, trained=trained)
        if not hasattr(model.target, "distance"):
            raise ClaimError(f"the target of {run.recipe.slug} has no distance of its own; use another metric")
        out = np.full(len(test), np.nan)
        for sample in batches(model, run.schema, test, batch_size=32, fixed=True):
            step = hidden_at(model, sample, self.ratio, sample["key"])
            with torch.no_grad():
                made = content(model, model.predict(step))
                ((_, x),) = step.tokens.x.items()
                gap = model.target.distance(made, x)
            asked = ~step.mask.visible if step.tokens.valid is None else ~step.mask.visible & step.tokens.valid
            mean = torch.where(asked, gap, 0.0).sum(1) / asked.sum(1).clamp(min=1)
            out[sample["index"].numpy()] = -mean.double().cpu().numpy()
        return out
