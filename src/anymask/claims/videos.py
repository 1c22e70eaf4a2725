"""How claims on small sets of videos are measured."""

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
class ClipFolds(Metric):
    """Accuracy of a support vector machine on frozen features of the middle clip of each video, in stratified folds,
    see `anymask.evaluation.folds`. Videos that are neighbours in the set, of one class, stay in one fold, as they are
    often cut from one recording. The score of a video is how often it is told right, over repeats of the folds.

    Args:
        frames, side: of a clip, in training as well; small, so that a claim takes minutes.
        folds, repeats: of cross-validation.
        neighbours: how many videos in a row stay together, where the data have no groups.
        pool: of the features, see `anymask.evaluation.embed`.
    """

    frames: int = 8
    side: int = 64
    folds: int = 5
    repeats: int = 5
    neighbours: int = 10
    pool: str = "mean"
    code = ("anymask.claims.videos", "anymask.evaluation.folds", "anymask.data.kinds.video")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        from anymask.data.kinds.video import clipped

        if whole.labels is None or [kind.name for kind in whole.kinds.values()] != ["video"]:
            raise ClaimError(f"{whole.name} is no set of videos with labels, which this claim is measured on; use one")
        small = clipped(whole.subset(chosen), frames=self.frames, side=self.side)
        return small, small

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.features import embed

        return self._right(np.asarray(embed(run, test, pool=self.pool, trained=trained, precision=precision)), test)

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.evaluation.inputs import raw_input

        return {"raw input": float(self._right(raw_input(test, schema), test).mean())}

    def _right(self, x: np.ndarray, data: Source) -> np.ndarray:
        """(T,) per cent of the repeats in which each video is told right."""
        from anymask.evaluation.folds import svm_folds

        assert data.labels is not None
        groups = data.groups if data.groups is not None else runs_of(data.labels, self.neighbours)
        folds = [svm_folds(x, data.labels, folds=self.folds, seed=SEED + n, groups=groups) for n in range(self.repeats)]
        right = [each for each, _ in folds]
        return 100.0 * np.mean(right, axis=0)


def runs_of(labels: np.ndarray, length: int) -> np.ndarray:
    """(N,) groups of `length` samples of one class that follow one another."""
    groups = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        groups[mine] = groups.max() + 1 + np.arange(len(mine)) // length
    return groups
