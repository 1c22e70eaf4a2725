"""How well a whole set (a scan, a band, a stain) is rebuilt from the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import Source, split_source
from anymask.engine import Model
from anymask.evaluation.masked import batches, frozen
from anymask.evaluation.metrics import psnr
from anymask.evaluation.wholly import check_sets, rebuilt
from anymask.reports.renderer import joined
from anymask.run import Run
from anymask.table import Table, interval

FITTED = 64  # training samples that the linear prediction is fitted on
RIDGE = 1e-3


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    samples: int = 200,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Table:
    """RMSE and PSNR of each set in turn, hidden everywhere and rebuilt from all others: by the set's mean, by the best
    linear prediction of a value from the others at its place (where all sets are as wide), by the untrained and by the
    pre-trained model. Units are the data's; figures are means over samples with 95 % intervals.

    Args:
        source: fits the linear prediction. test: what is rebuilt; None = the source's own test split, or a fifth of it,
            split by group where there are groups.
        samples: rebuilt at most, a random choice.

    Raises:
        EvaluateError: a recipe without several sets.
    """
    models = {"untrained model": frozen(run, trained=False), "pre-trained model": frozen(run)}
    names = check_sets(models["pre-trained model"])
    if test is None and "test" in source.splits:
        test = source.split("test")
    elif test is None:
        source, test = split_source(source, seed=seed, stratify=False)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(test))[:samples])
    held, fit = test.subset(chosen), source.subset(np.arange(min(FITTED, len(source))))
    train = [models["pre-trained model"].tokenizer(batch) for batch in batches(
        models["pre-trained model"], run.schema, fit, batch_size=batch_size, fixed=True)]  # fmt: skip
    linear = Linear.fitted(train) if len({x.shape[2] for x in train[0].x.values()}) == 1 else None
    field = next(iter(run.schema.fields.values()))
    found: dict[tuple[int, str], list[float]] = {}
    for sample in batches(models["pre-trained model"], run.schema, held, batch_size=batch_size, fixed=True,
                          progress=progress):  # fmt: skip
        for number in range(len(names)):
            for name, (made, truth, there) in _made(models, linear, sample, number).items():
                found.setdefault((number, name), []).extend(_errors(models["pre-trained model"], made, truth, there))
    rows: list[Sequence[Any]] = []
    lacking = {names[number] for (number, _), errors in found.items() if not errors}
    for (number, name), errors in found.items():
        if not errors:
            continue
        mean = np.array(errors)
        decibels = np.array([psnr(max(e, 1e-12), field.high - field.low) for e in errors])
        rows.append((names[number], name, interval(np.sqrt(mean)), interval(decibels)))
    title = f"whole sets of {len(held):,} samples of {held.name}, each rebuilt from the others, {run.recipe.slug}"
    notes = ["mean and 95 % interval over samples"]
    notes += [f"no test sample has both '{name}' and another set" for name in sorted(lacking)]
    borrows = getattr(models["pre-trained model"].target, "borrows", None)
    if borrows:
        notes.append(f"of the models, {borrows}; other fillings take nothing from the truth")
    return Table(("set", "rebuilt by", "RMSE", "PSNR (dB)"), rows, title=title, notes=notes)


def _made(models: dict[str, Model], linear: Linear | None, sample: dict[str, Tensor], number: int
          ) -> dict[str, tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    by = {name: rebuilt(model, sample, number) for name, model in models.items()}
    _, truth, there = by["pre-trained model"]
    simple = {"mean of the set": torch.zeros_like(truth)}  # content is standardised by channel
    if linear is not None:
        tokens = models["pre-trained model"].tokenizer(sample)
        simple["linear in the others"] = linear(joined(tokens.x), tokens.valid, number)
    return {name: (made, truth, there) for name, made in simple.items()} | by


def _errors(model: Model, made: Tensor, truth: Tensor, there: Tensor) -> list[float]:
    """Mean squared error of each sample that has values to rebuild, in the units of the data."""
    gap = torch.where(there, made - truth, 0.0)
    gap = model.tokenizer.whole(gap, None).nan_to_num() * model.tokenizer.std
    count = there.flatten(1).sum(1)
    total = gap.double().square().flatten(1).sum(1)
    return [float(t / c) for t, c in zip(total, count) if c > 0]


class Linear:
    """A value of one set from those of all others at its place, by ridge regression; others that are missing count as
    their mean."""

    def __init__(self, weights: Tensor):
        self.weights = weights  # (S, S) to, from; 0 on the diagonal

    @staticmethod
    def values(x: Tensor, valid: Tensor | None, sets: int) -> Tensor:
        """(S, n) standardised values at the same places, 0 where missing."""
        x = x if valid is None else torch.where(valid[..., None], x, 0.0)
        return x.nan_to_num().unflatten(1, (sets, -1)).transpose(0, 1).flatten(1)

    @classmethod
    def fitted(cls, train: list[Any]) -> Linear:
        sets = len(train[0].x)
        v = torch.cat([cls.values(joined(t.x), t.valid, sets) for t in train], 1).double()
        cov = v @ v.T / v.shape[1] + RIDGE * torch.eye(sets, dtype=torch.double)
        weights = torch.zeros(sets, sets, dtype=torch.double)
        for number in range(sets):
            others = [n for n in range(sets) if n != number]
            weights[number, others] = torch.linalg.solve(cov[others][:, others], cov[others, number])
        return cls(weights.float())

    def __call__(self, x: Tensor, valid: Tensor | None, number: int) -> Tensor:
        sets = len(self.weights)
        v = self.values(x, valid, sets)
        one = (self.weights[number] @ v).view(len(x), -1, x.shape[2])
        return one.repeat(1, sets, 1)
