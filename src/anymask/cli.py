"""The command line: parses, calls the Python API, prints. Imports what a command needs when it runs, so that `--help`
answers at once."""

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


class Commands(click.Group):
    """Lists commands in the order of their use, and prints errors that a user can mend without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError, OSError, KeyboardInterrupt) as error:
            if isinstance(error, click.exceptions.Exit) or not _for_people(error):
                raise
            click.echo(f"anymask: {error}", err=True)
            ctx.exit(getattr(error, "code", 2))


def _for_people(error: BaseException) -> bool:
    from anymask.errors import AnymaskError

    if isinstance(error, (AnymaskError, OSError)):
        return not isinstance(error, click.ClickException)
    return type(error).__module__.startswith("anymask.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="anymask")
def main() -> None:
    """Masked pre-training of encoders: hide part of the data, predict it, keep the features."""


# Options that several commands share, in the same words.

as_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
recipe_files = click.option(
    "--recipe", "recipe_file", metavar="FILE.py", help="The file of your own recipe, if the run was made with one."
)
label = click.option("--label", help="Column of the labels.")
group = click.option("--group", help="Column that must not be split, such as patient.")
strict = click.option("--strict", is_flag=True, help="An unreadable file is an error instead of being left out.")
image_size = click.option("--image-size", type=int, help="Side of training images in pixels.")
number: dict[str, Any] = dict(default="auto", show_default=True, metavar="N|auto", callback=lambda c, p, v: _number(v))
batch_size = click.option("--batch-size", **number)


def changing(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--set", "changes", multiple=True, metavar="STAGE.ARGUMENT=VALUE", help="Change the recipe: mask.ratio=0.8."
    )(command)


def planning(command: Callable[..., Any]) -> Callable[..., Any]:
    """What decides how a training run will be."""
    for option in (
        click.option("--recipe", default="mae", show_default=True, metavar="NAME|FILE.py"),
        click.option("--size", metavar="NAME", help="nano, tiny, small, base, large, huge; by default from the data."),
        click.option("--epochs", type=float, help="By default about 400,000 samples in all."),
        batch_size,
        click.option("--accumulate", type=int, default=1, metavar="N", help="Batches to a step."),
        click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True),
        image_size, label, group, strict, changing,
    ):  # fmt: skip
        command = option(command)
    return command


@main.command()
@click.argument("source", required=False)
@planning
@click.option("--init", metavar="RUN|WEIGHTS", help="Start from these weights.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; by default a new one in runs/.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option("--compile", is_flag=True, help="torch.compile.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--probe-labels", default="1,5,10", show_default=True, metavar="N,...|none", help="Labels a class, at the end."
)
@click.option("--test", help="Source to probe on; by default the test split, or a part held back.")
@click.option("--workers", **number)
@click.option("--devices", type=int, default=1, show_default=True)
@click.option("--logger", "loggers", multiple=True, metavar="NAME", help="A Lightning logger beside metrics.csv.")
@click.option("--save-minutes", type=float, default=5.0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress.")
def pretrain(source: str | None, changes: tuple[str, ...], quiet: bool, probe_labels: str, **options: Any) -> None:
    """Train an encoder on SOURCE by masking. Without SOURCE: on the embedded digits.

    SOURCE is a folder of images (with or without class folders or metadata.csv), a folder of parquet or .npy files, or
    a .parquet, .npy or .npz file.
    """
    from anymask.train import pretrain

    asked = _labels(probe_labels)
    pretrain(source, changes=_changes(changes), progress=not quiet, probe_labels=asked, **options)


@main.command()
@click.argument("source", required=False)
@planning
@as_json
def describe(source: str | None, changes: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """What SOURCE holds, what would be trained on it, and the time and memory that would take."""
    from anymask.table import Table
    from anymask.train import plan

    made = plan(source, changes=_changes(changes), trial=True, **options)
    rows: list[Any] = [("data", what, value) for what, value in made.schema.describe()]
    rows += [("training", what, value) for what, value in made.rows()]
    _print(Table(("", "what", "value"), rows), as_json)


@main.command()
@as_json
def recipes(as_json: bool) -> None:
    """List all recipes: name, paper, family, level of evidence, what it changes."""
    from anymask.levels import level
    from anymask.recipe import catalogue, find
    from anymask.table import Table

    found = [find(slug) for slug in catalogue()]
    rows: list[Any] = [(r.slug, r.name, r.paper, r.family, level(r.slug), r.summary) for r in found]
    _print(Table(("recipe", "name", "paper", "family", "level", "what it changes"), rows), as_json)


@main.command()
@click.argument("recipe")
@as_json
def show(recipe: str, as_json: bool) -> None:
    """Print the whole pipeline of RECIPE (a name, a file, or a run folder)."""
    from anymask.compare import flatten
    from anymask.table import Table

    found = _recipe_or_run(recipe)
    parent = f", from {found.parent.slug}" if found.parent else ""
    title = f"{found.slug}: {found.name} ({found.paper}{parent})"
    if not as_json:
        click.echo(f"{title}\n\n{found.doc}\n")
    _print(Table(("stage", "value"), list(flatten(found).items()), title=title if as_json else ""), as_json)


@main.command()
@click.argument("a")
@click.argument("b")
@as_json
def diff(a: str, b: str, as_json: bool) -> None:
    """Print what differs between two recipes or runs."""
    from anymask.compare import diff
    from anymask.table import Table

    left, right = _recipe_or_run(a), _recipe_or_run(b)
    heads = (left.slug, right.slug) if left.slug != right.slug else (a, b)
    rows: list[Any] = list(diff(left, right))
    _print(Table(("stage", *heads), rows, notes=[] if rows else ["no difference"]), as_json)


@main.command()
@click.argument("name")
@click.option("--parent", default="mae", show_default=True, help="The recipe that it changes.")
@click.option("--out", type=click.Path(path_type=Path), help="File; by default ./NAME.py.")
def new(name: str, parent: str, out: Path | None) -> None:
    """Write a recipe file of your own to start from; it passes the contract as it is."""
    from anymask.new import write

    path = write(name, parent, out)
    click.echo(f"{path}: edit it, then `anymask check {path}` and `anymask pretrain SOURCE --recipe {path}`")


@main.command()
@click.argument("recipe")
def check(recipe: str) -> None:
    """Run the contract on RECIPE: no leak, reach, padding, gradients, fit, compile, saving."""
    from anymask.contract import check_recipe
    from anymask.recipe import find

    for line in check_recipe(find(recipe)):
        click.echo(line)


@main.command()
@click.argument("recipe", nargs=-1, required=True)
@click.option("--seeds", type=int, default=5, show_default=True)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiplies samples seen.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("evidence"), show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the claims' data sets; or $ANYMASK_DATA.")
@as_json
def verify(recipe: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run the claim of each RECIPE, its mechanism on against off, and write the evidence."""
    from anymask.claims import verify
    from anymask.recipe import find

    for name in recipe:
        _print(verify(find(name), **options).table(), as_json)


@main.command()
@click.argument("run")
@click.argument("source")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="z.npy or z.parquet.")
@click.option("--pool", default="mean", show_default=True, help="mean, cls or tokens.")
@click.option("--layer", type=int, help="Of this block (0 = before the first, negative from the last).")
@click.option("--batch-size", type=int, default=256, show_default=True)
@label
@strict
@recipe_files
def embed(run: str, source: str, recipe_file: str | None, label: str | None, strict: bool, **options: Any) -> None:
    """Write the features of SOURCE under RUN's encoder. Interrupted, the same command goes on."""
    from anymask.data import open_source
    from anymask.evaluation import embed

    path = embed(_run(run, recipe_file), open_source(source, label=label, strict=strict), progress=True, **options)
    click.echo(f"wrote {path}")


@main.command()
@click.argument("run")
@click.argument("source")
@click.option("--labels", default="auto", show_default=True, metavar="N,N,...,all", help="Labels a class.")
@click.option("--draws", type=int, default=10, show_default=True, help="Draws of the labelled samples.")
@click.option("--test", help="Source to measure on; by default the test split, or a part held back.")
@click.option("--pool", default="mean", show_default=True, help="mean, cls or tokens.")
@click.option("--seed", type=int, default=0, show_default=True)
@label
@group
@recipe_files
@as_json
def evaluate(
    run: str, source: str, labels: str, recipe_file: str | None, as_json: bool, label: str | None, group: str | None,
    test: str | None, **options: Any,
) -> None:  # fmt: skip
    """Linear probe and nearest neighbours with few labels, against raw input and the same encoder untrained."""
    from anymask.data import open_source
    from anymask.evaluation import evaluate

    data = open_source(source, label=label, group=group)
    held = None if test is None else open_source(test, label=label)
    asked = None if labels == "auto" else _labels(labels)
    _print(evaluate(_run(run, recipe_file), data, labels=asked, test=held, progress=not as_json, **options), as_json)


@main.command()
@click.argument("run")
@click.argument("source")
@click.option("--epochs", type=int)
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--lr", type=float)
@click.option("--layer-decay", type=float, default=0.75, show_default=True)
@click.option("--labels", type=int, help="Labels a class to use; by default all.")
@click.option("--from-scratch", is_flag=True, help="Without the run's weights, to compare.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the classifier.")
@click.option("--seed", type=int, default=0, show_default=True)
@label
@group
@recipe_files
def finetune(
    run: str, source: str, recipe_file: str | None, label: str | None, group: str | None, from_scratch: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Fine-tune RUN's encoder to a classifier of SOURCE's labels."""
    from anymask.data import open_source
    from anymask.evaluation import finetune

    data = open_source(source, label=label, group=group)
    given = {name: value for name, value in options.items() if value is not None}
    folder = finetune(_run(run, recipe_file), data, pretrained=not from_scratch, **given)
    click.echo(f"wrote {folder}; anymask predict {folder} SOURCE uses it")


@main.command()
@click.argument("classifier")
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="predictions.csv or .parquet.")
@recipe_files
@as_json
def predict(classifier: str, source: str, recipe_file: str | None, as_json: bool, out: Path | None) -> None:
    """Class and probabilities of each sample of SOURCE under a fine-tuned CLASSIFIER."""
    from anymask.evaluation import predict

    _load(recipe_file)
    table = predict(classifier, source, out=out)
    if out is None or as_json:
        _print(table, as_json)
    else:
        click.echo("\n".join([f"wrote {out}", *table.notes]))


@main.command()
@click.argument("run")
@click.argument("source", required=False)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="picture.png")
@click.option("-n", type=int, default=8, show_default=True, help="Samples.")
@recipe_files
def reconstruct(run: str, source: str | None, out: Path, n: int, recipe_file: str | None) -> None:
    """Picture of samples of SOURCE: original, what is visible, what RUN makes of it."""
    from anymask.train import reconstruct

    click.echo(f"wrote {reconstruct(_run(run, recipe_file), source, out, n=n)}")


@main.command()
@click.argument("run")
@click.option("--to", required=True, metavar="safetensors|timm|hf", help="Format.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="By default RUN/export-FORMAT.")
@recipe_files
def export(run: str, to: str, out: Path | None, recipe_file: str | None) -> None:
    """Write RUN's encoder for use elsewhere."""
    from anymask.interop import export

    click.echo(f"wrote {export(_run(run, recipe_file), to, out or Path(run) / f'export-{to}')}")


# From words to values.


def _number(text: Any) -> int | str:
    if isinstance(text, int) or text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither a number nor 'auto'") from None


def _labels(text: str) -> tuple[Any, ...] | None:
    if text == "none":
        return None
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if word != "all" and not word.isdigit()]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not a number of labels a class; give such as 1,5,10,all or none")
    return tuple(word if word == "all" else int(word) for word in words)


def _changes(texts: tuple[str, ...]) -> dict[str, Any]:
    """'mask.ratio=0.8' -> {"mask.ratio": 0.8}; a value that is a number, true, false, null or JSON counts as such, any
    other as the name of a part of its stage (`loss=l1`), or else as text."""
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


def _load(recipe_file: str | None) -> None:
    if recipe_file:
        from anymask.recipe import find

        find(recipe_file)


def _run(folder: str, recipe_file: str | None) -> Any:
    from anymask.run import Run

    _load(recipe_file)
    return Run.open(folder)


def _recipe_or_run(name: str) -> Recipe:
    if Path(name).is_dir():
        return _run(name, None).recipe
    from anymask.recipe import find

    return find(name)


def _print(table: Table, as_json: bool) -> None:
    if as_json:
        json.dump(table.to_json(), sys.stdout, indent=1, default=str)
        sys.stdout.write("\n")
    else:
        table.print()


if __name__ == "__main__":
    main()
