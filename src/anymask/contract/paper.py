"""What a recipe says of itself, and whether it can be stored and read back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from anymask.compare import diff
from anymask.contract.subject import ContractError, Subject, build, seeded
from anymask.engine import Model
from anymask.recipe import Recipe
from anymask.run import Run

FACTS, STORED, STAGES = "facts", "stored", "stages"
LINES = {
    "Run:": "the command that trains it",
    "Cost:": "what it costs",
    "Expected:": "the published figure, and what is not reproduced",
}


def facts(subject: Subject) -> list[str]:
    """The docstring says what differs, how to run it, cost and expectation; paper and claim are there; it differs from
    its parent, and the claim's arms from each other."""
    recipe = subject.recipe
    where = f"recipe {recipe.slug!r}"
    if not recipe.summary:
        raise ContractError(FACTS, f"{where} has no docstring", "say in its first line what the paper changes")
    lines = [line.strip() for line in recipe.doc.split("\n")]
    for start, meaning in LINES.items():
        if not any(line.startswith(start) and line != start for line in lines):
            raise ContractError(
                FACTS, f"{where} has no line {start!r} in its docstring", f"add '{start} ...': {meaning}"
            )
    if not recipe.paper:
        raise ContractError(FACTS, f"{where} names no paper", 'pass it: @recipe(paper="arXiv:...")')
    if recipe.parent is not None and not diff(recipe.parent, recipe):
        raise ContractError(
            FACTS, f"{where} is the same as its parent {recipe.parent.slug!r}", "change a stage, or remove it"
        )
    if recipe.claim is None:
        raise ContractError(
            FACTS, f"{where} makes no claim", "add `claim = Claim(text=..., better_than=...)` to its file"
        )
    for claim in recipe.claims.values():
        ours, theirs = claim.ours(recipe), claim.better_than(recipe)
        if not diff(ours, theirs):
            raise ContractError(
                FACTS, f"the two arms of a claim of {where} are the same", "switch the mechanism off in better_than"
            )
        build(theirs, subject.schema, subject.size)
    return []


def stored(subject: Subject) -> list[str]:
    """The recipe survives JSON, and a run that is saved and opened embeds bit for bit as before."""
    data = json.loads(json.dumps(subject.recipe.to_json()))
    rows = diff(subject.recipe, Recipe.from_json(data))
    if rows:
        path, was, now = rows[0]
        raise ContractError(
            STORED, f"{path} is {was} and comes back from JSON as {now}", "use numbers, text, P or functions"
        )
    with tempfile.TemporaryDirectory() as folder:
        model = _save(subject, subject.recipe, Path(folder))
        opened = Run.open(folder).model()
        before, after = model.embed(subject.batch), opened.embed(subject.batch)
    if not torch.equal(before.x, after.x) or not torch.equal(before.mean(), after.mean()):
        gap = (before.x - after.x).abs().max().item()
        raise ContractError(
            STORED,
            f"embeddings differ by up to {gap:.2g} after saving and loading",
            "keep what a part learns in parameters or persistent buffers",
        )
    return []


def _save(subject: Subject, recipe: Recipe, folder: Path) -> Model:
    """A run of an untrained model, those of its earlier stages below it."""
    for stage in recipe.stages.get("stages", ()):
        _save(subject, stage, folder / "stages" / stage.slug)
    run = Run(folder, recipe, subject.size, subject.schema, settings={"seed": 3})
    run.save()
    model = run.build()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(4)
        for parameter in model.parameters():  # not what a fresh model would have
            parameter.add_(0.01 * torch.randn_like(parameter))
    run.save_weights(model)
    return model


def stages(subject: Subject) -> list[str]:
    """Every stage of a recipe of several stages is built and gives a finite loss."""
    done = []
    for stage in (*subject.recipe.stages.get("stages", ()), subject.recipe):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(stage, subject.schema, subject.size).train()
        loss = seeded(model, model.hide(subject.batch)).loss
        if loss is None or not torch.isfinite(loss):
            raise ContractError(
                STAGES, f"the loss of stage {stage.slug!r} is {loss} at the start", "check its target and its loss"
            )
        done.append(f"stage {stage.slug}: loss {loss.item():.3g}")
    return done if len(done) > 1 else []
