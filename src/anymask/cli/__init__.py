"""The command line: parses, calls the Python API, prints. Imports what a command needs when it runs, so that `--help`
answers at once."""

from __future__ import annotations

from typing import Any

import click

from anymask.cli import generating, recipes, report, training, using


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


for command in (
    training.pretrain, training.describe, using.evaluate, using.embed, using.finetune, using.predict,
    using.reconstruct, generating.generate, using.export, recipes.recipes, recipes.show, recipes.diff, recipes.new,
    recipes.check, recipes.verify, recipes.evidence, report.report, report.compare,
):  # fmt: skip
    main.add_command(command)
