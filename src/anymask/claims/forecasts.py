"""Claims about what comes later: records in time, and tracks of agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.metrics import Metric

if TYPE_CHECKING:
    from anymask.data import Schema, Source
    from anymask.run import Run


@dataclass(frozen=True)
class Forecast(Metric):
    """Error of forecasting a record by a linear head on a frozen encoder's tokens, see
    `anymask.evaluation.forecasting`: minus the mean squared error times 100. Windows overlap, so a score is of a
    stretch of `horizon` windows. A pilot is measured on the validation part.

    Args:
        horizon: moments that are forecast.
        rows: rows that a head is fitted on, at most.
    """

    horizon: int = 96
    rows: int = 15_000
    unit = "-100 x mean squared error"
    code = ("anymask.claims.forecasts", "anymask.evaluation.forecasting")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        if all(column.record is None for column in whole.columns.values()) or "test" not in whole.splits:
            raise ClaimError(f"{whole.name} is no record in time, which forecasts are measured on; use one")
        return whole.subset(chosen), whole.split("test")

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.forecasting import board, encoded, headed, measured, ridge
        from anymask.evaluation.masked import frozen

        model = frozen(run, trained=trained)
        made, encode = board(model, train, self.horizon), encoded(model)
        pilot = all(test.columns[name] is column for name, column in train.columns.items())
        starts = made.starts("validation" if pilot else "test")
        error = measured(headed(encode, ridge(encode, made, rows=self.rows)), made, starts).square
        stretches = np.array_split(error, max(2, len(error) // self.horizon))
        return -100.0 * np.array([stretch.mean() for stretch in stretches])


@dataclass(frozen=True)
class ForecastTracks(Metric):
    """Error of forecasting an agent's future by a linear head on the frozen code of its past, in a scene that is not
    trained on: minus the mean displacement of a sample in centimetres. See `anymask.evaluation.trajectories`.

    Args:
        scene: name of the scene that is held back.
        tested: windows of it that are measured, at most, evenly over it.
    """

    scene: str = ""
    tested: int = 1_000
    unit = "-cm of mean displacement"
    code = ("anymask.claims.forecasts", "anymask.evaluation.trajectories")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        groups = whole.groups
        if groups is None or self.scene not in groups or len(np.unique(groups)) < 2:
            raise ClaimError(f"{whole.name} has no scene '{self.scene}' beside others, which forecasts are measured on")
        held = np.flatnonzero(groups == self.scene)
        spread = np.unique(np.linspace(0, len(held) - 1, self.tested).round().astype(int))
        return whole.subset(chosen[groups[chosen] != self.scene]), whole.subset(held[spread])

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.masked import frozen
        from anymask.evaluation.trajectories import displacement, headed, seen_pasts

        model = frozen(run, trained=trained)
        known, new = (seen_pasts(model, part) for part in (train, test))
        return -100.0 * displacement(headed(known, new), new.future)[0]

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        from anymask.evaluation.trajectories import constant_velocity, displacement, paths_of

        past, future = paths_of(test, schema)
        return {"constant velocity": float(-100.0 * displacement(constant_velocity(past, future), future)[0].mean())}
