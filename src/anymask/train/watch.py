"""The health of a run, in plain words, each thing said once.

Everything is judged on one fixed batch with fixed masks, so that numbers of different steps compare. Four things are
looked for:

collapse    the features of different samples have become (nearly) the same: their spread is below 3 % of what it
            was at the start, in units of their size; or their effective rank (Roy & Vetterli 2007) has fallen below 2
            from at least 4.
no better   after a quarter of the run the error is above 98 % of that of the best constant prediction: the mean or
            the median of the goals of all scored tokens, or for classes their frequencies.
too easy    within the first tenth of the run the error is already below a tenth of that constant's: the hidden
            content can be read off the visible one with next to nothing learnt.
data        more than 30 % of the time, over at least 5 seconds, goes by waiting for data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anymask.engine import Latent, Model, Step, scored

PROBE = 64  # samples of the fixed batch
TOKENS = 512  # of one sample, in place of samples
FEWEST = 8  # samples that spread and rank are measured on, at least


class Features(NamedTuple):
    """How different the features of different samples are."""

    spread: float  # standard deviation over samples, mean over dimensions, in units of the features' size
    rank: float  # effective rank: exponential of the entropy of the normalised singular values


class Errors(NamedTuple):
    """Weighted errors over scored tokens: of the model, and of the best constant."""

    model: float
    constant: float


class Watch:
    """What has been measured at the start, and what has been said; both are part of a run's state."""

    def __init__(self) -> None:
        self.start: Features | None = None
        self.said: list[str] = []

    def check(self, model: Model, batch: dict[str, Tensor], progress: float) -> list[str]:
        """What is to be said now; `progress` runs from 0 to 1. The model is left as it was."""
        with evaluating(model):
            found = features(model, batch)
            errors = compare(model, model(batch))
        if self.start is None:
            self.start = found
        told = [collapse(self.start, found, progress), reconstruction(errors, progress), ease(errors, progress)]
        return self._once(("collapse", "no better", "too easy"), told)

    def waiting(self, waited: float, elapsed: float) -> list[str]:
        return self._once(("data",), [starving(waited, elapsed)])

    def _once(self, names: tuple[str, ...], told: list[str | None]) -> list[str]:
        new = [(name, text) for name, text in zip(names, told) if text and name not in self.said]
        self.said += [name for name, _ in new]
        return [text for _, text in new]

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start and list(self.start), "said": list(self.said)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self.start = saved["start"] and Features(*saved["start"])
        self.said = list(saved["said"])


def collapse(start: Features, now: Features, progress: float) -> str | None:
    flat, narrow = now.spread < 0.03 * start.spread, now.rank < 2.0 <= start.rank / 2
    if not (flat or narrow):
        return None
    what = f"spread {now.spread:.2g}, {start.spread:.2g} at the start; effective rank {now.rank:.1f}, {start.rank:.1f}"
    return (
        f"the features of different samples have become nearly the same ({what}): the encoder has collapsed. Try a "
        "lower learning rate (--set optimiser.lr=...); if the target comes from a teacher, one that changes slower"
    )


def reconstruction(errors: Errors, progress: float) -> str | None:
    if progress < 0.25 or not errors.constant or errors.model < 0.98 * errors.constant:
        return None
    return (
        f"reconstruction is no better than one constant for all hidden tokens (error {errors.model:.3g}, constant "
        f"{errors.constant:.3g}) after {progress:.0%} of the run. Try a higher learning rate (--set optimiser.lr=...), "
        "a lower mask ratio (--set mask.ratio=...) or more epochs; noise cannot be predicted at all"
    )


def ease(errors: Errors, progress: float) -> str | None:
    if not 0.0 < progress <= 0.1 or not errors.constant or errors.model > 0.1 * errors.constant:
        return None
    return (
        f"the hidden content is found almost at once (error {errors.model:.3g}, a constant has {errors.constant:.3g}, "
        f"after {progress:.0%} of the run): the mask is too easy to teach much. Hide more (--set mask.ratio=...) or "
        "larger units (--set mask.unit=... where the mask has them), or look whether the data are nearly constant"
    )


def starving(waited: float, elapsed: float) -> str | None:
    if elapsed < 5.0 or waited <= 0.3 * elapsed:
        return None
    return (
        f"{waited / elapsed:.0%} of the time goes by waiting for data. Give more loader processes (--workers) where "
        "there are cores, store the images smaller, or as one .npy array"
    )


def features(model: Model, batch: dict[str, Tensor]) -> Features:
    """Spread and effective rank of the features (see `compared`); (nan, nan), which says nothing, for fewer than
    `FEWEST` of them and for features that are not finite."""
    return diversity(compared(model.embed(batch)))


def compared(latent: Latent) -> Tensor:
    """(n, D) features that ought to differ: of samples, pooled; where there is one sample only (a graph), of its
    tokens, `TOKENS` of them at most."""
    if len(latent.x) > 1:
        return latent.mean()
    x = latent.x[0] if latent.ok is None else latent.x[0][latent.ok[0]]
    return x[spread_out(len(x), TOKENS)].float()


def spread_out(count: int, most: int) -> Tensor:
    """Numbers of `most` of `count` things, evenly apart."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).long()


def diversity(x: Tensor) -> Features:
    """Spread and effective rank of features (N, D)."""
    x = x.double()
    if x.shape[0] < FEWEST or not x.isfinite().all():
        return Features(float("nan"), float("nan"))
    centred = x - x.mean(0)
    spread = (centred.square().mean(0).sqrt().mean() / x.square().mean().sqrt().clamp(min=1e-12)).item()
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp(min=1e-12)
    return Features(spread, torch.exp(torch.special.entr(share).sum()).item())


def compare(model: Model, step: Step) -> Errors:
    """Summed over heads; both are 0 where no head has a constant to compare with."""
    ours = constants = 0.0
    for name, error in step.error.items():
        head = model.target.heads[name]
        ok = scored(step, head)
        ok = torch.ones_like(error, dtype=torch.bool) if ok is None else ok
        known = getattr(model.target, "constants", {}).get(name)
        best = _constant(model.losses[name], step.pred[name], step.goal[name], ok, known)
        if best is None:
            continue
        ours += head.weight * error[ok].mean().item()
        constants += head.weight * best
    return Errors(ours, constants)


def constant_loss(model: Model, step: Step) -> float | None:
    """The training loss, added losses aside, if each head predicted the best constant; None where one has none."""
    errors = {}
    for name, error in step.error.items():
        ok = scored(step, model.target.heads[name])
        ok = torch.ones_like(error, dtype=torch.bool) if ok is None else ok
        known = getattr(model.target, "constants", {}).get(name)
        best = constant_errors(model.losses[name], step.pred[name], step.goal[name], ok, known)
        if best is None:
            return None
        errors[name] = best
    return model.total(step._replace(error=errors, aux={})).item() if errors else None


def _constant(loss: Any, pred: Tensor, goal: Tensor, ok: Tensor, known: Tensor | None = None) -> float | None:
    """Mean error over scored tokens of the best of a few constants; None where nothing is scored."""
    errors = constant_errors(loss, pred, goal, ok, known)
    return None if errors is None else errors[ok].mean().item()


def constant_errors(loss: Any, pred: Tensor, goal: Tensor, ok: Tensor, known: Tensor | None) -> Tensor | None:
    """Error of each token (Q, M) by the constant that the target knows from the training data or, where it knows none,
    by the best, over scored tokens, of a few constants; None where nothing is scored."""
    if not ok.any():
        return None
    chosen = goal[ok]  # T D, or T
    if known is not None:  # as with more classes than scored tokens, where the best constant would be fitted to these
        constants = [known.float()]
    elif goal.ndim == pred.ndim:
        chosen = chosen.float()  # NaN where a goal has no value: a set of fewer points than others
        constants = [chosen.nanmean(0).nan_to_num(), chosen.nanmedian(0).values.nan_to_num()]
        if chosen.min() >= 0 and chosen.max() <= 1:  # 0 or 1, of which a prediction may be the logit
            constants.append(torch.logit(constants[0].clamp(1e-6, 1 - 1e-6)))
    elif not goal.is_floating_point():
        counts = torch.bincount(chosen.clamp(min=0), minlength=pred.shape[-1]).float()
        constants = [torch.log((counts + 1e-6) / counts.sum())]
    else:
        return None
    return min((loss(c.expand(pred.shape), goal) for c in constants), key=lambda error: error[ok].mean().item())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients, evaluation mode; afterwards every module is in the mode it was in, torch's generator too."""
    modes = {module: module.training for module in model.modules()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
