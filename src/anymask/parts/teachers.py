"""Teachers: slow copies of a model's own stem and encoder, and targets that are their codes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask.engine import Head, Latent, Model, Part, Step, everything, take
from anymask.recipe import RecipeError


def linear(progress: float) -> float:
    """From 0 to 1 in a straight line."""
    return progress


def cosine(progress: float) -> float:
    """From 0 to 1 along half a cosine (BYOL, arXiv:2006.07733, section 3.2)."""
    return (1 - math.cos(math.pi * progress)) / 2


class Teacher(Part):
    """A target that is made by a slow copy of stem and encoder: after each step the copy moves a little towards them,
    by an exponential moving average (mean teacher, arXiv:1703.01780, section 2). A subclass says `heads`, and in
    `forward` what of the codes is the goal.

    The copy is part of the model's weights and of its state file, in float32; it has no gradient, is in no optimiser
    and always in evaluation mode, so that drop path and dropout are the student's alone.

    Args:
        decay: share of the copy that stays in a step, in the beginning.
        final: that share at the end of the rise.
        ramp: share of the training in which it rises.
        rise: how: progress within the rise, 0 to 1, to the share of the way from `decay` to `final`.
    """

    def __init__(
        self,
        model: Model,
        *,
        decay: float = 0.996,
        final: float = 1.0,
        ramp: float = 1.0,
        rise: Callable[[float], float] = linear,
    ):
        super().__init__(model)
        if not 0.0 <= decay <= final <= 1.0 or not 0.0 < ramp <= 1.0:
            raise RecipeError(
                f"a teacher keeps a share of itself in every step that rises from decay to final, both 0 to 1, within "
                f"a share ramp of the training; not decay={decay}, final={final}, ramp={ramp} (--set target.decay=...)"
            )
        self.decay, self.final, self.ramp, self.rise = decay, final, ramp, rise

    stem: Part
    encoder: Part

    def attach(self, model: Model) -> None:
        self.stem, self.encoder = (copy.deepcopy(part).float() for part in (model.stem, model.encoder))
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        super().train(mode)
        for part in (getattr(self, name, None) for name in ("stem", "encoder")):
            if part is not None:
                part.eval()
        return self

    def kept(self, progress: float) -> float:
        """Share of the copy that stays in a step, at `progress` of the training."""
        return self.decay + (self.final - self.decay) * self.rise(min(1.0, progress / self.ramp))

    @torch.no_grad()
    def after_step(self, model: Model, progress: float) -> None:
        for mine, its in ((self.stem, model.stem), (self.encoder, model.encoder)):
            slow: list[Tensor] = list(mine.parameters())
            fast = [p.detach().float() for p in its.parameters()]
            if slow:
                torch._foreach_lerp_(slow, fast, 1.0 - self.kept(progress))
            for held, new in zip(mine.buffers(), its.buffers()):  # statistics, not weights: as the student has them
                held.copy_(new)

    @torch.no_grad()
    def whole(self, step: Step, model: Model) -> Latent:
        """The copy's codes of the whole samples, nothing masked: one row for each sample, however many masks it has."""
        step = step._replace(mask=everything(step.tokens))
        return self.encoder(step._replace(seen=self.stem(step)), model)


class Codes(Teacher):
    """The teacher's codes of the asked tokens, made with the whole sample in view: (Q, M, D).

    Args:
        decay, final, ramp, rise: see `Teacher`.
        top: the mean of the outputs of so many last blocks, each normalised by token (data2vec, arXiv:2202.03555,
            section 3.3), which needs an encoder that returns its layers; None = the encoder's output as it is.
        normalise: each code by its own mean and spread.
    """

    def __init__(
        self,
        model: Model,
        *,
        decay: float = 0.996,
        final: float = 1.0,
        ramp: float = 1.0,
        rise: Callable[[float], float] = linear,
        top: int | None = None,
        normalise: bool = False,
    ):
        super().__init__(model, decay=decay, final=final, ramp=ramp, rise=rise)
        if top is not None and top < 1:
            raise RecipeError(f"target.top counts blocks, from 1 on, not {top}")
        self.top, self.normalise = top, normalise
        self.heads = {"codes": Head(model.size.width)}

    def attach(self, model: Model) -> None:
        super().attach(model)
        if self.top is not None and not getattr(model.encoder, "layers", False):
            raise RecipeError("a mean of blocks needs an encoder that returns them: --set encoder.layers=true")

    def forward(self, step: Step, model: Model) -> dict[str, Tensor]:
        codes = self.codes(self.whole(step, model))
        return {"codes": take(codes, step.mask.ask, step.mask.ask_of)}

    def codes(self, latent: Latent) -> Tensor:
        """(B, N, D) float32"""
        codes = latent.x.float()
        if self.top is not None:
            layers = [layer[:, -latent.x.shape[1] :].float() for layer in latent.layers[1:][-self.top :]]
            codes = torch.stack([_normal(layer) for layer in layers]).mean(0)
        return _normal(codes) if self.normalise else codes


def _normal(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


