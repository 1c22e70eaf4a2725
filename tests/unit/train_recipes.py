"""Recipes that make a run hard to resume, or go wrong. They are loaded as a user's own file."""

import copy

import torch

from anymask.engine import Part
from anymask.recipe import FromStage, P, recipe
from anymask.recipes.image.mae import mae


class Average(Part):
    """A slowly following copy of the stem's weights, as a teacher has; adds a small loss from it."""

    def attach(self, model):
        self.copy = copy.deepcopy(model.stem).requires_grad_(False)

    def forward(self, step, model):
        near = model.stem(step).x - self.copy(step).x
        return {"follow": 0.1 * near.square().mean()}

    def after_step(self, model, progress):
        for mine, theirs in zip(self.copy.parameters(), model.stem.parameters()):
            mine.lerp_(theirs, 0.1 + 0.1 * progress)


class Poison(Part):
    """Adds a loss that is not finite from a given share of the run on."""

    def __init__(self, model, *, at=0.5):
        super().__init__(model)
        self.at, self.now = at, 0.0

    def forward(self, step, model):
        return {"poison": step.latent.x.sum() * (float("inf") if self.now >= self.at else 0.0)}

    def after_step(self, model, progress):
        self.now = progress


class Break(Part):
    """Makes a weight NaN, as a faulty part would."""

    def after_step(self, model, progress):
        if progress > 0.5:
            next(model.stem.parameters()).fill_(torch.nan)

    def forward(self, step, model):
        return {}


class Earlier(Part):
    """Holds the model of an earlier stage."""

    def __init__(self, model, *, of):
        super().__init__(model)
        self.of = of.requires_grad_(False)

    def forward(self, step, model):
        return {"earlier": 0.1 * (step.latent.x - self.of.predict(step).latent.x).square().mean()}


@recipe(parent=mae)
def averaged(r):
    """Drop path draws from torch's global generator; a part follows the weights."""
    return r.but(encoder={"drop_path": 0.3}, extras=(P(Average),))


@recipe(parent=mae)
def poisoned(r):
    """The loss becomes infinite half-way."""
    return r.but(extras=(P(Poison),))


@recipe(parent=mae)
def broken(r):
    """A weight becomes NaN half-way."""
    return r.but(extras=(P(Break),))


@recipe(parent=mae)
def staged(r):
    """Two stages."""
    return r.but(stages=(averaged,), extras=(P(Earlier, of=FromStage("averaged")),))
