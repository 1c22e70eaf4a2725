"""How well hidden content is filled in, over mask ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anymask import keyed
from anymask.data import Source
from anymask.engine import Model, Step, Tokens
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.infill import WIDEST, Gaussian, interpolated, nearest, nearest_value
from anymask.evaluation.masked import batches, check_content, content, frozen, hide
from anymask.evaluation.metrics import psnr
from anymask.reports.renderer import joined
from anymask.run import Run
from anymask.table import Table, interval

RATIOS = (0.25, 0.5, 0.75, 0.9)
FITTED = 5_000  # training samples that classical fillings are fitted on ...
VALUES = 2**27  # ... of so many values together
MODELS = (("untrained model", False), ("pre-trained model", True))


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    ratios: Sequence[float] = RATIOS,
    draws: int = 3,
    samples: int = 500,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """Error of filling in hidden tokens over mask ratios: RMSE and PSNR, or cross-entropy and perplexity.

    Tokens are hidden at random, the same ones for all methods; each figure is taken over all hidden values, its mean
    and 95 % interval over the draws of the masks. Samples are made the size of training.

    Real numbers are filled by the mean of the place, the nearest visible token, the best linear prediction from all
    visible values (a normal distribution with the training part's mean and shrunk covariance, of at most 1,024 values a
    sample), for images also linear interpolation of pixels, for volumes the nearest visible voxel, and by the model.
    Errors of images are in raw units, PSNR
    is of the range that the schema names; other data are in the tokenizer's units, without PSNR. Where the target has a
    distance of its own, as sets of points have, that is measured, and fillings that average are left out: compared with
    are the nearest visible token and the most typical token of the training part. Integers are
    predicted by how frequent each is in the training part, and by the model.

    Args:
        source: fits the classical methods; labels are not needed.
        test: what is filled; None = the source's own test split, or else the source.
        ratios: hidden shares of the tokens.
        draws: of masks. samples: filled at most, a random choice.

    Raises:
        EvaluateError: a recipe that does not predict content, or an impossible ratio.
    """
    models = {name: frozen(run, trained=trained) for name, trained in MODELS}
    model = models["pre-trained model"]
    check_content(model)
    _check(ratios, draws, samples)
    held = test or (source.split("test") if "test" in source.splits else source)
    size = sum(math.prod(field.shape) for field in run.schema.fields.values())
    fitted = max(2, min(FITTED, VALUES // size))
    fit, held = (_some(part, n, seed) for part, n in ((source, fitted), (held, samples)))
    whole: dict[str, Any] = dict(batch_size=batch_size, fixed=True)
    train = [model.tokenizer(sample) for sample in batches(model, run.schema, fit, **whole)]
    if hasattr(model.target, "distance"):
        return _by_distance(run, models, train, held, ratios, draws, seed, whole, progress)
    x = torch.cat([joined(tokens.x) for tokens in train])
    x = x.nan_to_num() if x.is_floating_point() else x  # single missing values count as the mean
    valid = _valid(train)
    real = x.is_floating_point()
    grid = hasattr(model.tokenizer, "whole")  # values on a grid, cut into patches
    methods = _fillings(model, x, valid) if real else {}
    field = next(iter(run.schema.fields.values()))
    errors: dict[str, np.ndarray] = {}  # method -> (ratio, draw) mean error
    for i, ratio in enumerate(ratios):
        for draw in range(draws):
            sums: dict[str, Tensor] = {}
            for sample in batches(model, run.schema, held, progress=progress, **whole):
                step = hidden_at(model, sample, ratio, keyed.fold(keyed.fold(sample["key"], seed), draw))
                found = _filled(step, methods, models, grid) if real else _guessed(step, x, valid, models)
                for name, (total, count) in found.items():
                    sums[name] = sums.get(name, torch.zeros(2, dtype=torch.float64)) + torch.stack([total, count])
            for name, (total, count) in sums.items():
                errors.setdefault(name, np.full((len(ratios), draws), np.nan))[i, draw] = float(total / count)
    span = field.high - field.low if grid and hasattr(field, "high") else None
    rows = [row for name, found in errors.items() for row in _rows(name, found, real, span)]
    title = f"filling in hidden tokens of {len(held):,} samples of {held.name}, {run.recipe.slug}"
    heads = ["figure", *(f"{100 * ratio:g} % hidden" for ratio in ratios)]
    return Table(("filled by", *heads), rows, title=title, notes=_notes(model, real, grid, draws, x))


def hidden_at(model: Model, sample: dict[str, Tensor], ratio: float, key: Tensor) -> Step:
    """A step with a share of the tokens hidden at random, at least one and not all."""
    step = Step(sample, model.tokenizer(sample), aux={})
    n = step.tokens.shape[1]
    seen: int | float = min(n - 1, max(1, round(n * (1 - ratio))))
    return hide(model, step, keyed.uniform(key, n, salt=13), seen if step.tokens.valid is None else 1 - ratio)


def _check(ratios: Sequence[float], draws: int, samples: int) -> None:
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise EvaluateError(f"ratios are hidden shares above 0 and below 1, as [0.25, 0.75], not {list(ratios)}")
    if draws < 1 or samples < 1:
        raise EvaluateError(f"draws and samples count from 1, not draws={draws} and samples={samples}")


def _valid(tokens: list[Tokens]) -> Tensor | None:
    """(n, N) which tokens are real, of all batches; None = all are."""
    if all(t.valid is None for t in tokens):
        return None
    return torch.cat([torch.ones_like(t.pos[..., 0], dtype=torch.bool).expand(t.shape) if t.valid is None else t.valid
                      for t in tokens])  # fmt: skip


def _some(source: Source, most: int, seed: int) -> Source:
    if len(source) <= most:
        return source
    return source.subset(np.sort(np.random.default_rng(seed).permutation(len(source))[:most]))


# Real numbers.

Fill = Callable[[Step, Tensor], Tensor]  # (step, content (B, N, D)) -> content (B, N, D)


def _fillings(model: Model, x: Tensor, valid: Tensor | None) -> dict[str, Fill]:
    narrow = x[0].numel() <= WIDEST
    gaussian = Gaussian(x, valid) if narrow else None
    if gaussian is not None:
        place: Fill = lambda step, content: gaussian.place(content, step.mask.visible)
    else:
        mean = _mean(x, valid)
        place = lambda step, content: torch.where(step.mask.visible[..., None], content, mean)
    found = {"mean of the place": place}
    found["nearest visible token"] = lambda step, content: nearest(
        content, step.mask.visible, step.tokens.pos, step.tokens.kinds
    )
    if hasattr(model.tokenizer, "whole") and len(model.tokenizer.streams) == 1:
        wide = len(model.tokenizer.sides) > 2  # linear interpolation of more axes takes hours
        fill: Callable[[Tensor, Tensor], Tensor] = nearest_value if wide else interpolated
        name = "nearest visible voxel" if wide else "linear interpolation"
        found[name] = lambda step, content: _interpolated(model, step, content, fill)
    if gaussian is not None:
        found["best linear prediction"] = lambda step, content: gaussian(content, step.mask.visible)
    return found


def _mean(x: Tensor, valid: Tensor | None) -> Tensor:
    real = torch.ones_like(x[..., :1]) if valid is None else valid[..., None].to(x.dtype)
    return (x * real).sum(0) / real.sum(0).clamp(min=1)


def _interpolated(model: Model, step: Step, x: Tensor, fill: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Patches, interpolated value by value."""
    tokenizer, grid = model.tokenizer, step.tokens.grid
    shown = tokenizer.whole(step.mask.visible[..., None].expand_as(x).to(x.dtype), grid)[:, 0] > 0.5
    return tokenizer.patches(fill(tokenizer.whole(x, grid), shown))


@torch.no_grad()
def _filled(
    step: Step, methods: dict[str, Fill], models: dict[str, Model], grid: bool
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sum of squared errors over hidden values, and their number, of every method."""
    x = joined(step.tokens.x)
    asked = ~step.mask.visible if step.tokens.valid is None else ~step.mask.visible & step.tokens.valid
    asked = asked[..., None] & ~x.isnan()  # B N D
    made = {name: fill(step, x.nan_to_num()) for name, fill in methods.items()}
    made |= {name: content(model, model.predict(step._replace(aux={}))) for name, model in models.items()}
    count = asked.sum().double()
    tokenizer = next(iter(models.values())).tokenizer
    found = {}
    for name, y in made.items():
        gap = torch.where(asked, y - x, 0.0)
        if grid:
            gap = tokenizer.whole(gap, step.tokens.grid) * tokenizer.std
        found[name] = (gap.double().square().sum().cpu(), count.cpu())
    return found


# Tokens with a distance of their own.

JUDGED = 256  # training tokens that the most typical one is found by


@torch.no_grad()
def _by_distance(
    run: Run,
    models: dict[str, Model],
    train: list[Tokens],
    held: Source,
    ratios: Sequence[float],
    draws: int,
    seed: int,
    whole: dict[str, Any],
    progress: bool,
) -> Table:
    """`evaluate` by `target.distance(made, truth)` -> (..., N)."""
    target = models["pre-trained model"].target
    typical = _typical(target, train, seed)
    fills: dict[str, Fill] = {
        "most typical token": lambda step, x: torch.where(step.mask.visible[..., None], x, typical),
        "nearest visible token": lambda step, x: nearest(x, step.mask.visible, step.tokens.pos),
    }
    errors: dict[str, np.ndarray] = {}
    for i, ratio in enumerate(ratios):
        for draw in range(draws):
            sums: dict[str, np.ndarray] = {}
            for sample in batches(models["pre-trained model"], run.schema, held, progress=progress, **whole):
                key = keyed.fold(keyed.fold(sample["key"], seed), draw)
                step = hidden_at(models["pre-trained model"], sample, ratio, key)
                ((_, x),) = step.tokens.x.items()
                asked = ~step.mask.visible if step.tokens.valid is None else ~step.mask.visible & step.tokens.valid
                made = {name: fill(step, x) for name, fill in fills.items()}
                made |= {name: content(m, m.predict(step._replace(aux={}))) for name, m in models.items()}
                for name, y in made.items():
                    gap = target.distance(y, x)[asked].double()
                    sums[name] = sums.get(name, np.zeros(2)) + np.array([float(gap.sum()), len(gap)])
            for name, (total, count) in sums.items():
                errors.setdefault(name, np.full((len(ratios), draws), np.nan))[i, draw] = total / max(count, 1)
    title = f"filling in hidden tokens of {len(held):,} samples of {held.name}, {run.recipe.slug}"
    heads = ["figure", *(f"{100 * ratio:g} % hidden" for ratio in ratios)]
    cells = lambda found: (interval(row, 3) for row in found)
    rows: list[Sequence[Any]] = [(name, target.measure, *cells(found)) for name, found in errors.items()]
    note = f"mean and 95 % interval over {draws} draws of masks, the same for all methods"
    return Table(("filled by", *heads), rows, title=title, notes=[note])


def _typical(target: Any, train: list[Tokens], seed: int) -> Tensor:
    """(D,) the training token with the least mean distance to others, of a random choice."""
    each = [next(iter(tokens.x.values())) for tokens in train]
    flat = torch.cat([x.flatten(0, 1) if t.valid is None else x[t.valid] for x, t in zip(each, train)])
    some = flat[torch.from_numpy(np.random.default_rng(seed).permutation(len(flat))[:JUDGED]).to(flat.device)]
    mean = torch.stack([target.distance(one.expand_as(some), some).mean() for one in some])
    return some[mean.argmin()]


# Integers.


@torch.no_grad()
def _guessed(
    step: Step, train: Tensor, valid: Tensor | None, models: dict[str, Model]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sum of cross-entropies over hidden tokens, and their number, of every method."""
    ((_, x),) = step.tokens.x.items()
    assert step.mask.ask is not None
    truth = x.gather(1, step.mask.ask)
    ok = torch.ones_like(truth, dtype=torch.bool) if step.mask.ask_ok is None else step.mask.ask_ok
    found = {}
    for name, model in models.items():
        (pred,) = model.predict(step._replace(aux={})).pred.values()
        error = F.cross_entropy(pred.double()[ok], truth[ok], reduction="sum")
        found[name] = (error.cpu(), ok.sum().double().cpu())
    counts = torch.bincount((train if valid is None else train[valid]).flatten(), minlength=pred.shape[-1]).double()
    share = torch.log((counts + 1) / (counts + 1).sum())
    frequent = (-share[truth[ok]].sum().cpu(), ok.sum().double().cpu())
    return {"frequency in training": frequent, **found}


# The table.


def _rows(name: str, errors: np.ndarray, real: bool, span: float | None) -> list[Sequence[Any]]:
    if not real:
        return [
            (name, "cross-entropy (nats)", *(interval(row, 3) for row in errors)),
            (name, "perplexity", *(interval(np.exp(row), 2) for row in errors)),
        ]
    rows: list[Sequence[Any]] = [(name, "RMSE", *(interval(np.sqrt(row), 3) for row in errors))]
    if span:
        decibels = [[psnr(float(v), span) for v in row] for row in errors]
        rows.append((name, "PSNR (dB)", *(interval(np.array(row), 2) for row in decibels)))
    return rows


def _notes(model: Model, real: bool, grid: bool, draws: int, x: Tensor) -> list[str]:
    notes = [f"mean and 95 % interval over {draws} draws of masks, the same for all methods"]
    if real:
        notes.append(f"RMSE is in {'raw units' if grid else 'the units of the tokenizer'}, over all hidden values")
        if x[0].numel() > WIDEST:
            notes.append(f"samples have {x[0].numel():,} values: too many for the best linear prediction")
    borrows = getattr(model.target, "borrows", None)
    if borrows:
        notes.append(f"of the models, {borrows}; the classical methods take nothing from the truth")
    return notes
