"""The last part of a sample from the first, or of a long record what follows a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import DataError, Source, infer_schema, split_source
from anymask.engine import Model, Step
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.forecasting import forecasts
from anymask.evaluation.masked import batches, check_content, content, frozen, hide
from anymask.run import Run
from anymask.table import Figure, Table, interval

ALPHAS = tuple(10.0**n for n in range(-2, 6))  # penalties of the linear forecast to choose from
MODELS = (("untrained model", False), ("pre-trained model", True))


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    horizon: int | None = None,
    axis: int = 0,
    season: int | None = None,
    epochs: int = 0,
    lr: float = 1e-4,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """MSE and MAE of predicting the last part of a sample from the first, by hiding the future tokens.

    Time is an axis of the tokens' grid: the columns of a table, the rows (axis 0) or columns (axis 1) of an image.
    Beside the model: the last value, the value one season earlier, the mean of the place in the training part, and a
    ridge regression from the whole past to the whole future, its penalty chosen by leaving one training sample out
    (scikit-learn's RidgeCV). Values are in the tokenizer's units. Each figure is the mean over test samples, with its
    95 % interval (Student's t over samples).

    Of a long record in time, nothing is hidden: what follows a window, `horizon` moments (96), is predicted by a linear
    head on the tokens of the window, which sees all of them. The head is a ridge regression on the training part, its
    penalty chosen on validation; every window of the test part counts. The linear forecast is the same of the window
    itself. With `epochs`, encoder and head are also fine-tuned.

    Args:
        source: fits the classical forecasts. test: what is forecast; None = the source's own test split, or a fifth.
        horizon: tokens along the axis that are future; None = a quarter of them, at least one.
        season: steps (pixels, columns) of a period, at most as many as the past has; None = no seasonal forecast, of a
            record a day.
        epochs, lr: of fine-tuning, of a record; 0 = none.

    Raises:
        EvaluateError: tokens without a grid or of integers, a recipe that does not predict content, no such axis, an
            impossible horizon or season. DataError: missing values.
    """
    if any(column.record is not None for column in source.columns.values()):
        if test is not None or axis:
            raise EvaluateError("a record is measured on its own test part, along time; leave test= and axis= out")
        return _of_record(run, source, horizon=96 if horizon is None else horizon, season=season, epochs=epochs, lr=lr,
                          seed=seed)  # fmt: skip
    models = {name: frozen(run, trained=trained) for name, trained in MODELS}
    model = models["pre-trained model"]
    check_content(model)
    horizon = _horizon(model, axis, horizon)
    if test is not None:
        train, held, notes = source, test, []
        run.schema.check(infer_schema(held))
    elif "test" in source.splits:
        train, held, notes = source, source.split("test"), ["the test part is the data's own test split"]
    else:
        train, held = split_source(source, seed=seed)
        notes = [f"the test part is a fifth of the data, split with seed {seed}"]
    whole: dict[str, Any] = dict(batch_size=batch_size, fixed=True)
    known = np.concatenate([
        _steps(model, _values(step), axis)
        for step in _hidden(model, batches(model, run.schema, train, **whole), axis, horizon)
    ])  # fmt: skip
    ahead = horizon * _patch(model, axis)
    past = known.shape[1] - ahead
    _check_season(season, past)
    true: list[np.ndarray] = []
    made: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for step in _hidden(model, batches(model, run.schema, held, progress=progress, **whole), axis, horizon):
        true.append(_steps(model, _values(step), axis))
        for name, one in models.items():
            with torch.no_grad():
                filled = content(one, one.predict(step._replace(aux={})))
            made[name].append(_steps(model, filled, axis)[:, past:])
    x = np.concatenate(true)
    found = classical(known, x[:, :past], season)
    found |= {name: np.concatenate(parts) for name, parts in made.items()}
    rows: list[Sequence[Any]] = []
    for name, guess in found.items():
        gap = (guess - x[:, past:]).reshape(len(x), -1)
        rows.append((name, interval(np.square(gap).mean(1), 3), interval(np.abs(gap).mean(1), 3)))
    notes += [f"{past} steps of past, {ahead} of future; values are in the tokenizer's units"]
    borrows = getattr(model.target, "borrows", None)
    notes += [f"of the models, {borrows}"] if borrows else []
    title = f"forecasts of {len(x):,} test samples of {held.name}, {run.recipe.slug}"
    return Table(("forecast", "MSE", "MAE"), rows, title=title, notes=notes)


def _of_record(run: Run, source: Source, *, horizon: int, epochs: int, **options: Any) -> Table:
    found, made = forecasts(run, source, horizon=horizon, epochs=epochs, **options)
    figure = lambda values: Figure(float(values.mean()), digits=4)
    rows: list[Sequence[Any]] = [(name, figure(e.square), figure(e.absolute)) for name, e in found.items()]
    parts = ", ".join(f"{name} {last - first:,}" for name, (first, last) in made.spans.items())
    notes = [f"{made.lookback} moments of past, {horizon} of future; parts by time, in moments: {parts}",
             "values are in units of each variable's spread in training; the windows overlap, so no interval is given",
             "the penalty of linear forecasts and heads is chosen on validation"
             + ", as is the epoch of fine-tuning, which begins with the frozen encoder's head" * bool(epochs)]
    title = f"forecasts of {len(made.starts('test')):,} test windows of {source.name}, {run.recipe.slug}"
    return Table(("forecast", "MSE", "MAE"), rows, title=title, notes=notes)


def classical(train: np.ndarray, past: np.ndarray, season: int | None = None) -> dict[str, np.ndarray]:
    """Forecasts (M, A, S) from the past (M, P, S), fitted on whole training samples (N, P + A, S)."""
    from sklearn.linear_model import RidgeCV

    m, p, s = past.shape
    ahead = train.shape[1] - p
    found = {"last value": np.repeat(past[:, -1:], ahead, 1)}
    if season is not None:
        found["seasonal"] = past[:, [p - season + i % season for i in range(ahead)]]
    found["mean of the place"] = np.repeat(train[:, p:].mean(0, keepdims=True), m, 0)
    flat = lambda a: a.reshape(len(a), -1).astype(np.float64)
    model = RidgeCV(ALPHAS).fit(flat(train[:, :p]), flat(train[:, p:]))
    found["linear"] = model.predict(flat(past)).reshape(m, ahead, s)
    return found


def _horizon(model: Model, axis: int, horizon: int | None) -> int:
    grid = getattr(model.tokenizer, "grid", None)
    if grid is None or next(iter(model.tokenizer.streams.values())) < 0:
        raise EvaluateError("forecasts need tokens of real numbers on a grid, one axis of which is time")
    if not 0 <= axis < len(grid):
        raise EvaluateError(f"tokens lie on a grid of {grid}; give axis= as 0 to {len(grid) - 1}, not {axis}")
    horizon = max(1, grid[axis] // 4) if horizon is None else horizon
    if not 1 <= horizon < grid[axis]:
        raise EvaluateError(f"there are {grid[axis]} tokens along axis {axis}; give a horizon of 1 to {grid[axis] - 1}")
    return horizon


def _check_season(season: int | None, past: int) -> None:
    if season is not None and not 1 <= season <= past:
        raise EvaluateError(f"the past has {past} steps; give a season of 1 to {past}, not {season}")


def _hidden(model: Model, samples: Iterator[dict[str, Tensor]], axis: int, horizon: int) -> Iterator[Step]:
    """Steps with the future hidden."""
    for sample in samples:
        step = Step(sample, model.tokenizer(sample), aux={})
        grid = step.tokens.grid
        assert grid is not None
        place = torch.arange(grid[axis]).view([-1 if i == axis else 1 for i in range(len(grid))]).expand(grid)
        future = (place >= grid[axis] - horizon).flatten().to(step.tokens.pos.device)
        score = future.float().expand(step.tokens.shape)
        if step.tokens.valid is not None and not step.tokens.valid.all():
            raise DataError("forecasts need samples without missing values; fill them first, as by evaluation.impute")
        yield hide(model, step, score, int((~future).sum()))


def _values(step: Step) -> Tensor:
    (x,) = step.tokens.x.values()
    return x


def _patch(model: Model, axis: int) -> int:
    """Steps that a token spans along an axis."""
    return model.tokenizer.sides[axis] if hasattr(model.tokenizer, "sides") else 1


def _steps(model: Model, x: Tensor, axis: int) -> np.ndarray:
    """Tokens (B, N, D) as (B, T, S): the steps of time, and all values of each."""
    tokenizer = model.tokenizer
    if hasattr(tokenizer, "whole"):
        x = tokenizer.whole(x, tokenizer.grid).movedim(2 + axis, 1)  # B H C W, or B W C H
    else:
        x = x.unflatten(1, tokenizer.grid).movedim(1 + axis, 1)
    return x.flatten(2).float().cpu().numpy()
