"""The metric of claims on missing scans: a contrast that is rebuilt from the other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anymask.claims.errors import ClaimError
from anymask.claims.metrics import Metric

if TYPE_CHECKING:
    from anymask.data import Schema, Source
    from anymask.run import Run

CROP, STRIDE = 48, 24  # voxels


@dataclass(frozen=True)
class Contrast(Metric):
    """PSNR in dB of a contrast rebuilt from another one of the same head, where it was hidden wholly: the mean over
    both directions, of crops of the upper part of the head. Both arms are trained on crops of its lower part, which
    the crops that are tested do not touch, wherever they are moved to in training.

    Args:
        pair: names of the two files, without their endings, in a folder of volumes.
    """

    pair: tuple[str, str] = ("t1", "t2")
    unit = "dB"
    untrained = "untrained model"
    code = ("anymask.evaluation.wholly", "anymask.evaluation.masked")

    def parts(self, whole: Source, chosen: np.ndarray) -> tuple[Source, Source]:
        from anymask.data import Source
        from anymask.data.kinds._volumes import Case, stem
        from anymask.data.kinds.volume import Volumes

        column = whole.columns.get("volume")
        found = {stem(case.name): case for case in getattr(column, "cases", ())}
        if not isinstance(column, Volumes) or not set(self.pair) <= set(found):
            raise ClaimError(f"{whole.name} holds no volumes {' and '.join(self.pair)}, which this is measured on")
        case = Case("pair", tuple(found[name].scans[0] for name in self.pair))
        pair = Volumes([case], self.pair, spacing=column.spacing, crop=CROP, stride=STRIDE,
                       scaling=("percentiles", "percentiles"))  # fmt: skip
        height = np.array([start[2] for _, start in pair.rows])
        border = int(np.median(height)) + STRIDE
        source = Source(name=whole.name, columns={"volume": pair}, ids=[str(start) for _, start in pair.rows])
        train = np.flatnonzero(height + CROP + STRIDE // 2 <= border)
        test = np.flatnonzero(height >= border)
        both = [int(row) for row in test if not np.isnan(source[int(row)]["volume"].read()).all((1, 2, 3)).any()]
        if not len(train) or not len(both):
            raise ClaimError(f"the scans of {whole.name} are too low for two parts of {CROP} voxels each")
        return source.subset(train), source.subset(both)

    def scores(self, run: Run, train: Source, test: Source, *, trained: bool = True, precision: str = "bf16"
               ) -> np.ndarray:  # fmt: skip
        from anymask.evaluation.masked import frozen
        from anymask.evaluation.wholly import rebuilt

        model = frozen(run, trained=trained)
        return self._decibels(model, run.schema, test, lambda sample, number: rebuilt(model, sample, number))

    def context(self, train: Source, test: Source, schema: Schema) -> dict[str, float]:
        """Each contrast by its mean over the training part."""
        import torch

        from anymask.engine import Model
        from anymask.evaluation.wholly import rebuilt
        from anymask.recipe import find
        from anymask.sizes import SIZES

        model: Model = find("bm-mae").build(schema, SIZES["nano"]).eval()

        def mean(sample: Any, number: int) -> Any:
            _, truth, there = rebuilt(model, sample, number)
            return torch.zeros_like(truth), truth, there

        return {"mean of the contrast": float(self._decibels(model, schema, test, mean).mean())}

    def _decibels(self, model: Any, schema: Schema, test: Source, rebuild: Any) -> np.ndarray:
        from anymask.evaluation.masked import batches
        from anymask.evaluation.metrics import psnr
        from anymask.evaluation.wholly import check_sets

        check_sets(model)
        out = np.full(len(test), np.nan)
        field = schema.fields["volume"]
        for sample in batches(model, schema, test, batch_size=16, fixed=True):
            found = []
            for number in range(2):
                made, truth, there = rebuild(sample, number)
                gap = ((made - truth) * there).double().square().flatten(1).sum(1)
                error = gap / there.flatten(1).sum(1).clamp(min=1) * field.std[number] ** 2
                found.append([psnr(max(float(e), 1e-12), field.high - field.low) for e in error])
            out[sample["index"].cpu().numpy()] = np.mean(found, axis=0)
        return out
