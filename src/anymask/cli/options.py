"""Options that several commands share, in the same words, and what they are turned into."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from anymask.recipe import Recipe
    from anymask.table import Table

as_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
recipe_files = click.option(
    "--recipe", "recipe_file", metavar="FILE.py", help="The file of your own recipe, if the run was made with one."
)
label = click.option("--label", help="Column of the labels.")
group = click.option("--group", help="Column that must not be split, such as patient; of molecules also 'scaffold'.")
strict = click.option("--strict", is_flag=True, help="An unreadable file is an error instead of being left out.")
image_size = click.option(
    "--image-size", type=int,
    help="Side of training images; points of a cloud; the most tokens of a text or a stay; seconds of a sound; frames "
    "of a skeleton; agents of a scene.",
)  # fmt: skip
ignore = click.option("--ignore", multiple=True, metavar="NAME", help="Column, lead or scene to leave out.")
na_values = click.option("--na", "na_values", multiple=True, metavar="WORD", help="Stands for a missing cell.")
categories = click.option(
    "--category", "categories", multiple=True, metavar="COLUMN", help="Column of a table whose numbers are categories."
)
events = click.option("--events", metavar="ID,TIME,CODE,VALUE", help="Columns of a table of measurements of stays.")
window = click.option(
    "--window", type=int, help="Moments of a sample of a long record; frames of a clip; voxels a side of a crop."
)
stride = click.option("--stride", type=int, help="From one window, frame of a clip, or crop to the next.")
parts = click.option("--parts", metavar="A,B,C", help="Training, validation, test: shares, or months as 12,4,4.")
kind = click.option("--kind", metavar="NAME", help="What the data are (image, table, mix, ...), where it is open.")
text = click.option("--text", metavar="COLUMN", help="Column of the texts, sequences or SMILES.")
tokenizer = click.option("--tokenizer", metavar="NAME|PATH", help="wordpiece, bytepair, characters, a file or a run.")
vocabulary = click.option("--vocabulary", type=int, metavar="N", help="Pieces of a trained tokenizer.")
derive = click.option("--derive", metavar="PART,...", help="Parts to train on: image, and luma, edges, colours of it.")
cased = click.option("--cased", is_flag=True, help="A trained tokenizer tells upper from lower case.")
canonical = click.option("--canonical", is_flag=True, help="Rewrite SMILES as RDKit does; needs rdkit.")
rate = click.option("--rate", type=int, metavar="HZ", help="Rate that sounds and electrocardiograms are taken at.")
number: dict[str, Any] = dict(
    default="auto", show_default=True, metavar="N|auto", callback=lambda c, p, v: number_or_auto(v)
)
batch_size = click.option("--batch-size", **number)


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--set", "changes", multiple=True, metavar="STAGE.ARGUMENT=VALUE", help="Change the recipe: mask.ratio=0.8."
    )(command)


def planning(command: Callable[..., Any]) -> Callable[..., Any]:
    """What decides how a training run will be."""
    for option in (
        click.option("--recipe", metavar="NAME|FILE.py", help="By default that of the kind of data."),
        click.option("--size", metavar="NAME", help="micro, nano, tiny, ..., huge; by default from the data."),
        click.option("--epochs", type=float, help="By default 400,000 images, 200,000 texts or 1,000,000 rows in all."),
        click.option("--steps", type=int, metavar="N", help="Optimiser steps, in place of --epochs."),
        batch_size,
        click.option("--accumulate", type=int, default=1, metavar="N", help="Batches to a step."),
        click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True),
        image_size, kind, window, stride, parts, label, group, strict, ignore, na_values, categories, events, text,
        tokenizer, vocabulary, cased, canonical, rate, derive, changing,
    ):  # fmt: skip
        command = option(command)
    return command


# From words to values.


def number_or_auto(text: Any) -> int | str:
    if isinstance(text, int) or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor 'auto'") from None


def labels_asked(text: str) -> tuple[Any, ...] | None:
    if text == "none":
        return None
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if word != "all" and not word.isdigit()]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not a number of labels a class; give such as 1,5,10,all or none")
    return tuple(word if word == "all" else int(word) for word in words)


def changes_of(texts: tuple[str, ...]) -> dict[str, Any]:
    """'mask.ratio=0.8' -> {"mask.ratio": 0.8}; a value that is a number, true, false, null or JSON counts as such, any
    other as text (for a stage of a recipe: the name of a part, as in `loss=l1`)."""
    found = {}
    for text in texts:
        path, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"--set {text!r} has no value; give such as --set mask.ratio=0.8")
        try:
            found[path] = json.loads(value)
        except json.JSONDecodeError:
            found[path] = value
    return found


def seconds_of(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """'90s', '30m', '2h' or a number of seconds."""
    if text is None:
        return None
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        return float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no length of time; give such as 90s, 30m or 2h") from None


def load_recipe(recipe_file: str | None) -> None:
    if recipe_file:
        from anymask.recipe import find

        find(recipe_file)


def open_run(folder: str, recipe_file: str | None) -> Any:
    from anymask.run import Run

    load_recipe(recipe_file)
    return Run.open(folder)


def recipe_or_run(name: str) -> Recipe:
    if Path(name).is_dir():
        return open_run(name, None).recipe
    from anymask.recipe import find

    return find(name)


def show_table(table: Table, as_json: bool) -> None:
    if as_json:
        json.dump(table.to_json(), sys.stdout, indent=1, default=str)
        sys.stdout.write("\n")
    else:
        table.print()
