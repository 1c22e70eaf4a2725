"""Forecasts of an agent's future from its past and the pasts of the agents beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anymask.data import Schema, Source, ordered_loader, training_loader
from anymask.engine import Model, Sample, Step
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import batches, content
from anymask.parts.agents import PAST, hide_these
from anymask.parts.layers import LayerNorm, Linear
from anymask.train.optim import warmup_cosine

PENALTIES = tuple(10.0**n for n in range(-3, 5))
CLIP, WARMUP, DECAY = 1.0, 0.1, 0.01


class Pasts(NamedTuple):
    """Samples of a source whose futures are hidden, in the frame of the agent that each is about."""

    code: np.ndarray  # (N, D) of the agent's past, by the frozen encoder
    past: np.ndarray  # (N, P, 2) metres, beside the agent's last known position
    future: np.ndarray  # (N, F, 2)
    rebuilt: np.ndarray  # (N, F, 2) what the model itself makes of the future


def check_tracks(model: Model) -> None:
    """
    Raises:
        EvaluateError: the model was not trained on trajectories.
    """
    if getattr(model.tokenizer, "takes", None) != "trajectory":
        raise EvaluateError(
            "these forecasts are of agents in scenes: use a run that was trained on trajectories, or for other data "
            "the task 'forecast'"
        )


def past_only(model: Model, sample: Sample) -> Step:
    """A step with all pasts visible and all futures hidden and asked for."""
    step = Step(sample, model.tokenizer(sample), aux={})
    tokens = step.tokens
    assert tokens.kinds is not None and tokens.valid is not None
    return step._replace(mask=hide_these(step, model, (tokens.kinds != PAST) & tokens.valid))


def code_of(model: Model, step: Step) -> Tensor:
    """(B, D) code of the past of the agent that a sample is about: the first token, which is always visible."""
    step = step._replace(seen=model.corruption(step, model))
    return model.encoder(step, model).x[:, 0].float()


@torch.no_grad()
def seen_pasts(model: Model, source: Source, *, batch_size: int = 256, progress: bool = False) -> Pasts:
    found = []
    for sample in batches(model, model.schema, source, batch_size=batch_size, fixed=True, progress=progress):
        step = past_only(model, sample)
        made = model.predict(step._replace(aux={}))
        agents = step.tokens.shape[1] // 2
        past, future = _own(model, step)
        own = content(model, made)[:, agents, :-2].unflatten(1, (-1, 2))[:, model.tokenizer.past :]
        found.append((code_of(model, step), past, future, own * model.tokenizer.reach))
    return Pasts(*(torch.cat(parts).cpu().double().numpy() for parts in zip(*found)))


def _own(model: Model, step: Step) -> tuple[Tensor, Tensor]:
    """Past (B, P, 2) and future (B, F, 2) of the agents that the samples are about, in metres."""
    (x,) = step.tokens.x.values()
    agents, past = x.shape[1] // 2, model.tokenizer.past
    steps = lambda token: x[:, token, :-2].unflatten(1, (-1, 2)) * model.tokenizer.reach
    return steps(0)[:, :past], steps(agents)[:, past:]


def paths_of(source: Source, schema: Schema) -> tuple[np.ndarray, np.ndarray]:
    """Past (N, P, 2) and future (N, F, 2) of the agents that the samples of a source are about, beside their last known
    position, as they are in the scene."""
    ((name, field),) = schema.fields.items()
    past = field.more["past"]
    x = np.concatenate([b[name][..., 0].numpy() for b in ordered_loader(source, schema, batch_size=256, fixed=True)])
    x = (x - x[:, :, past - 1, None]).swapaxes(1, 2).astype(np.float64)  # N T 2
    return x[:, :past], x[:, past:]


def displacement(guess: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) mean distance over the steps of the future and (N,) distance at the last one, of paths (N, F, 2)."""
    far = np.linalg.norm(guess - truth, axis=-1)
    return far.mean(1), far[:, -1]


def constant_velocity(past: np.ndarray, future: np.ndarray) -> np.ndarray:
    """(N, F, 2) going on as in the last step of the past (N, P, 2)."""
    step = past[:, -1] - past[:, -2]
    return past[:, -1:] + step[:, None] * np.arange(1, future.shape[1] + 1)[:, None]


def linear(known: np.ndarray, future: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(M, F, 2) ridge regression from inputs (N, ...) to futures (N, F, 2), for inputs (M, ...); its penalty by leaving
    one sample out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    model.fit(known.reshape(len(known), -1), future.reshape(len(future), -1))
    return model.predict(new.reshape(len(new), -1)).reshape(len(new), *future.shape[1:])


def headed(known: Pasts, new: Pasts) -> np.ndarray:
    """(M, F, 2) by a linear head on the frozen codes of pasts, which is added to going on at constant velocity."""
    rest = linear(known.code, known.future - constant_velocity(known.past, known.future), new.code)
    return rest + constant_velocity(new.past, new.future)


class Forecaster(nn.Module):
    """An encoder that sees pasts only, and a head of two layers from the code of the agent's past to its future, added
    to going on at constant velocity."""

    def __init__(self, model: Model):
        super().__init__()
        self.model, width = model, model.encoder.width
        future = model.tokenizer.steps - model.tokenizer.past
        last = Linear(2 * width, 2 * future)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(LayerNorm(width), Linear(width, 2 * width), nn.GELU(), last)

    def forward(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """Forecast and truth, (B, F, 2) in units of `reach`."""
        step = past_only(self.model, sample)
        past, future = (x / self.model.tokenizer.reach for x in _own(self.model, step))
        ahead = torch.arange(1, future.shape[1] + 1, device=past.device)[:, None]
        plain = past[:, -1:] + (past[:, -1:] - past[:, -2:-1]) * ahead
        return plain + self.head(code_of(self.model, step)).unflatten(1, (-1, 2)), future


def finetuned(
    model: Model, train: Source, *, epochs: int, lr: float, batch_size: int, seed: int, progress: bool = False
) -> Forecaster:
    """A forecaster with all weights trained, by AdamW on the mean distance of a sample."""
    device = next(model.parameters()).device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Forecaster(model).to(device).train()
        steps = max(1, epochs * len(train) // batch_size)
        trained = [p for name, p in made.named_parameters() if name.startswith(("head", "model.stem", "model.encoder"))]
        matrices = [p for p in trained if p.ndim > 1]
        vectors = [p for p in trained if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=lr, weight_decay=DECAY)
        loader = training_loader(train, model.schema, batch_size=batch_size, steps=steps, seed=seed, workers=0)
        for number, batch in enumerate(loader):
            for group in optimiser.param_groups:
                group["lr"] = lr * warmup_cosine(step=number, steps=steps, warmup=WARMUP)
            guess, truth = made({name: value.to(device) for name, value in batch.items()})
            loss = (guess - truth).norm(dim=-1).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, CLIP)
            optimiser.step()
    return made.eval()


@torch.no_grad()
def forecast(made: Forecaster, source: Source, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Forecast and truth (N, F, 2) in metres."""
    reach = made.model.tokenizer.reach
    found = [made(sample) for sample in _samples(made.model, source, batch_size)]
    guess, truth = (torch.cat(parts).cpu().double().numpy() * reach for parts in zip(*found))
    return guess, truth


def _samples(model: Model, source: Source, batch_size: int) -> Iterator[Sample]:
    return batches(model, model.schema, source, batch_size=batch_size, fixed=True)

