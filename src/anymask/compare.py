"""Recipes as text: every argument of one, and what separates two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anymask.recipe import STAGES, P, Recipe, brief


def flatten(recipe: Recipe) -> dict[str, str]:
    """Path ('mask.ratio') -> value as text, in stage order, defaults included; None, which lets size or data decide,
    is "auto"."""
    rows: dict[str, str] = {}
    for stage in STAGES:
        if recipe.stages.get(stage):
            _flatten(stage, recipe.stages[stage], rows)
    return rows


def diff(a: Recipe, b: Recipe) -> list[tuple[str, str, str]]:
    """(path, value in a, value in b) of everything that differs, in stage order; '-' where one has nothing there.
    An argument that only one has is left out where it is None ("auto"), which says nothing."""
    left, right = flatten(a), flatten(b)
    paths = sorted({**left, **right}, key=lambda path: STAGES.index(path.partition(".")[0]))
    rows = [(path, left.get(path, "-"), right.get(path, "-")) for path in paths]
    return [row for row in rows if row[1] != row[2] and set(row[1:]) != {"-", "auto"}]


def _flatten(path: str, value: Any, rows: dict[str, str]) -> None:
    if isinstance(value, P):
        rows[path] = value.part.__qualname__
        for name, argument in value.defaults().items():
            _flatten(f"{path}.{name}", argument, rows)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            _flatten(f"{path}.{name}", item, rows)
    elif isinstance(value, (tuple, list)) and any(isinstance(v, (P, Recipe)) for v in value):
        for i, item in enumerate(value):
            _flatten(f"{path}.{i}", item, rows)
    elif isinstance(value, Recipe):
        rows[path] = value.slug
        rows.update({f"{path}.{p}": text for p, text in flatten(value).items()})
    else:
        rows[path] = brief(value)
