"""Commands that train: pretrain, describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from anymask.cli.options import (
    as_json,
    changes_of,
    labels_asked,
    number,
    planning,
    show_table,
)


@click.command()
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

    SOURCE is a folder of images (with or without class folders or metadata.csv), a folder of parquet or .npy files, a
    table (.csv, .tsv or .parquet), a time series (a table with a column of dates, a .ts file or a folder of them),
    texts (.txt, .csv, .jsonl or a folder of them), graphs, a folder of point clouds (.ply, .off, ...) or lidar sweeps
    (.bin), or a .parquet, .npy or .npz file; or samples of several parts: a folder of folders with matching names of
    files (rgb/0001.jpg, depth/0001.png), or a description (mix.toml).
    """
    from anymask.train import pretrain

    asked = labels_asked(probe_labels)
    pretrain(source, changes=changes_of(changes), progress=not quiet, probe_labels=asked, **options)


@click.command()
@click.argument("source", required=False)
@planning
@as_json
def describe(source: str | None, changes: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """What SOURCE holds, what would be trained on it, and the time and memory that would take."""
    from anymask.table import Table
    from anymask.train import plan

    made = plan(source, changes=changes_of(changes), trial=True, **options)
    rows: list[Any] = [("data", what, value) for what, value in made.schema.describe()]
    rows += [("training", what, value) for what, value in made.rows()]
    show_table(Table(("", "what", "value"), rows), as_json)
