"""Parts for scenes of several dates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anymask.engine import Model, Sample
from anymask.parts.sets import Sets


class Scenes(Sets):
    """Scenes of a satellite: a set of patches for each group of bands, of each date by itself (SatMAE,
    arXiv:2207.08051, sections 3.2 and 3.3). Where the data say their dates, year and month come first in `pos`, in
    place of the number of the date.

    Args:
        patch, field, groups, single: see `Sets`.
    """

    takes = "satellite"

    @staticmethod
    def serves(kind: str, arguments: Mapping[str, Any]) -> bool:
        return kind == "satellite"

    def __init__(
        self,
        model: Model,
        *,
        patch: int | Sequence[int] | None = None,
        field: str | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        single: bool = False,
    ):
        super().__init__(model, patch=patch, kind="satellite", field=field, groups=groups, single=single)
        about = model.schema.fields[self.field]
        dates = about.more["dates"]
        self.times = len(about.shape) - 3  # coordinates of time
        self.dates: list[list[float]] = []
        if self.times and dates:
            first = min(int(date[:4]) for date in dates)
            self.dates = [[int(date[:4]) - first + 0.5, int(date[5:7]) + 0.5] for date in dates]
            self.times, self.pitch = 2, (1.0, *self.pitch)

    def placed(self, pos: Tensor, sample: Sample) -> Tensor:
        if not self.dates:
            return pos
        number = pos[..., 0].long()
        return torch.cat([pos.new_tensor(self.dates)[number], pos[..., 1:]], -1)
