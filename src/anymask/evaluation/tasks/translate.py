"""Rebuilding one part of a sample from another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anymask.data import Source
from anymask.evaluation.crossing import crossed, fields_of, left
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import frozen
from anymask.run import Run
from anymask.table import Table, interval

MODELS = (("untrained model", False), ("pre-trained model", True))


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    samples: int = 500,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """Error left, in % of the best constant's, of rebuilding each part (columns) from one other part (rows).

    The part that is rebuilt from is seen wholly, all others are hidden. The error is the recipe's own loss of a part.
    The constant is the best one for all tokens of a part, so 100 is what is reached without looking; it is fitted to
    the samples that are measured, but for classes, whose frequencies are those of the training data. Figures are means
    over the samples that have both parts, with 95 % intervals (Student's t over samples).

    Args:
        source: of several parts. test: what is measured; None = the source's own test split, or else the source.
        samples: at most, a random choice.

    Raises:
        EvaluateError: a model of one part.
    """
    if samples < 2:
        raise EvaluateError(f"samples counts from 2, not {samples}")
    models = {name: frozen(run, trained=trained) for name, trained in MODELS}
    fields = fields_of(models["pre-trained model"])
    held = test or (source.split("test") if "test" in source.splits else source)
    if len(held) > samples:
        held = held.subset(np.sort(np.random.default_rng(seed).permutation(len(held))[:samples]))
    rows: list[Sequence[Any]] = []
    for name, model in models.items():
        found = left(crossed(model, run.schema, held, batch_size=batch_size, progress=progress))
        for seen in fields:
            rows.append((name, seen, *(_cell(found.get((seen, rebuilt))) for rebuilt in fields)))
    title = f"rebuilding parts of {len(held):,} samples of {held.name} from another part, {run.recipe.slug}"
    notes = ["% of the error of the best constant that is left; below 100 something is known of a part from the other"]
    return Table(("model", "seen", *fields), rows, title=title, notes=notes)


def _cell(shares: np.ndarray | None) -> Any:
    known = None if shares is None else shares[np.isfinite(shares)]
    return None if known is None or len(known) < 2 else interval(100 * known)
