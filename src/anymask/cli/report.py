"""Commands that show runs: report, compare."""

from __future__ import annotations

from pathlib import Path

import click

from anymask.cli.options import as_json, label, load_recipe, recipe_files, show_table


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option("-o", "--out", default=Path("report.html"), show_default=True, type=click.Path(path_type=Path))
@click.option("--source", help="Data to draw samples from; by default what each run was trained on.")
@click.option("--test", help="Source to evaluate on, where a run has recorded no evaluation.")
@click.option("--samples", type=int, default=600, show_default=True, help="Random samples whose features are shown.")
@click.option("--seed", type=int, default=0, show_default=True)
@label
@recipe_files
def report(
    runs: tuple[str, ...], source: str | None, test: str | None, label: str | None, recipe_file: str | None,
    out: Path, samples: int, seed: int,
) -> None:  # fmt: skip
    """One HTML page of what each RUN was worth and looks like, side by side; it opens offline."""
    from anymask.reports import report

    load_recipe(recipe_file)
    click.echo(f"wrote {report(runs, source, out, test=test, label=label, samples=samples, seed=seed)}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN [RUN ...]")
@recipe_files
@as_json
def compare(runs: tuple[str, ...], recipe_file: str | None, as_json: bool) -> None:
    """Loss, probe figures, time, and the settings in which each RUN differs."""
    from anymask.reports import compare_runs

    load_recipe(recipe_file)
    show_table(compare_runs(runs), as_json)
