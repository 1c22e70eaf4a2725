"""One part of a sample rebuilt from another one, which is seen wholly, by a frozen model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anymask.data import Schema, Source
from anymask.engine import Model, Sample, Step, scored, split
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import batches
from anymask.parts.several import Several
from anymask.train.watch import constant_errors

Pair = tuple[str, str]  # (seen, rebuilt)


class Errors(NamedTuple):
    """Mean errors of the samples, NaN where one lacks either part: of the model, and of the best constant."""

    model: np.ndarray  # (N,)
    constant: np.ndarray  # (N,)


def fields_of(model: Model) -> list[str]:
    """
    Raises:
        EvaluateError: a model of one part.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, Several) or len(tokenizer.fields) < 2:
        raise EvaluateError("one part is rebuilt from another, and this model has one part only; train on several (a "
                            "mix.toml, --kind mix or --derive)")  # fmt: skip
    return list(tokenizer.fields)


@torch.no_grad()
def crossed(
    model: Model, schema: Schema, source: Source, *, batch_size: int = 256, progress: bool = False
) -> dict[Pair, Errors]:
    """The errors of every pair of parts over the samples of a source."""
    fields = fields_of(model)
    out = {
        (a, b): Errors(np.full(len(source), np.nan), np.full(len(source), np.nan))
        for a in fields
        for b in fields
        if a != b
    }
    for sample in batches(model, schema, source, batch_size=batch_size, fixed=True, progress=progress):
        index = sample["index"].cpu().numpy()
        for (seen, rebuilt), errors in out.items():
            ours, constant = _errors(model, sample, fields.index(seen), rebuilt)
            errors.model[index], errors.constant[index] = ours.cpu().numpy(), constant.cpu().numpy()
    return out


def from_part(model: Model, sample: Sample, number: int) -> Step:
    """A step in which all tokens of one field are seen, and all others are asked for."""
    step = Step(sample, model.tokenizer(sample), aux={})
    kind = step.tokens.kinds
    assert kind is not None
    mine = (kind == number).expand(step.tokens.shape)
    valid = step.tokens.valid
    count = (mine if valid is None else mine & valid).sum(1)
    mask = split((~mine).float(), count, keep=model.corruption.keep, ask=1.0, valid=valid)
    return step._replace(mask=mask)


def _errors(model: Model, sample: Sample, seen: int, rebuilt: str) -> tuple[Tensor, Tensor]:
    """(B,) mean errors over the tokens of a part, summed over its heads: the model's, and the best constant's."""
    step = model.predict(from_part(model, sample, seen))
    step = step._replace(goal=model.target(step, model))
    step = step._replace(error=model.errors(step))
    number = model.tokenizer.fields.index(rebuilt)
    ours = constant = torch.zeros(len(sample["index"]), device=sample["key"].device)
    for name in model.target.names[number].values():
        ok = scored(step, model.target.heads[name])
        assert ok is not None
        known = model.target.constants.get(name)
        best = constant_errors(model.losses[name], step.pred[name], step.goal[name], ok, known)
        ours = ours + _mean(step.error[name], ok)
        constant = constant + _mean(step.error[name] * torch.nan if best is None else best, ok)
    there = step.mask.visible.any(1)
    return torch.where(there, ours, torch.nan), torch.where(there, constant, torch.nan)


def _mean(error: Tensor, ok: Tensor) -> Tensor:
    """(B,) over the scored tokens; NaN without any."""
    return torch.where(ok, error, 0.0).sum(1) / ok.sum(1)


def left(errors: dict[Pair, Errors]) -> dict[Pair, np.ndarray]:
    """Pair -> (N,) error of each sample as a share of the best constant's mean error."""
    return {pair: e.model / np.nanmean(e.constant) for pair, e in errors.items()}
