"""Commands that use a run: embed, evaluate, finetune, predict, reconstruct, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from anymask.cli.options import (
    as_json,
    changes_of,
    group,
    label,
    labels_asked,
    open_run,
    recipe_files,
    show_table,
    strict,
)


def _list_tasks(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Prints each task, what it measures and its options."""
    if not asked:
        return
    import inspect

    from anymask.evaluation.tasking import task, task_names

    for name in task_names():
        measure = task(name)
        options = [o for o in inspect.signature(measure).parameters if o not in ("run", "source", "progress")]
        about = (inspect.getdoc(measure) or "").partition("\n")[0]
        click.echo(f"{name:12}{about}\n{'':12}options: {', '.join(options)}")
    ctx.exit()


@click.command()
@click.argument("run")
@click.argument("source")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="z.npy or z.parquet.")
@click.option("--pool", default="mean", show_default=True, help="mean, sum, max, cls or tokens.")
@click.option("--layer", type=int, help="Of this block (0 = before the first, negative from the last).")
@click.option("--batch-size", type=int, default=256, show_default=True)
@label
@strict
@recipe_files
def embed(run: str, source: str, recipe_file: str | None, label: str | None, strict: bool, **options: Any) -> None:
    """Write the features of SOURCE under RUN's encoder. Interrupted, the same command goes on."""
    from anymask.evaluation import embed

    made = open_run(run, recipe_file)
    data = made.source(source, labelled=label is not None, label=label, strict=strict)
    path = embed(made, data, progress=True, **options)
    click.echo(f"wrote {path}")


@click.command()
@click.argument("run")
@click.argument("source")
@click.option("--task", metavar="NAME", help="See --tasks; by default what SOURCE has labels for, else health.")
@click.option("--labels", metavar="N,N,...,all", help="Labels a class (task classify, finetune).")
@click.option("--draws", type=int, help="Draws of the labelled samples.")
@click.option("--test", help="Source to measure on; by default the test split, or a part held back.")
@click.option("--pool", help="mean (the default), sum, max, cls or tokens.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--set", "more", multiple=True, metavar="OPTION=VALUE", help="Another option of the task.")
@click.option("--tasks", is_flag=True, is_eager=True, expose_value=False, callback=_list_tasks, help="List the tasks.")
@label
@group
@recipe_files
@as_json
def evaluate(
    run: str, source: str, labels: str | None, recipe_file: str | None, as_json: bool, label: str | None,
    group: str | None, test: str | None, more: tuple[str, ...], task: str | None, seed: int, **options: Any,
) -> None:  # fmt: skip
    """Measure RUN on SOURCE beside baselines: raw input, the same encoder untrained, classical methods.

    The table is printed, and kept in RUN/evaluations for reports and model cards.
    """
    from anymask.evaluation import evaluate
    from anymask.evaluation.tasking import default_task

    changes = changes_of(more)
    for name in ("seed", "task", "progress"):
        if name in changes:
            mend = "--json is quiet" if name == "progress" else f"give it as --{name} {changes[name]}"
            raise click.BadParameter(f"--set {name}={changes[name]}: {mend}")
    opened = open_run(run, recipe_file)
    data = opened.source(source, label=label, group=group)
    given = {name: value for name, value in options.items() if value is not None} | changes
    if labels is not None:
        given["labels"] = labels_asked(labels)
    if test is not None:
        given["test"] = opened.source(test, label=label)
    task = task or default_task(data, given)
    table = evaluate(opened, data, task=task, seed=seed, progress=not as_json, **given)
    opened.keep(f"{task} on {data.name}", table.to_json())
    show_table(table, as_json)


@click.command()
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
    from anymask.evaluation import finetune

    made = open_run(run, recipe_file)
    given = {name: value for name, value in options.items() if value is not None}
    folder = finetune(made, made.source(source, label=label, group=group), pretrained=not from_scratch, **given)
    click.echo(f"wrote {folder}; anymask predict {folder} SOURCE uses it")


@click.command()
@click.argument("classifier")
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="predictions.csv or .parquet.")
@recipe_files
@as_json
def predict(classifier: str, source: str, recipe_file: str | None, as_json: bool, out: Path | None) -> None:
    """Class and probabilities of each sample of SOURCE under a fine-tuned CLASSIFIER."""
    from anymask.evaluation import predict

    made = open_run(classifier, recipe_file)
    table = predict(classifier, made.source(source, labelled=False), out=out)
    if out is None or as_json:
        show_table(table, as_json)
    else:
        click.echo("\n".join([f"wrote {out}", *table.notes]))


@click.command()
@click.argument("run")
@click.argument("source", required=False)
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="picture.png")
@click.option("-n", type=int, default=8, show_default=True, help="Samples.")
@recipe_files
def reconstruct(run: str, source: str | None, out: Path, n: int, recipe_file: str | None) -> None:
    """Picture of samples of SOURCE: original, what is visible, what RUN makes of it."""
    from anymask.train import reconstruct

    click.echo(f"wrote {reconstruct(open_run(run, recipe_file), source, out, n=n)}")


@click.command()
@click.argument("run")
@click.option("--to", required=True, metavar="safetensors|onnx|timm|hf", help="Format.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="By default RUN/export-FORMAT.")
@click.option("--pool", help="Of the features, for onnx: mean or cls.")
@click.option("--tokens", is_flag=True, help="A second output with all tokens, for onnx.")
@recipe_files
def export(run: str, to: str, out: Path | None, recipe_file: str | None, **options: Any) -> None:
    """Write RUN's encoder for use elsewhere."""
    from anymask.interop import export

    given = {name: value for name, value in options.items() if value}
    click.echo(f"wrote {export(open_run(run, recipe_file), to, out or Path(run) / f'export-{to}', **given)}")
