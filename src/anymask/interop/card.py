"""The text of a model card: what a model was trained on and how, how to use it, and what is known of its worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anymask.data import Schema
from anymask.interop.plain import InteropError
from anymask.recipe import USER_MODULE, Recipe
from anymask.run import EVALUATION, EVALUATIONS, Run
from anymask.table import Figure

LEVELS = {
    1: "it passes the contract; its claim is not shown",
    2: "its claim is shown",
    3: "it reproduces a published figure or the outputs of another implementation",
}
NO_TENSOR = {"uint16": "int32"}  # types of data, and what a batch of them is
TABLE = ("title", "columns", "rows", "notes")
EVIDENCE = ("claim", "verdict", "effect", "smallest_effect", "seeds", "command", "date")
Records = Mapping[str, Mapping[str, Any]]


def card(
    run: Run,
    *,
    takes: Schema,
    pool: str,
    width: int,
    parameters: tuple[int, int],
    evaluations: Records,
    evidence: Mapping[str, Any] | None,
    level: int,
    changed: bool,
) -> str:
    """Markdown, without the YAML head.

    Args:
        run: without what names files of the machine of the training.
        takes: the schema with the shapes that the encoder takes.
        parameters: of the encoder, and of all.
        evaluations: name -> a table as `Table.to_json` gives it.
        evidence: of the recipe, as `anymask verify` writes it.
        level: of the recipe: 1 to 3.
        changed: the weights are no longer those of the run.
    """
    recipe = run.recipe
    source = run.schema.source
    paper = f" ([{recipe.paper}]({_link(recipe.paper)}))" if _link(recipe.paper) else f" ({recipe.paper or 'no paper'})"
    parts = [
        f"# {recipe.name} on {source}",
        f"An encoder that was pre-trained by masking, with the recipe `{recipe.slug}`: {recipe.name}{paper}. "
        f"{recipe.summary}",
        _use(run, takes, pool, width),
        _table("What it was trained on", ("", ""), run.schema.describe()),
        _table("How it was trained", ("", ""), _settings(run, parameters)),
        _differences(recipe),
        "## Figures of this model\n\n" + _figures(evaluations, changed),
        f"## Evidence of the recipe\n\nLevel {level} of 3: {LEVELS[level]}.\n\n" + _evidence(recipe, evidence),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def read_evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    """The tables that `pretrain` and `evaluate` wrote into a run folder, by the names of the files.

    Raises:
        InteropError: a file there is no such table.
    """
    found = {}
    after_training = [folder / EVALUATION] if (folder / EVALUATION).is_file() else []
    for file in [*after_training, *sorted((folder / EVALUATIONS).glob("*.json"))]:
        found[file.stem] = check_record(_json(file), TABLE, f"{file} is no table of `anymask evaluate --json`")
    return found


def read_evidence(folder: Path, slug: str) -> dict[str, Any] | None:
    """What `anymask verify` wrote of a recipe; None where there is nothing.

    Raises:
        InteropError: the file is something else.
    """
    file = folder / f"{slug}.json"
    return check_record(_json(file), EVIDENCE, f"{file} is no evidence of `anymask verify`") if file.is_file() else None


def check_record(record: Any, needs: Sequence[str], what: str) -> dict[str, Any]:
    missing = [name for name in needs if not isinstance(record, dict) or name not in record]
    if missing:
        raise InteropError(f"{what} (it has no {missing[0]!r}); remove it or write it again")
    return record


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise InteropError(f"{file} is no JSON ({error}); remove it or write it again") from error


def _link(paper: str) -> str:
    return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}" if paper.startswith("arXiv:") else ""


def _use(run: Run, takes: Schema, pool: str, width: int) -> str:
    fields = {
        name: f"torch.zeros({(4, *field.shape)}, dtype=torch.{NO_TENSOR.get(field.dtype, field.dtype)})"
        for name, field in takes.fields.items()
    }
    if len(fields) == 1:
        ((name, sample),) = fields.items()
    else:
        name, sample = "sample", "{" + ", ".join(f'"{key}": {value}' for key, value in fields.items()) + "}"
    lines = [
        "import torch",
        "from anymask import PretrainedEncoder",
        'encoder = PretrainedEncoder.from_pretrained("FOLDER")  # this folder, or the name of the model on the hub',
        f"{name} = {sample}  # yours, in the units of the data: the encoder standardises it",
        f"features = encoder({name})  # (4, {width}) float32, pooled by {pool!r}",
    ]
    own = ""
    if run.recipe.module.startswith(USER_MODULE):
        file = run.recipe.module.removeprefix(USER_MODULE) + ".py"
        own = f"\n\nIt needs the file of its recipe, {file}: call `anymask.find(\"path/to/{file}\")` first."
    return (
        "## Use\n\n```python\n" + "\n".join(lines) + "\n```" + own + "\n\nThe folder is a run as well: "
        "`anymask embed FOLDER SOURCE -o z.npy`, `anymask evaluate FOLDER SOURCE`, `anymask finetune FOLDER SOURCE`, "
        "and `anymask pretrain SOURCE --init FOLDER` work with it."
    )


def _settings(run: Run, parameters: tuple[int, int]) -> list[tuple[str, str]]:
    from anymask.sizes import SIZES

    settings, size = run.settings, run.size
    name = next((name for name, known in SIZES.items() if known == size), "own")
    rows = [
        ("size", f"{name}: width {size.width}, depth {size.depth}, {size.heads} heads"),
        ("parameters", f"{parameters[0]:,} in the encoder, {parameters[1]:,} with what was only for training"),
    ]
    if {"batch_size", "accumulate", "devices"} <= settings.keys():
        rows.append(("batch", f"{settings['batch_size'] * settings['accumulate'] * settings['devices']:,} samples"))
    for key, what in (
        ("steps", "steps"),
        ("epochs", "epochs"),
        ("lr", "learning rate"),
        ("precision", "precision"),
        ("seed", "seed"),
        ("began_with", "began with the weights of"),
    ):
        if settings.get(key) is not None:
            value = settings[key]
            rows.append((what, f"{value:.4g}" if isinstance(value, float) else str(value)))
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return [*rows, ("versions", versions)] if versions else rows


def _differences(recipe: Recipe) -> str:
    """What a run changed of the recipe whose name it has; or, of a user's own recipe, of its parent."""
    from anymask.compare import diff
    from anymask.recipe import catalogue, find

    own = recipe.module.startswith(USER_MODULE)
    other = recipe.parent if own else find(recipe.slug) if recipe.slug in catalogue() else None
    rows = diff(other, recipe) if other else []
    if other is None or not rows:
        return ""
    return _table(f"What differs from {other.slug}", ("argument", other.slug, "here"), rows)


def _figures(evaluations: Records, changed: bool) -> str:
    if not evaluations:
        return "None are recorded."
    parts = ["The weights were changed after these were measured; they are of the run before."] if changed else []
    for table in evaluations.values():
        rows = [[_cell(cell) for cell in row] for row in table["rows"]]
        notes = "\n".join(f"* {note}" for note in table["notes"])
        parts += [f"**{table['title']}**", _table("", table["columns"], rows), notes]
    return "\n\n".join(part for part in parts if part)


def _evidence(recipe: Recipe, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f"No evidence of `anymask verify {recipe.slug}` is at hand."
    effect, unit = found["effect"], found.get("unit", "points of accuracy")  # which format 1 did not say
    rows = [
        ("claim", found["claim"]),
        ("verdict", f"**{found['verdict']}**" + (f" ({found['note']})" if found.get("note") else "")),
        (
            "effect",
            f"{effect['mean']:.2f} {unit}, 95 % interval {effect['low']:.2f} to {effect['high']:.2f}, "
            f"{len(found['seeds'])} seeds",
        ),
        ("smallest effect that matters", f"{found['smallest_effect']:g}"),
        ("data", str(found.get("data", {}).get("name", "unknown"))),
        ("command", f"`{found['command']}`"),
        ("date", str(found["date"])),
    ]
    return _table("", ("", ""), rows) + "\n\nIt is of the recipe, with the data and size of its claim alone."


def _cell(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, dict):
        return str(Figure(**cell))
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    plain = lambda cells: "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
    lines = [plain(heads), "|" + " --- |" * len(heads), *(plain(row) for row in rows)]
    return (f"## {title}\n\n" if title else "") + "\n".join(lines)
