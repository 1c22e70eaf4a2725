"""Masks whose hidden share is no setting: any share, up to all, as models that draw samples have to meet."""

from __future__ import annotations

import torch
from torch import Tensor

from anymask import keyed
from anymask.engine import Mask, Model, Part, Step, split
from anymask.parts.masks import Scored
from anymask.recipe import RecipeError


class Absorbing(Part):
    """Each token of a sample is hidden with the probability t, its noise level, drawn anew in every step: t is uniform,
    and the samples of a batch share its range evenly. An error weighs 1 / t, so that the mean over all tokens bounds
    the negative log-likelihood of a sample in nats a token (MDLM, arXiv:2406.07524, equation 11, log-linear schedule).

    Args:
        weighted: False = errors weigh alike whatever t is; the mean is then no bound.
        level: the same t for all samples; None = drawn.
        least: the smallest t that is drawn.
    """

    sometimes_whole = "at a low noise level a sample may stay as it is"

    def __init__(self, model: Model, *, weighted: bool = True, level: float | None = None, least: float = 1e-3):
        super().__init__(model)
        if not 0.0 < least < 1.0 or (level is not None and not 0.0 < level <= 1.0):
            raise RecipeError(f"mask.least and mask.level are noise levels, above 0 and to 1, not {least} and {level}")
        self.weighted, self.level, self.least = weighted, level, least

    def forward(self, step: Step, model: Model) -> Mask:
        key = step.sample["key"]
        b = len(key)
        even = (keyed.uniform(key, 1, salt=1)[:, 0] + torch.arange(b, device=key.device)) / b
        drawn = self.least + (1.0 - self.least) * even
        return self.at(step, drawn if self.level is None else torch.full_like(drawn, self.level), model)

    def at(self, step: Step, t: Tensor, model: Model) -> Mask:
        """The mask at noise levels t (B,)."""
        noise = 1.0 - keyed.uniform(step.sample["key"], step.tokens.shape[1])  # above 0: t = 1 hides all
        valid = step.tokens.valid
        shown = noise > t[:, None]
        shown = (shown if valid is None else shown & valid).sum(1)
        weight = 1.0 / t[:, None] if self.weighted else None
        return split(-noise, shown, keep=model.corruption.keep, valid=valid, t=t, weight=weight)


class Varying(Scored):
    """The hidden share is drawn anew for each batch, from a normal distribution within limits, so that one model meets
    shares good for features and shares good for drawing samples (MAGE, arXiv:2211.09117, section 3.1). A fixed share of
    all tokens, hidden ones, is dropped; other hidden tokens enter the encoder replaced.

    Args:
        mean, spread: of the distribution. low, high: its limits; both alike = always that share.
        drop: share of a sample's tokens that is dropped.
    """

    sometimes_whole = "at the upper limit nothing of a sample is shown"

    def __init__(
        self,
        model: Model,
        *,
        mean: float = 0.55,
        spread: float = 0.25,
        low: float = 0.5,
        high: float = 1.0,
        drop: float = 0.5,
    ):
        super().__init__(model, ratio=min(mean, 0.99))
        if not 0.0 < low <= high <= 1.0 or not 0.0 <= drop <= low or spread <= 0:
            raise RecipeError(
                f"hidden shares lie between mask.low and mask.high, above 0 to 1, mask.drop is not above mask.low and "
                f"mask.spread above 0; not low={low}, high={high}, drop={drop}, spread={spread}"
            )
        self.mean, self.spread, self.low, self.high, self.drop = mean, spread, low, high, drop

    def score(self, step: Step, model: Model) -> Tensor:
        return keyed.uniform(step.sample["key"], step.tokens.shape[1])

    def drawn(self, key: Tensor) -> float:
        """The hidden share of a batch, by the key of its first sample."""
        normal = torch.distributions.Normal(self.mean, self.spread)
        ends = normal.cdf(torch.tensor([self.low, self.high]))
        u = keyed.uniform(key[:1], 1, salt=61).cpu().item()
        return float(normal.icdf(ends[0] + u * (ends[1] - ends[0])).clamp(self.low, self.high))

    def forward(self, step: Step, model: Model) -> Mask:
        if model.corruption.keep == 0.0:
            raise RecipeError("hidden tokens that are not dropped are replaced: use corruption=P(Replace)")
        ratio = self.drawn(step.sample["key"])
        enter = (ratio - self.drop) / ratio
        score = self.score(step, model)
        return split(score, 1.0 - ratio, keep=min(enter, 1.0 - 1e-6), valid=step.tokens.valid)


class All(Part):
    """Every token is hidden and asked for: what a prediction reads is the corruption's and the encoder's to say.

    Args:
        shown: every token is visible instead, and asked for, as by an autoencoder.
    """

    def __init__(self, model: Model, *, shown: bool = False):
        super().__init__(model)
        self.shown = shown

    def forward(self, step: Step, model: Model) -> Mask:
        (b, n), valid = step.tokens.shape, step.tokens.valid
        if self.shown:
            whole = torch.ones(b, n, dtype=torch.bool, device=step.tokens.pos.device)
            return Mask(whole if valid is None else valid, keep_ok=valid, ask_ok=valid)
        score = torch.zeros(b, n, device=step.tokens.pos.device)
        return split(score, 0, keep=model.corruption.keep, valid=valid)
