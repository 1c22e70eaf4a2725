"""The future of an agent from its past, in a scene that is held back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anymask.data import Source
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import frozen
from anymask.evaluation.trajectories import (
    check_tracks,
    constant_velocity,
    displacement,
    finetuned,
    forecast,
    headed,
    linear,
    seen_pasts,
)
from anymask.run import Run
from anymask.table import Table, interval

MODELS = (("untrained", False), ("pre-trained", True))


def evaluate(
    run: Run,
    source: Source,
    *,
    scene: str | None = None,
    test: Source | None = None,
    epochs: int = 0,
    lr: float = 1e-3,
    samples: int = 5_000,
    seed: int = 0,
    batch_size: int = 128,
    progress: bool = False,
) -> Table:
    """ADE and FDE (m): mean distance of the forecast over the future, and at its last step, of the agent that a sample
    is about. One forecast a sample, the same for equal pasts.

    Beside the model: going on at the velocity of the last step, and a ridge regression from the agent's own past. Of
    the model, untrained and pre-trained: what it rebuilds itself when all futures are hidden (pre-trained only), a
    linear head on the frozen code of the agent's past, and with `epochs` encoder and head fine-tuned, from scratch and
    from the pre-trained weights with the same budget. Heads add to going on at constant velocity. Each figure is the
    mean over test samples, with its 95 % interval (Student's t over samples, which overlap in time: take it as a lower
    bound).

    Args:
        source: what heads are fitted on. scene: the scene that is held back and tested on; the run should not have been
            pre-trained on it (--ignore SCENE). test: what is tested on, in place of a scene.
        epochs, lr: of fine-tuning; 0 = none.
        samples: that heads are fitted on, at most, a random choice.

    Raises:
        EvaluateError: a run of other data, no such scene, or neither scene nor test.
    """
    model = frozen(run)
    check_tracks(model)
    notes: list[str] = []
    if test is None:
        groups = source.groups
        if groups is None or scene is None or scene not in groups or len(np.unique(groups)) < 2:
            have = "none" if groups is None else ", ".join(np.unique(groups).tolist())
            raise EvaluateError(
                f"name the scene that is held back (--set scene=NAME), or give --test; there is: {have}"
            )
        train, held = (source.subset(np.flatnonzero(which)) for which in (groups != scene, groups == scene))
        if scene not in run.settings.get("opening", {}).get("ignore", ()):
            notes.append(f"the run was not told to ignore {scene}: it may have been pre-trained on it")
    else:
        train, held = source, test
    if len(train) > samples:
        train = train.subset(np.sort(np.random.default_rng(seed).permutation(len(train))[:samples]))
    rows: list[Sequence[Any]] = []

    def add(name: str, guess: np.ndarray, truth: np.ndarray) -> None:
        rows.append((name, *(interval(far, 3) for far in displacement(guess, truth))))

    for name, trained in MODELS:
        one = frozen(run, trained=trained)
        known, new = (seen_pasts(one, part, progress=progress) for part in (train, held))
        if not rows:
            add("constant velocity", constant_velocity(new.past, new.future), new.future)
            add("linear, own past", linear(known.past, known.future, new.past), new.future)
        if trained:
            add("pre-trained model itself", new.rebuilt, new.future)
        add(f"{name} encoder, linear head", headed(known, new), new.future)
    for name, trained in MODELS if epochs else ():
        made = finetuned(frozen(run, trained=trained), train, epochs=epochs, lr=lr, batch_size=batch_size, seed=seed)
        add(f"fine-tuned, {'from scratch' if not trained else name}", *forecast(made, held))
    past, future = model.tokenizer.past, model.tokenizer.steps - model.tokenizer.past
    notes.append(f"{past} steps of past, {future} of future; heads are fitted on {len(train):,} samples")
    title = f"forecasts of {len(held):,} windows of {scene or held.name}, {run.recipe.slug}"
    return Table(("forecast", "ADE", "FDE"), rows, title=title, notes=notes)
