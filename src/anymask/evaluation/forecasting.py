"""Forecasts of a long record: a linear head on an encoder's tokens of the look-back, frozen or fine-tuned, beside the
last value, the last season and a linear forecast.

Errors are in units of each variable's spread in training. A head is shared by all variables and predicts a window's
future in units of the window's own mean and spread where the tokenizer takes these away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anymask.data import Source
from anymask.data.loader import aligned
from anymask.engine import Model, Step, everything
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import frozen
from anymask.parts.series import ChannelPatches
from anymask.run import ENCODER_PARTS, Run
from anymask.train.optim import warmup_cosine

# Of a ridge regression, in mean squares of a feature over the rows: denser where overlapping windows want them.
PENALTIES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ROWS = 30_000  # rows (a variable of a window) that a ridge regression is fitted on, at most
DAY = 86_400.0

Codes = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]  # raw (B, C, L) -> features (B, C, F), mean, spread (B, C, 1)


class Board(NamedTuple):
    """A record, and what is forecast from what."""

    values: Tensor  # (C, T) in raw units, NaN where missing
    future: Tensor  # (C, T) the same in units of each variable's spread in training
    spans: dict[str, tuple[int, int]]
    lookback: int
    horizon: int

    def starts(self, part: str) -> np.ndarray:
        """First moments of all windows whose future lies in a part; the look-back may reach into the part before."""
        first, last = self.spans[part]
        return np.arange(max(0, first - self.lookback * (part != "train")), last - self.lookback - self.horizon + 1)

    def batches(self, starts: np.ndarray, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Raw look-backs (B, C, L) and scaled futures (B, C, H)."""
        for at in range(0, len(starts), size):
            first = torch.from_numpy(starts[at : at + size])[:, None]
            past = self.values[:, first + torch.arange(self.lookback)]
            future = self.future[:, first + self.lookback + torch.arange(self.horizon)]
            yield past.transpose(0, 1), future.transpose(0, 1)


def board(model: Model, source: Source, horizon: int) -> Board:
    """
    Raises:
        EvaluateError: no record, a tokenizer that does not cut channels into patches, or an impossible horizon.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, ChannelPatches):
        raise EvaluateError("forecasts of a record need tokens that are patches of single channels, as patchtst's")
    source = aligned(source, model.schema)
    column: Any = source.columns[tokenizer.field]
    if column.record is None:
        raise EvaluateError(f"{source.name} is no record in time with parts; give a table with a column of dates")
    lookback = model.schema.fields[tokenizer.field].shape[1]
    values = torch.from_numpy(column.record.values)
    scaled = (values - tokenizer.mean.cpu()) / tokenizer.std.cpu()
    made = Board(values, scaled, column.spans, lookback, horizon)
    least = min(len(made.starts(part)) for part in made.spans)
    if horizon < 1 or least < 1:
        raise EvaluateError(
            f"a look-back of {lookback} and a horizon of {horizon} do not fit the parts of {source.name} "
            f"({', '.join(f'{name} {last - first:,}' for name, (first, last) in made.spans.items())} moments); give a "
            "shorter horizon"
        )
    return made


# Features.


def codes(model: Model, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens of each channel side by side; see `Codes`."""
    x, mean, spread = model.tokenizer.scaled(values)
    tokens = model.tokenizer.tokens(x)
    step = Step({}, tokens, everything(tokens), aux={})
    latent = model.encoder(step._replace(seen=model.stem(step)), model)
    found = latent.x.float() if latent.ok is None else latent.x.float() * latent.ok[..., None]
    return found.unflatten(1, (x.shape[1], -1)).flatten(2), mean, spread


def encoded(model: Model) -> Codes:
    """A frozen encoder's features, on the CPU."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def encode(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, mean, spread = codes(model, values.to(device))
        return h.cpu(), mean.cpu(), spread.cpu()

    return encode


def plain(model: Model) -> Codes:
    """The look-back itself, by its own mean and spread."""
    mean, std = model.tokenizer.mean.cpu(), model.tokenizer.std.cpu()

    def encode(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (values - mean) / std
        middle = x.nanmean(2, keepdim=True).nan_to_num()
        spread = ((x - middle).square().nanmean(2, keepdim=True).nan_to_num() + 1e-5).sqrt()
        return ((x - middle) / spread).nan_to_num(), middle, spread

    return encode


# The head.


class Sums(NamedTuple):
    """What a least squares problem is made of."""

    gram: Tensor  # (F + 1, F + 1) float64
    cross: Tensor  # (F + 1, H)
    square: float


def sums(encode: Codes, made: Board, starts: np.ndarray, batch_size: int) -> Sums:
    """Over all rows (a variable of a window) whose future has no gap, each weighed so that errors count in the units of
    `Board.future`."""
    gram = cross = None
    square = 0.0
    for past, future in made.batches(starts, batch_size):
        h, mean, spread = encode(past)
        h = torch.cat([h, torch.ones_like(h[..., :1])], 2) * spread
        y = future - mean
        ok = ~y.isnan().any(2)
        h, y = h[ok], y[ok]  # rows F+1, rows H
        if gram is None or cross is None:
            gram = torch.zeros(h.shape[1], h.shape[1], dtype=torch.float64)
            cross = torch.zeros(h.shape[1], y.shape[1], dtype=torch.float64)
        gram += h.T @ h
        cross += h.T @ y
        square += float(y.double().square().sum())
    assert gram is not None and cross is not None
    return Sums(gram, cross, square)


def ridge(encode: Codes, made: Board, *, rows: int = ROWS, batch_size: int = 256) -> Tensor:
    """(F + 1, H) float32 weights, the last row the constant, by ridge regression; its penalty is what is best on the
    validation part. Of more than `rows` rows, windows at equal distances are taken."""
    channels = len(made.values)
    fit = thinned(made.starts("train"), rows // channels)
    check = thinned(made.starts("validation"), rows // 3 // channels)
    train, valid = (sums(encode, made, starts, batch_size) for starts in (fit, check))
    scale = train.gram.diagonal()[:-1].mean()
    best, least = None, float("inf")
    for penalty in PENALTIES:
        damped = train.gram.clone()
        damped.diagonal()[:-1].add_(penalty * scale)  # the constant is free
        factor, failed = torch.linalg.cholesky_ex(damped)
        if failed:  # the penalty is below what rounding leaves of collinear features
            continue
        weight = torch.cholesky_solve(train.cross, factor)
        error = float((weight * (valid.gram @ weight)).sum() - 2 * (weight * valid.cross).sum()) + valid.square
        if error < least:
            best, least = weight, error
    if best is None:
        raise EvaluateError("no linear forecast could be fitted: the features or the validation part are not finite")
    return best.float()


def thinned(starts: np.ndarray, most: int) -> np.ndarray:
    return starts[:: max(1, -(-len(starts) // max(1, most)))]


# Errors.


class Errors(NamedTuple):
    """Of each window, over variables and moments that are there."""

    square: np.ndarray
    absolute: np.ndarray


def measured(forecast: Callable[[Tensor], Tensor], made: Board, starts: np.ndarray, batch_size: int = 256) -> Errors:
    """`forecast` takes raw look-backs (B, C, L) and gives scaled futures (B, C, H)."""
    square, absolute = [], []
    with torch.no_grad():
        for past, future in made.batches(starts, batch_size):
            gap = (forecast(past) - future).flatten(1)
            square.append(gap.square().nanmean(1))
            absolute.append(gap.abs().nanmean(1))
    return Errors(torch.cat(square).numpy(), torch.cat(absolute).numpy())


def headed(encode: Codes, weight: Tensor) -> Callable[[Tensor], Tensor]:
    def forecast(values: Tensor) -> Tensor:
        h, mean, spread = encode(values)
        return (h @ weight[:-1] + weight[-1]) * spread + mean

    return forecast


def repeated(model: Model, made: Board, season: int) -> Callable[[Tensor], Tensor]:
    """The last `season` moments over and over; 1 = the last value. A gap is filled by the value before it, at the start
    of the look-back by the mean."""
    place = made.lookback - season + torch.arange(made.horizon) % season

    def forecast(values: Tensor) -> Tensor:
        x = (values - model.tokenizer.mean.cpu()) / model.tokenizer.std.cpu()
        index = torch.where(x.isnan(), 0, torch.arange(x.shape[2])).cummax(2).values
        return x.gather(2, index).nan_to_num()[..., place]

    return forecast


def season_of(interval: float | None, lookback: int) -> int | None:
    """Moments of a day, where it has several and the look-back has a day."""
    if not interval or DAY % interval or not 2 <= DAY / interval <= lookback:
        return None
    return int(DAY / interval)


# Fine-tuning.


class Forecaster(nn.Module):
    """An encoder and its head: raw look-backs (B, C, L) to scaled futures (B, C, H)."""

    def __init__(self, model: Model, weight: Tensor):
        super().__init__()
        self.model = model
        self.weight = nn.Parameter(weight.clone())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.partition(".")[0] in ENCODER_PARTS)

    def forward(self, values: Tensor) -> Tensor:
        h, mean, spread = codes(self.model, values)
        return (h @ self.weight[:-1] + self.weight[-1]) * spread + mean


def finetuned(
    model: Model, weight: Tensor, made: Board, *, epochs: int, lr: float, batch_size: int = 64, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """The forecaster after training encoder and head, which begins as the ridge regression's (Kumar et al. 2022,
    arXiv:2202.10054), by AdamW on the squared error of all training windows. Its weights are those of the epoch that is
    best on the validation part, the beginning among them."""
    device = next(model.parameters()).device
    net = Forecaster(copy.deepcopy(model), weight).to(device)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=1e-4)
    starts, valid = made.starts("train"), thinned(made.starts("validation"), 1000)
    generator = np.random.default_rng(seed)
    steps = epochs * -(-len(starts) // batch_size)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warmup_cosine(step=step, steps=steps))
    forecast = lambda values: net(values.to(device)).cpu()
    check = lambda: float(measured(forecast, made, valid, 256).square.mean())
    best, least = copy.deepcopy(net.state_dict()), check()
    for _ in range(epochs):
        net.train()
        for past, future in made.batches(generator.permutation(starts), batch_size):
            gap = net(past.to(device)) - future.to(device)
            there = ~gap.isnan()
            loss = torch.where(there, gap, 0.0).square().sum() / there.sum().clamp(min=1)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            rate.step()
        net.eval()
        error = check()
        if error < least:
            best, least = copy.deepcopy(net.state_dict()), error
    net.load_state_dict(best)
    net.eval()
    return forecast


# All together.


def forecasts(
    run: Run, source: Source, *, horizon: int, season: int | None, epochs: int, lr: float, seed: int
) -> tuple[dict[str, Errors], Board]:
    """Errors on every window of the test part, by forecast; arguments as those of the task."""
    models = {name: frozen(run, trained=trained) for name, trained in (("untrained", False), ("pre-trained", True))}
    model = models["pre-trained"]
    made = board(model, source, horizon)
    starts = made.starts("test")
    if season is not None and not 1 <= season <= made.lookback:
        raise EvaluateError(f"the past has {made.lookback} steps; give a season of 1 to {made.lookback}, not {season}")
    if epochs < 0 or lr <= 0:
        raise EvaluateError(f"epochs counts from 0 and lr is above 0, not epochs={epochs} and lr={lr}")
    season = season or season_of(model.schema.fields[model.tokenizer.field].interval, made.lookback)
    found = {"last value": measured(repeated(model, made, 1), made, starts)}
    if season is not None:
        found[f"season of {season}"] = measured(repeated(model, made, season), made, starts)
    encode = plain(model)
    found["linear"] = measured(headed(encode, ridge(encode, made)), made, starts)
    for name, one in models.items():
        encode = encoded(one)
        weight = ridge(encode, made)
        found[f"{name} encoder, frozen"] = measured(headed(encode, weight), made, starts)
        if epochs:
            tuned = finetuned(one, weight, made, epochs=epochs, lr=lr, seed=seed)
            found[f"{name} encoder, fine-tuned"] = measured(tuned, made, starts)
    return found, made
