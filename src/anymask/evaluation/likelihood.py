"""The likelihood of sequences under a masked diffusion model: a bound, from masks at all noise levels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anymask import keyed
from anymask.data import Schema, Source
from anymask.engine import Mask, Model, Step, scored
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import batches, redrawn
from anymask.parts.corruptions import Shift
from anymask.parts.encoders import earlier
from anymask.parts.noise import Absorbing, All


def check_likelihood(model: Model) -> None:
    """
    Raises:
        EvaluateError: the model's loss says nothing about likelihood.
    """
    ordered = isinstance(model.corruption, Shift) and getattr(model.encoder, "within", None) is earlier
    known = isinstance(model.mask, Absorbing) or (isinstance(model.mask, All) and ordered)
    if not known or list(model.target.heads) != ["classes"]:
        raise EvaluateError(
            "this recipe's loss is no bound of the likelihood of its data; use a run of one whose loss is, such as mdlm"
        )


@torch.no_grad()
def nats(
    model: Model,
    schema: Schema,
    source: Source,
    *,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of each sample in nats, an upper bound of it from masks at `draws` noise levels that
    share the range from 0 to 1 evenly (MDLM, arXiv:2406.07524, equation 11), or exact where every token is predicted
    from those before it; and how many tokens each sample has. Both (N,); NaN and 0 where a sample cannot be read.

    Raises:
        EvaluateError: see `check_likelihood`.
    """
    check_likelihood(model)
    total, count = np.full(len(source), np.nan), np.zeros(len(source), np.int64)
    for sample in batches(model, schema, source, batch_size=batch_size, progress=progress):
        index = sample["index"].cpu().numpy()
        tokens = model.tokenizer(sample)
        count[index] = tokens.shape[1] if tokens.valid is None else tokens.valid.sum(1).cpu().numpy()
        steps = [Step(redrawn(sample, seed, n), tokens, aux={}) for n in range(draws)]
        if isinstance(model.mask, All):
            found = _nats(model, steps[0], model.mask(steps[0], model))
        else:
            masks = (model.mask.at(step, _levels(model.mask, step, n, draws), model) for n, step in enumerate(steps))
            found = torch.stack([_nats(model, step, mask) for step, mask in zip(steps, masks)]).mean(0)
        total[index] = found.cpu().numpy()
    return total, count


def _levels(mask: Absorbing, step: Step, number: int, draws: int) -> Tensor:
    """(B,) noise levels within the share `number` of `draws` of their range."""
    return ((number + keyed.uniform(step.sample["key"], 1, salt=9)[:, 0]) / draws).clamp(min=mask.least)


def _nats(model: Model, step: Step, mask: Mask) -> Tensor:
    """(B,) nats of each sample by one mask; float64."""
    step = model.predict(step._replace(mask=mask))
    step = step._replace(goal=model.target(step, model))
    error = model.errors(step)["classes"].double()
    ok = scored(step._replace(error={"classes": error}), model.target.heads["classes"])
    error = error if ok is None else torch.where(ok, error, 0.0)
    return error.sum(1) if step.mask.t is None else (error / step.mask.t.double()[:, None]).sum(1)
