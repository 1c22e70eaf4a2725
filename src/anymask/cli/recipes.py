"""Commands about recipes: recipes, show, diff, new, check, verify, evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from anymask.cli.options import (
    as_json,
    recipe_or_run,
    seconds_of,
    show_table,
)


@click.command()
@as_json
def recipes(as_json: bool) -> None:
    """List all recipes: name, paper, family, level of evidence, what it changes."""
    from anymask.claims.levels import level
    from anymask.recipe import catalogue, find
    from anymask.table import Table

    found = [find(slug) for slug in catalogue()]
    rows: list[Any] = [(r.slug, r.name, r.paper, r.family, level(r.slug), r.summary) for r in found]
    show_table(Table(("recipe", "name", "paper", "family", "level", "what it changes"), rows), as_json)


@click.command()
@click.argument("recipe")
@as_json
def show(recipe: str, as_json: bool) -> None:
    """Print the whole pipeline of RECIPE (a name, a file, or a run folder)."""
    from anymask.compare import flatten
    from anymask.table import Table

    found = recipe_or_run(recipe)
    parent = f", from {found.parent.slug}" if found.parent else ""
    title = f"{found.slug}: {found.name} ({found.paper}{parent})"
    if not as_json:
        click.echo(f"{title}\n\n{found.doc}\n")
    show_table(Table(("stage", "value"), list(flatten(found).items()), title=title if as_json else ""), as_json)


@click.command()
@click.argument("a")
@click.argument("b")
@as_json
def diff(a: str, b: str, as_json: bool) -> None:
    """Print what differs between two recipes or runs."""
    from anymask.compare import diff
    from anymask.table import Table

    left, right = recipe_or_run(a), recipe_or_run(b)
    heads = (left.slug, right.slug) if left.slug != right.slug else (a, b)
    rows: list[Any] = list(diff(left, right))
    show_table(Table(("stage", *heads), rows, notes=[] if rows else ["no difference"]), as_json)


@click.command()
@click.argument("name")
@click.option("--parent", default="mae", show_default=True, help="The recipe that it changes.")
@click.option("--out", type=click.Path(path_type=Path), help="File; by default ./NAME.py.")
def new(name: str, parent: str, out: Path | None) -> None:
    """Write a recipe file of your own to start from; it passes the contract as it is."""
    from anymask.new import write

    path = write(name, parent, out)
    click.echo(f"{path}: edit it, then `anymask check {path}` and `anymask pretrain SOURCE --recipe {path}`")


@click.command()
@click.argument("recipe")
def check(recipe: str) -> None:
    """Run the contract on RECIPE: no leak, reach, padding, gradients, fit, compile, saving."""
    from anymask.contract import check_recipe
    from anymask.recipe import find

    for line in check_recipe(find(recipe)):
        click.echo(line)


@click.command()
@click.argument("recipe", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All recipes, in place of naming them.")
@click.option("--claim", metavar="NAME", help="Only the further claim of this name; by default all claims.")
@click.option("--pilot", is_flag=True, help="Try a claim on training samples held back, with other seeds.")
@click.option("--seeds", type=int, default=5, show_default=True)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiplies samples seen.")
@click.option("--budget", callback=seconds_of, metavar="30m", help="Stop then; the same command goes on.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("evidence"), show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the claims' data sets; or $ANYMASK_DATA.")
@as_json
def verify(
    recipe: tuple[str, ...], every: bool, claim: str | None, as_json: bool, budget: float | None, **options: Any
) -> None:
    """Run the claims of each RECIPE, a mechanism on against off, and write the evidence."""
    import time

    from anymask.claims import verify
    from anymask.recipe import catalogue, find

    if every == bool(recipe):
        raise click.UsageError("name recipes, or give --all")
    found = [find(name) for name in (catalogue() if every else recipe)]
    end = None if budget is None else time.monotonic() + budget
    for one in found:
        for name in [claim] if claim else one.claims or [""]:
            left = None if end is None else max(0.0, end - time.monotonic())
            show_table(verify(one, name=name, budget=left, **options).table(), as_json)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), help="File; by default the page is printed.")
@click.option("--evidence", type=click.Path(path_type=Path), default=Path("evidence"), show_default=True)
def evidence(out: Path | None, evidence: Path) -> None:
    """Write the page that lists every recipe with its level and what its claim gave."""
    from anymask.claims.evidence import page

    text = page(evidence)
    if out is None:
        click.echo(text, nl=False)
    else:
        out.write_text(text)
        click.echo(f"wrote {out}")
