"""The likelihood of sequences under a masked diffusion model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anymask.data import Source, ordered_loader
from anymask.engine import Model
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.likelihood import check_likelihood, nats
from anymask.evaluation.masked import frozen
from anymask.parts.noise import All
from anymask.run import Run
from anymask.table import Figure, Table, interval


def evaluate(
    run: Run,
    source: Source,
    *,
    test: Source | None = None,
    draws: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Table:
    """Bits a token that a masked diffusion model needs at most, or an autoregressive one exactly, beside those of the
    frequencies of the tokens.

    The bound is MDLM's (arXiv:2406.07524, equation 11). The mean is over samples, each weighing by its tokens; its 95 %
    interval is over samples. With `tokenizer="characters"` a token is a character.

    Args:
        source: sequences; labels are not needed. test: what is measured; None = the source's own test split, or else
            the source.
        draws: noise levels a sample.

    Raises:
        EvaluateError: a run whose loss says nothing about likelihood, or no samples that can be read.
    """
    if draws < 1:
        raise EvaluateError(f"draws counts noise levels, from 1 on, not {draws}")
    data = test if test is not None else source.split("test") if "test" in source.splits else source
    options: dict[str, Any] = dict(draws=draws, seed=seed, batch_size=batch_size, progress=progress)
    models = {"untrained model": frozen(run, trained=False), "pre-trained model": frozen(run)}
    for model in models.values():
        check_likelihood(model)
    table = Table(("model", "bits a token"), title=f"likelihood of {data.name}, {run.recipe.slug}")
    table.rows.append(("frequencies in training", _bits(*_unigram(run, model, data))))
    table.rows += [(name, _bits(*nats(model, run.schema, data, **options))) for name, model in models.items()]
    how = "exact" if isinstance(model.mask, All) else f"an upper bound, from {draws} noise levels a sample"
    table.notes.append(f"{how}; texts are cut at {model.tokenizer.longest} tokens")
    return table


def _bits(found: np.ndarray, count: np.ndarray) -> Figure:
    ok = np.isfinite(found) & (count > 0)
    if not ok.any():
        raise EvaluateError("no sample can be read; look at the warnings above")
    bits, tokens = found[ok] / math.log(2), count[ok]
    ratio = bits.sum() / tokens.sum()
    # The interval of a ratio of sums: by how much each sample is above it.
    return interval(ratio + (bits - ratio * tokens) / tokens.mean(), digits=3)


def _unigram(run: Run, model: Model, data: Source) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens (N,) by how often each token occurs in the training data."""
    surprise = -np.asarray(model.target.prior.cpu(), np.float64)
    found, count = np.full(len(data), np.nan), np.zeros(len(data), np.int64)
    for sample in ordered_loader(data, run.schema, batch_size=256):
        tokens = model.tokenizer(sample)
        ((_, x),) = tokens.x.items()
        each = surprise[x.numpy()]
        found[sample["index"].numpy()] = (each * tokens.valid.numpy()).sum(1)
        count[sample["index"].numpy()] = tokens.valid.sum(1).numpy()
    return found, count
