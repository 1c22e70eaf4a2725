"""Stages of a recipe as plain data and back. What is read back names parts of anymask, of installed plugins, or of a
file that the user has named; nothing else is imported."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
import types
from collections.abc import Mapping
from typing import Any

from anymask.recipe import USER_MODULE, FromStage, P, Recipe, RecipeError

# Where parts are: a run names nothing else, whoever wrote it.
PARTS = ("anymask.parts.", "anymask.recipes.", "anymask.engine", "anymask.data.augment", "anymask.train.optim")


def to_json(value: Any, where: str) -> Any:
    if isinstance(value, P):
        args = {name: to_json(v, f"{where}.{name}") for name, v in value.defaults().items()}
        return {"part": address(value.part, where), "args": args}
    if isinstance(value, FromStage):
        return {"from_stage": value.name}
    if isinstance(value, Recipe):
        return {"recipe": value.to_json()}
    if isinstance(value, (type, types.FunctionType)):
        return {"object": address(value, where)}
    if isinstance(value, Mapping):
        return {"map": {name: to_json(v, f"{where}.{name}") for name, v in value.items()}}
    if isinstance(value, (tuple, list)):
        return [to_json(v, where) for v in value]
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        raise RecipeError(f"{where} is {value!r}, which cannot be saved; use a number, text, P or a function") from None


def from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(from_json(v) for v in value)
    if not isinstance(value, dict):
        return value
    if "part" in value:
        return P(look_up(value["part"]), **{name: from_json(v) for name, v in value["args"].items()})
    if "object" in value:
        return look_up(value["object"])
    if "from_stage" in value:
        return FromStage(value["from_stage"])
    if "recipe" in value:
        return Recipe.from_json(value["recipe"])
    return {name: from_json(v) for name, v in value["map"].items()}


def address(thing: Any, where: str) -> str:
    if "<" in thing.__qualname__:
        raise RecipeError(f"{where} is {thing.__qualname__}, which cannot be saved; define it at the top of its file")
    return f"{thing.__module__}:{thing.__qualname__}"


def import_known(module: str) -> bool:
    """Imports a module of anymask or of an installed plugin; False, and nothing imported, for all others."""
    installed = (entry.module for entry in importlib.metadata.entry_points(group="anymask.recipes"))
    known = module.startswith("anymask.") or module in installed
    if known:
        importlib.import_module(module)
    return known


def look_up(address: str) -> Any:
    module, _, name = address.partition(":")
    if not import_known(module) and not module.startswith(USER_MODULE):
        raise RecipeError(f"this run uses {address}, which is in no recipe file; move it into one and name that file")
    if module not in sys.modules:
        file = module.removeprefix(USER_MODULE) + ".py"
        raise RecipeError(f"this run uses {name} from your own {file}; name that file: --recipe path/to/{file}")
    found: Any = sys.modules[module]
    for piece in name.split("."):
        found = getattr(found, piece, None)
    if found is None or getattr(found, "__module__", None) != module:
        raise RecipeError(f"{module} has no {name} any more; this run was made with another version of it")
    if module.startswith("anymask.") and not f"{module}.".startswith(PARTS):
        raise RecipeError(f"this run uses {address} as a part, which is none; it was not written by anymask")
    return found
