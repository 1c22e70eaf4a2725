"""`pretrain`: from data to a run folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from anymask.compare import diff
from anymask.data import Schema, Source, duplicates_across, infer_schema, open_source, training_loader
from anymask.data.options import plain
from anymask.errors import AnymaskError
from anymask.recipe import USER_MODULE, Recipe, Size, find
from anymask.run import EVALUATION, Run, sweep, write_atomically

from . import folder, history, planning, state
from .errors import Interrupted, TrainError
from .loggers import check_loggers, make_loggers
from .measure import first_batch
from .optim import default_clip
from .planning import Plan, plan
from .progress import Progress
from .quiet import quiet
from .weights import is_hugging_face, load_weights, shape_of

# What a run keeps to when it goes on, and the defaults of `pretrain`, which ask for nothing.
FROZEN: dict[str, Any] = {
    "epochs": None,
    "steps": None,
    "batch_size": "auto",
    "accumulate": 1,
    "precision": "auto",
    "compile": False,
    "seed": 0,
    "clip": None,
    "devices": 1,
    "init": None,
}


def pretrain(
    source: Any = None,
    *,
    recipe: str | Recipe | None = None,
    size: str | Size | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch_size: int | str = "auto",
    accumulate: int = 1,
    init: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    precision: str = "auto",
    compile: bool = False,
    clip: float | None = None,
    seed: int = 0,
    probe_labels: Sequence[int | str] | None = (1, 5, 10),
    changes: dict[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    workers: int | str = "auto",
    loggers: Sequence[Any] = (),
    save_minutes: float = 5.0,
    progress: bool = True,
    devices: int = 1,
    test: Any = None,
    **opening: Any,
) -> Run:
    """Trains an encoder by masking, into a run folder (see `anymask.run`).

    Everything that can fail is tried first, see `plan`. The state is saved every few minutes, at the end, and at
    Ctrl-C; an interrupted run goes on as if it had not been, bit for bit on one machine and number of threads.

    Args:
        source: what `anymask.data.open_source` takes; None = digits (when resuming: the path that the run began with).
            `opening`: options of `open_source`, such as `label`, `group`, `kind`.
        recipe, changes: a system, and what is different: {"mask.ratio": 0.8}; None = the default of the kind of data,
            such as mae for images, remasker for tables, bert for texts, multimae for samples of several parts.
        size: name or Size; None = "nano" up to 16 pixels and for texts, else "tiny"; "micro" for tables.
        epochs: passes over the data; None = about 400,000 images, 200,000 texts or 1,000,000 rows in all. `steps`
            (optimiser steps) in its place.
        batch_size: of one micro-step on one device; `accumulate` micro-steps make an optimiser step. "auto" = 128, or
            64 below 2,000 samples, less where the memory asks for it.
        init: what to take weights from: a run folder, a .safetensors file, or the folder of a Hugging Face
            ViT-MAE or BERT, whose size (and patch) are then the default.
        out: the run folder; None = runs/<recipe>-<source>-<n>.
        resume: go on with the run in `out`; its own recipe, schema and settings hold.
        overwrite: replace the run in `out`.
        precision: "auto", "bf16" (autocast, fp32 weights) or "fp32".
        clip: largest norm of the gradient; 0 = any; None = 1, where the optimiser bears it (see `default_clip`).
        probe_labels: labels a class for the probe after training, where the data have labels; None = no probe. `test`
            is what to probe on; None = a test split, or a part held back.
        image_size: pixels in training, one side or (H, W); points of a cloud, moments of a series, the most tokens of a
            text, the most seconds of a sound.
        workers: loader processes.
        loggers: names of Lightning loggers ("tensorboard"), or such objects, beside metrics.csv.
        progress: False = quiet.

    Raises:
        DataError, RecipeError, RunError, TrainError: it cannot be done; before training begins.
        NonFiniteError: the loss became infinite or NaN; the last good state is on disk.
        Interrupted: Ctrl-C or SIGTERM, after saving; a KeyboardInterrupt with the exit code for a command line.
    """
    talk = Progress(show=progress)
    check_loggers(loggers)
    if resume:
        values = (epochs, steps, batch_size, accumulate, precision, compile, seed, clip, devices, init and str(init))
        given = dict(zip(FROZEN, values, strict=True))
        run, data = _reopen(source, out, recipe, size, changes, given, opening)
        talk.say(f"{run.folder}: goes on")
    else:
        if init is not None and is_hugging_face(init):
            widths, fitting = shape_of(init)
            size, changes = size or widths, {**fitting, **(changes or {})}
        made = plan(
            source, recipe=recipe, size=size, epochs=epochs, steps=steps, batch_size=batch_size, accumulate=accumulate,
            precision=precision, changes=changes, image_size=image_size, devices=devices, out=out, overwrite=overwrite,
            **opening,
        )  # fmt: skip
        for what, value in made.rows():
            talk.say(f"{what:>14}  {value}")
        clip = default_clip(made.recipe.optimiser) if clip is None else clip
        frozen = dict(seed=seed, clip=clip, compile=compile, init=init and str(init))
        run, data = _begin(made, source, opening, frozen, overwrite), made.source
    options = dict(workers=workers, loggers=loggers, save_minutes=save_minutes)
    _train(run, data, talk, options, top=run.folder)
    if probe_labels and (data.labels is not None or data.token_labels is not None):
        try:
            table = probe(run, data, labels=probe_labels, test=test, say=talk.warn)
            write_atomically(run.folder / EVALUATION, json.dumps(table.to_json(), indent=1).encode())
            talk.say(str(table))
        except AnymaskError as error:  # the run itself is done and saved
            talk.warn(f"no probe: {error}")
    return run


def probe(
    run: Run, source: Any, *, labels: Sequence[int | str] = (1, 5, 10), test: Any = None, say: Any = print
) -> Any:
    """What the run's features are worth with a few labels, as the table of `anymask.evaluation.evaluate`.

    Args:
        test: another source to measure on; None = the source's test split, or a part held back.
        say: called with a warning where test samples are also in the training set.
    """
    evaluate = importlib.import_module("anymask.evaluation").evaluate
    if test is not None:
        test = run.source(test)
    elif isinstance(source, Source) and "test" in source.splits:
        test = source.split("test")
    if test is not None and isinstance(source, Source):
        twice = duplicates_across(source, test)
        if twice:
            share = len({j for _, j in twice}) / len(test)
            say(f"{share:.1%} of the test samples ({test.name}) are also in the training set: the figures flatter")
    return evaluate(run, source, labels=tuple(labels), test=test, lenient=True)


def _begin(made: Plan, spec: Any, opening: dict[str, Any], frozen: dict[str, Any], overwrite: bool) -> Run:
    """The run folder of a plan, before its first step."""
    if frozen["init"]:
        load_weights(planning.build(made.recipe, made.schema, made.size), frozen["init"])  # whether they fit
    if overwrite:
        folder.clear(made.out)
    path = None if spec is not None and not isinstance(spec, (str, Path)) else str(spec or "digits")
    settings = {
        **frozen,
        **made.settings(),
        "source": path,
        "opening": plain(opening),
        "threads": torch.get_num_threads(),
    }
    run = Run(made.out, made.recipe, made.size, made.schema, settings, _versions())
    run.save()
    return run


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("anymask", "torch", "lightning")}
    return {"python": platform.python_version(), **packages}


# Going on with a run.


def _reopen(
    source: Any,
    out: str | Path | None,
    recipe: str | Recipe | None,
    size: str | Size | None,
    changes: dict[str, Any] | None,
    given: dict[str, Any],
    opening: dict[str, Any],
) -> tuple[Run, Any]:
    """The run in `out` and its data, checked to be those that it began with."""
    if out is None:
        raise TrainError("resume needs the run's folder: --out FOLDER")
    # A user's own file is loaded by this, before the run looks its parts up.
    made = None if recipe is None else find(recipe)
    run = Run.open(out)
    _same_settings(run, made, size, changes, given)
    if source is None and run.settings["source"] is None:
        raise TrainError(f"{run.folder} was trained on {run.schema.source}, an object; give it again as the source")
    opening = {**opening, **run.settings["opening"]}
    data = open_source(run.settings["source"] if source is None else source, **opening)
    _same_data(run, data)
    return run, data


def _same_settings(
    run: Run, recipe: Recipe | None, size: str | Size | None, changes: dict[str, Any] | None, given: dict[str, Any]
) -> None:
    """Raises TrainError for what was given and is not what the run began with: it would be ignored otherwise."""
    wrong = [name for name, default in FROZEN.items() if given[name] not in (default, run.settings[name])]
    if wrong:
        name = wrong[0]
        raise TrainError(
            f"{run.folder} goes on with its own {name}, {run.settings[name]}, not {given[name]}; leave it out, or "
            "begin another run"
        )
    if recipe is not None and recipe.slug != run.recipe.slug:
        raise TrainError(f"{run.folder} is a run of {run.recipe.slug}, not of {recipe.slug}; leave the recipe out")
    if size is not None and planning.size_of(size)[1] != run.size:
        raise TrainError(f"{run.folder} goes on with its own size; leave it out, or begin another run")
    if changes and diff(run.recipe, run.recipe.but(changes)):
        raise TrainError(f"{run.folder} goes on with its own recipe; leave --set out, or begin another run")


def _same_data(run: Run, data: Any) -> None:
    if data.fingerprint() == run.schema.fingerprint:
        return
    run.schema.check(infer_schema(data))  # says what differs, where a reader could see it
    raise TrainError(
        f"{data.name} is not what {run.folder} was begun with ({run.schema.source}): its content, names or labels have "
        f"changed. Resume with the same data, or begin a run that takes its weights: --init {run.folder}"
    )


# Training.


def _train(run: Run, data: Any, talk: Progress, options: dict[str, Any], *, top: Path) -> None:
    """Earlier stages first, each a run below this one; what is finished is left as it is."""
    for stage in run.recipe.stages.get("stages", ()):
        place = run.folder / "stages" / stage.slug
        if (place / "run.json").is_file():
            below = Run.open(place)
        else:
            below = Run(place, stage, run.size, run.schema, {**run.settings, "init": None}, run.versions)
            below.save()
        talk.say(f"stage {stage.slug}: {place}")
        _train(below, data, talk, options, top=top)
    sweep(run.folder)
    at, steps = state.step_of(run.folder / state.NAME), run.settings["steps"]
    if at >= steps:
        talk.say(f"{run.folder} is finished ({steps:,} steps): nothing to train")
        return
    with torch.random.fork_rng(devices=[]), quiet():
        _fit(run, data, talk, options, at, top)


def _fit(run: Run, data: Any, talk: Progress, options: dict[str, Any], at: int, top: Path) -> None:
    from .callbacks import Observer, Recorder, Saver
    from .module import StateFile, Training, make_trainer
    from .stop import StopSignal
    from .watch import PROBE, Watch

    settings = run.settings
    model = run.build()
    if settings["init"] and not at:
        talk.say(load_weights(model, settings["init"]))
    _say_differences(run, talk, at)
    schema = planning.cropped(run.schema, model)
    loader = make_loader(run.recipe, settings, data, schema, options["workers"])
    module = Training(model.train(), run.recipe, settings, loader)
    watch, file = Watch(), StateFile()
    with StopSignal() as signal:
        saver = Saver(run, file, signal, talk, minutes=options["save_minutes"])
        batch = first_batch(data, schema, PROBE)
        seen = settings["steps"] * settings["batch_size"] * settings["accumulate"] * settings["devices"]
        kept = history.fixed_batch(data, schema, trained_on=seen)
        kept_in = history.History(run.folder / history.NAME, kept, steps=settings["steps"], step=at)
        trainer = make_trainer(
            settings,
            callbacks=[Recorder(run, talk, watch), Observer(run, watch, talk, batch, kept_in), saver],
            plugins=[file],
            logger=make_loggers(options["loggers"], run.folder) or False,
            default_root_dir=run.folder,
        )
        talk.start(settings["steps"], at, run.recipe.slug)
        try:
            trainer.fit(module, ckpt_path=str(run.folder / state.NAME) if at else None)
        finally:
            talk.stop()
    _finish(run, saver, signal.received, top, talk)


def make_loader(recipe: Recipe, settings: dict[str, Any], data: Any, schema: Schema, workers: int | str) -> Any:
    """(start, rank, world) -> the batches of a run's micro-steps from `start` on."""
    augment = planning.augmentation(recipe, schema)

    def make(start: int, rank: int, world: int) -> Any:
        return training_loader(
            data,
            schema,
            batch_size=settings["batch_size"],
            steps=settings["steps"] * settings["accumulate"],
            start=start,
            seed=settings["seed"],
            augment=augment,
            workers=workers,  # type: ignore[arg-type]
            rank=rank,
            world=world,
        )

    return make


def _finish(run: Run, saver: Any, received: int, top: Path, talk: Progress) -> None:
    if saver.stopped is not None:
        parts = [str(run.settings["source"] or "DATA"), "--resume", "--out", str(top)]
        if run.recipe.module.startswith(USER_MODULE):
            parts[1:1] = ["--recipe", run.recipe.module.removeprefix(USER_MODULE) + ".py"]
        how = f"go on with: anymask pretrain {shlex.join(parts)}"
        what = "saved" if saver.failure is None else f"NOT saved: {saver.failure}; what was saved before is unharmed"
        text = f"stopped at step {saver.stopped:,} of {run.settings['steps']:,}, {what}; {how}"
        talk.say(text)
        raise Interrupted(text, folder=top, step=saver.stopped, code=128 + received, saved=saver.failure is None)
    if saver.failure is not None:
        raise TrainError(
            f"training is done, but {saver.failure}; free some space on that disk, then --resume --out {top} goes on "
            "from the last save"
        ) from saver.failure
    talk.say(f"{run.folder}: {run.settings['steps']:,} steps done")


def _say_differences(run: Run, talk: Progress, at: int) -> None:
    """What makes a resumed run differ in the last digits."""
    if not at:
        return
    threads, now = run.settings["threads"], torch.get_num_threads()
    if threads != now:
        talk.warn(f"the run began with {threads} threads and goes on with {now}: results may differ in the last digits")
    changed = [f"{name} {old} -> {_versions()[name]}" for name, old in run.versions.items() if _versions()[name] != old]
    if changed:
        talk.warn(f"versions have changed ({', '.join(changed)}): results may differ in the last digits")
