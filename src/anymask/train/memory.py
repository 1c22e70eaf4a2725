"""`pretrain_model`: from data in memory to a model, with nothing left on disk. The weights are those of `pretrain`."""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch

from anymask.engine import Model
from anymask.recipe import Recipe, Size
from anymask.run import fresh

from . import planning
from .optim import default_clip
from .planning import Plan, plan
from .pretraining import make_loader
from .progress import Progress
from .quiet import quiet

# One training at a time in a process: torch's global generator and Python's warning filters are the process's, and
# threads that changed them in turn would make results differ from call to call.
_ONE = threading.Lock()


def pretrain_model(
    source: Any,
    *,
    recipe: str | Recipe | None = None,
    size: str | Size | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | str = "auto",
    precision: str = "auto",
    changes: dict[str, Any] | None = None,
    clip: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Model, Plan]:
    """The model that `pretrain` with the same arguments leaves in its run folder, bit for bit, and the plan it was
    trained by. There is no folder: no state to resume from, no metrics, pictures nor warnings of the run's health.

    The model is on the CPU and in evaluation mode. In threads, calls wait for each other.

    Raises:
        DataError, RecipeError, TrainError: it cannot be done; before training begins.
        NonFiniteError: the loss became infinite or NaN.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after the step that was being made.
    """
    talk = Progress(show=progress)
    with _ONE, torch.random.fork_rng(devices=[]), quiet():
        made = plan(
            source, recipe=recipe, size=size, epochs=epochs, steps=steps, batch_size=batch_size, precision=precision,
            changes=changes, writes=False,
        )  # fmt: skip
        for what, value in made.rows():
            if what != "output":
                talk.say(f"{what:>14}  {value}")
        clip = default_clip(made.recipe.optimiser) if clip is None else clip
        settings = {**made.settings(), "seed": seed, "clip": clip, "compile": False}
        return _trained(made.recipe, made, settings, talk), made


def _trained(recipe: Recipe, made: Plan, settings: dict[str, Any], talk: Progress) -> Model:
    """Earlier stages first."""
    from .callbacks import Telling
    from .module import Training, make_trainer
    from .stop import StopSignal

    earlier = {stage.slug: _trained(stage, made, settings, talk) for stage in recipe.stages.get("stages", ())}
    model = fresh(recipe, made.schema, made.size, seed=settings["seed"], earlier=earlier)
    schema = planning.cropped(made.schema, model)
    module = Training(model.train(), recipe, settings, make_loader(recipe, settings, made.source, schema, "auto"))
    with StopSignal() as stop:
        trainer = make_trainer(settings, callbacks=[Telling(talk, stop)], logger=False)
        talk.start(settings["steps"], 0, recipe.slug)
        try:
            trainer.fit(module)
        finally:
            talk.stop()
    if stop.received == signal.SIGINT:
        raise KeyboardInterrupt("training was stopped; nothing is kept")
    if stop.received:
        raise SystemExit(128 + stop.received)
    return model.cpu().eval()
