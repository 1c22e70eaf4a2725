"""Whole sets of tokens rebuilt from the others: a scan, a band, a stain that is hidden everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from anymask.engine import Model, Sample, Step
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import check_content, content, hide
from anymask.reports.renderer import joined


def check_sets(model: Model) -> list[str]:
    """Names of the sets.

    Raises:
        EvaluateError: there are not several, or their content is not predicted.
    """
    if not getattr(model.tokenizer, "joint", False) or len(model.tokenizer.streams) < 2:
        raise EvaluateError(
            "this needs a model whose tokens are of several sets, such as scans of a case or bands; use a run of such "
            "a recipe (bm-mae, satmae, ca-mae)"
        )
    check_content(model)
    return list(model.tokenizer.streams)


@torch.no_grad()
def rebuilt(model: Model, sample: Sample, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N, D) what the model makes of the set `number` from all others, the truth, and (B, N, D) which values are
    both real and rebuilt: those of samples that have some other set."""
    step = Step(sample, model.tokenizer(sample), aux={})
    tokens = step.tokens
    assert tokens.kinds is not None
    own = (tokens.kinds == number).expand(tokens.shape)
    valid = torch.ones_like(own) if tokens.valid is None else tokens.valid
    shown = (valid & ~own).sum(1)  # B
    if not (shown > 0).any():  # no sample has another set
        x = joined(tokens.x)
        return x, x, torch.zeros_like(x, dtype=torch.bool)
    step = hide(model, step, own.float(), shown)
    made, x = content(model, model.predict(step)), joined(tokens.x)
    there = (own & valid & (shown > 0)[:, None])[..., None] & ~x.isnan()
    return made, x, there
