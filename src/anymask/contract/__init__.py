"""The contract: what every recipe has to pass, without a test being written for it. Users' own recipes too.

    no leak     hidden content never reaches a prediction, on tokens and on raw values
    reach       visible content reaches every head, from every stream
    padding     padded tokens change nothing
    order       neither does the order of tokens, where positions travel with them
    gradients   every trainable parameter gets one; frozen ones stay
    fits        one batch is fitted clearly better than by the best constant
    repeats     equal seeds give equal losses
    compiles    learn() is one graph, not compiled again for other lengths
    facts       docstring, paper, claim, difference from the parent
    stored      JSON, save, load and embed are exact
    stages      every stage of a recipe of several stages runs

A part that breaks an item by design says so, with the reason as text: `shares` (no leak), `needs_grid` (order),
`breaks_graph` (compiles). The reason is reported, and that part of the check skipped. A mask that may hide nothing or
everything of a sample says so in `sometimes_whole`; samples of which some is hidden are then looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from anymask.contract.data import SMALL, batch_of, default_schema
from anymask.contract.layout import order, padding
from anymask.contract.paper import facts, stages, stored
from anymask.contract.sight import no_leak, reach
from anymask.contract.subject import ContractError, Subject
from anymask.contract.training import compiles, fits, gradients, repeats
from anymask.data import Schema
from anymask.engine import Sample
from anymask.recipe import Recipe, Size, find

__all__ = ["ITEMS", "SMALL", "ContractError", "Subject", "check_recipe", "subject_of"]

ITEMS: dict[str, Callable[[Subject], list[str]]] = {
    "facts": facts,
    "stages": stages,
    "no leak": no_leak,
    "reach": reach,
    "padding": padding,
    "order": order,
    "repeats": repeats,
    "gradients": gradients,
    "stored": stored,
    "fits": fits,
    "compiles": compiles,
}


def subject_of(
    recipe: Recipe | str, *, schema: Schema | None = None, size: Size = SMALL, batch: Sample | None = None
) -> Subject:
    """What the items take: a recipe with data (made-up ones if none are given) and a size."""
    found = find(recipe)
    schema = schema or default_schema(found)
    return Subject(found, schema, size, batch_of(schema) if batch is None else batch)


def check_recipe(
    recipe: Recipe | str,
    *,
    schema: Schema | None = None,
    size: Size = SMALL,
    batch: Sample | None = None,
    items: Iterable[str] = tuple(ITEMS),
) -> list[str]:
    """Runs the contract on a recipe, by slug, file or as it is. On made-up pictures it takes about ten seconds.

    Args:
        schema, batch: data to check it on; the batch has `index` and `key` beside the schema's fields.
        size: of the models that are built, many times.
        items: the items to run.

    Returns:
        One line for each item passed, and what was noted on the way: 'padding: passed'.

    Raises:
        ContractError: at the first item that fails.
    """
    subject = subject_of(recipe, schema=schema, size=size, batch=batch)
    lines = []
    for item in items:
        notes = ITEMS[item](subject)
        lines.append(f"{item}: passed" + "".join(f"; {note}" for note in notes))
    return lines
