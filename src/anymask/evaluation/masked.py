"""A frozen model over masked samples: batches of any kind of data, and masks that are not the recipe's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from anymask import keyed
from anymask.data import Schema, Source, ordered_loader
from anymask.engine import Model, Sample, Step, Tokens, scored, split
from anymask.evaluation.errors import EvaluateError
from anymask.reports.renderer import joined
from anymask.run import Run
from anymask.train.planning import cropped


def frozen(run: Run, *, trained: bool = True) -> Model:
    """The run's model in evaluation mode, on the GPU where there is one."""
    return run.model(trained=trained).to("cuda" if torch.cuda.is_available() else "cpu").eval()


def batches(
    model: Model,
    schema: Schema,
    source: Source,
    *,
    batch_size: int = 256,
    fixed: bool = False,
    progress: bool = False,
) -> Iterator[Sample]:
    """Every readable sample once, in order, on the model's device; `index` says which. With `fixed` all are made the
    size of training, in whole patches."""
    device = next(model.parameters()).device
    sides = getattr(model.tokenizer, "sides", 1)  # tokenizers that cut values into patches name their sides
    schema = cropped(schema, model) if fixed else schema
    loader = ordered_loader(source, schema, batch_size=batch_size, multiple=sides, fixed=fixed)
    for batch in track(loader, description="masking", total=len(loader), disable=not progress, transient=True):
        yield {name: value.to(device) for name, value in batch.items()}


def redrawn(sample: Sample, seed: int, draw: int) -> Sample:
    """The same samples with other keys: other masks."""
    return {**sample, "key": keyed.fold(keyed.fold(sample["key"], seed), draw)}


def hidden_share(model: Model, sample: Sample) -> float:
    """Share of the valid tokens that the recipe's own mask hides, over a batch."""
    step = model.hide(sample)
    visible = step.mask.visible.sum()
    rows = step.mask.visible.shape[0]
    valid = step.tokens.valid
    whole = step.tokens.shape[1] * rows if valid is None else int(valid.sum()) * rows // max(1, valid.shape[0])
    return 1.0 - float(visible) / max(1, whole)


def hide(model: Model, step: Step, score: Tensor, visible: float | int | Tensor) -> Step:
    """The step with the tokens of the lowest scores (B, N) visible and all others hidden and asked for."""
    return step._replace(
        mask=split(score, visible, keep=model.corruption.keep, ask=1.0, valid=step.tokens.valid), aux={}
    )


def complementary(model: Model, sample: Sample, *, masks: int, seed: int, ratio: float | None = None) -> Iterator[Step]:
    """Steps with masks that together hide every token at least once.

    Tokens are put in a random order, along which windows of hidden tokens are laid at equal distances, as many as it
    takes to cover all; then another order, until there are at least `masks`.

    Args:
        ratio: hidden share; None = that of the recipe's own mask.

    Raises:
        EvaluateError: a ratio that leaves nothing to hide or to see.
    """
    step = Step(sample, model.tokenizer(sample), aux={})
    ratio = hidden_share(model, sample) if ratio is None else ratio
    n = step.tokens.shape[1]
    seen = int(n * (1.0 - ratio) + 1e-4) if step.tokens.valid is None else 1.0 - ratio
    if not 0.0 < ratio < 1.0 or seen in (0, n):
        raise EvaluateError(f"hiding {ratio:.3g} of {n} tokens leaves nothing to hide or to see; give another ratio")
    windows = -(-n // (n - seen)) if isinstance(seen, int) else int(-(-1.0 // (ratio - 1e-4)))
    for number in range(-(-masks // windows)):
        key = keyed.fold(keyed.fold(sample["key"], seed), number)
        place, count = _ranks(keyed.uniform(key, n, salt=7), step.tokens)
        for window in range(windows):
            start = (window * count).div(windows, rounding_mode="floor")
            yield hide(model, step, ((place - start) % count).float(), seen)


def _ranks(score: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Rank (B, N) of each valid token within its sample, and how many (B, 1) there are."""
    if tokens.valid is not None:
        score = score.masked_fill(~tokens.valid, torch.inf)
    count = torch.full_like(score[:, :1], score.shape[1]) if tokens.valid is None else tokens.valid.sum(1, keepdim=True)
    return score.argsort(1).argsort(1), count.long().clamp(min=1)


class Errors(NamedTuple):
    """Errors of a batch over several masks."""

    error: Tensor  # (B, N) mean over the masks that asked for a token; NaN where none did
    asked: Tensor  # (B, N) how many masks asked for it


@torch.no_grad()
def errors(model: Model, sample: Sample, *, masks: int, seed: int = 0, ratio: float | None = None) -> Errors:
    """The recipe's own error of every token, by complementary masks: summed over heads by their weights."""
    total = count = None
    for step in complementary(model, sample, masks=masks, seed=seed, ratio=ratio):
        step = model.predict(step)
        step = step._replace(goal=model.target(step, model))
        step = step._replace(error=model.errors(step))
        if total is None or count is None:
            total = torch.zeros_like(step.mask.visible, dtype=torch.float32)
            count = torch.zeros_like(total)
        known = torch.zeros_like(count)
        for name, error in step.error.items():
            ok = scored(step, model.target.heads[name])
            ok = torch.ones_like(error, dtype=torch.bool) if ok is None else ok
            weighed = torch.where(ok, model.target.heads[name].weight * error, 0.0)
            total = placed(total, step, weighed)
            known = torch.maximum(known, placed(torch.zeros_like(known), step, ok.float()))
        count = count + known
    assert total is not None and count is not None
    return Errors(torch.where(count > 0, total / count, torch.nan), count)


def placed(total: Tensor, step: Step, values: Tensor) -> Tensor:
    """(B, N) `total` with `values` (B, M) of the asked tokens added at their places."""
    ask = step.mask.ask
    return total + values if ask is None else total.scatter_add(1, ask, values.to(total.dtype))


def content(model: Model, step: Step) -> Tensor:
    """(B, N, D) the content of the tokens with predictions in place of what was asked for, as the tokenizer scales it.

    `step` is one of `hide` after `Model.predict`. Targets that predict content say so by a method `content`.
    """
    x = joined(step.tokens.x)
    pred = model.target.content(step).to(x.dtype)
    ask = step.mask.ask
    if ask is None:
        return pred
    if step.mask.ask_ok is not None:
        pred = torch.where(step.mask.ask_ok[..., None], pred, x.gather(1, ask[..., None].expand_as(pred)))
    return x.scatter(1, ask[..., None].expand_as(pred), pred)


def check_content(model: Model) -> None:
    """
    Raises:
        EvaluateError: the model's data have several streams, or its target is not their content.
    """
    if len(model.tokenizer.streams) != 1 and not getattr(model.tokenizer, "joint", False):
        raise EvaluateError(f"content of one stream is needed; this model has {', '.join(model.tokenizer.streams)}")
    width = max(model.tokenizer.streams.values())
    classes = [head.width for head in model.target.heads.values()]
    if not hasattr(model.target, "content") if width > 0 else classes != [-width]:
        raise EvaluateError(
            f"this recipe predicts {', '.join(model.target.heads)}, not the content of what is hidden; use a run of a "
            "recipe that predicts it, such as mae"
        )
