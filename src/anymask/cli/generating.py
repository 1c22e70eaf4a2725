"""Command that draws new samples: generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from anymask.cli.options import open_run, recipe_files


@click.command()
@click.argument("run")
@click.option("-n", type=int, default=4, show_default=True, help="Samples.")
@click.option("--sampler", default="ancestral", show_default=True, help="ancestral, confidence, semi-autoregressive.")
@click.option("--steps", type=int, help="From all hidden to none; by default as many as there are tokens to draw.")
@click.option("--length", type=int, help="Tokens of a text; by default the median of the training texts.")
@click.option("--block", type=int, help="Tokens of a block, semi-autoregressive; by default a quarter of the length.")
@click.option("--prompt", default="", help="How every text begins.")
@click.option("--guidance", type=float, default=0.0, show_default=True, help="How much more to follow the prompt.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0 = always the likeliest.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="texts.txt, .jsonl; images.png, .npy.")
@recipe_files
def generate(run: str, recipe_file: str | None, out: Path | None, **options: Any) -> None:
    """Draw new samples from RUN: texts of a recipe such as mdlm, which are printed without -o, or images of mage."""
    from anymask.data.kind import kind_of
    from anymask.generation import GenerateError, generate

    opened = open_run(run, recipe_file)
    if out is None and not any(kind_of(field.kind).spelled for field in opened.schema.fields.values()):
        raise GenerateError("images are written to a file: -o images.png, or .npy")
    found = generate(opened, out=out, progress=True, **options)
    click.echo(f"wrote {out}" if out else "\n\n".join(map(str, found)))
