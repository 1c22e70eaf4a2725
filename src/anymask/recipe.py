"""Recipes: a published system as its difference from another one.

A recipe is a set of named stages. Each stage is a `P`, a part with arguments that waits for the model it belongs to.
`but` makes a changed copy, `diff` and `show` print, `build` makes the model.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from anymask.engine import Model
from anymask.errors import AnymaskError
from anymask.sizes import SIZES, Size

USER_MODULE = "anymask_user_"  # prefix of the modules that `--recipe ./mine.py` loads


class RecipeError(AnymaskError):
    """A recipe that does not exist or does not fit together; the message names the mend."""


class P:
    """A part and its arguments, not yet built: `P(Random, ratio=0.75)`. Positional arguments become keywords.

    Raises:
        RecipeError: an argument that the part does not take; names the nearest one.
    """

    def __init__(self, part: Callable[..., Any], /, *args: Any, **kwargs: Any):
        names = [p for p in _parameters(part) if p not in ("self", "model")]
        unknown = [name for name in kwargs if name not in names]
        if unknown:
            raise RecipeError(f"{part.__qualname__} takes no argument {unknown[0]!r}{_nearest(unknown[0], names)}")
        if len(args) > len(names):
            raise RecipeError(f"{part.__qualname__} takes {len(names)} arguments ({', '.join(names)}), got {len(args)}")
        self.part = part
        self.args: dict[str, Any] = dict(zip(names, args)) | kwargs

    def __call__(self, model: Any = None, **more: Any) -> Any:
        """Builds the part. `model` goes to parts that take one; `more` is what only the caller knows."""
        args = {name: _resolve(value, model) for name, value in self.args.items()} | more
        return self.part(model, **args) if "model" in _parameters(self.part) else self.part(**args)

    def but(self, **changes: Any) -> P:
        """A copy with changed arguments."""
        return P(self.part, **{**self.args, **changes})

    def defaults(self) -> dict[str, Any]:
        """All arguments with the values they have, given or default; those without either are left out."""
        found = {name: p.default for name, p in _parameters(self.part).items() if p.default is not p.empty}
        found.pop("model", None)
        return found | self.args

    def takes(self, name: str) -> bool:
        """Whether the part has an argument of this name."""
        return name in _parameters(self.part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, P) and (self.part, self.args) == (other.part, other.args)

    def __hash__(self) -> int:
        return hash((self.part, tuple(self.args)))

    def __repr__(self) -> str:
        return f"{self.part.__qualname__}({', '.join(f'{k}={brief(v)}' for k, v in self.args.items())})"


@dataclass(frozen=True)
class FromStage:
    """An argument that stands for the model of an earlier stage of the same recipe."""

    name: str


def _bound(loss: Any) -> Any:
    """A loss that is a `P`, whose function has further arguments, as a function of prediction and goal."""
    if isinstance(loss, Mapping):
        return {head: _bound(one) for head, one in loss.items()}
    return functools.partial(loss.part, **loss.args) if isinstance(loss, P) else loss


def _resolve(value: Any, model: Any) -> Any:
    if isinstance(value, FromStage):
        if value.name not in model.earlier:
            raise RecipeError(f"no earlier stage {value.name!r} has been run (there is: {', '.join(model.earlier)})")
        return model.earlier[value.name]
    return value


MODEL_STAGES = (
    "tokenizer",
    "mask",
    "corruption",
    "stem",
    "positions",
    "encoder",
    "decoder",
    "target",
    "loss",
    "extras",
)
STAGES = (*MODEL_STAGES, "augment", "optimiser", "schedule", "stages")


@dataclass(frozen=True, eq=False)
class Recipe:
    """A published system: its stages, and where it comes from."""

    stages: dict[str, Any] = field(default_factory=dict)
    slug: str = ""
    name: str = ""
    paper: str = ""
    family: str = ""
    doc: str = ""
    parent: Recipe | None = None
    module: str = ""

    def __getattr__(self, stage: str) -> Any:
        if stage in STAGES:
            return self.stages.get(stage)
        raise AttributeError(f"a recipe has no {stage!r}{_nearest(stage, STAGES)}")

    def but(self, changes: Mapping[str, Any] | None = None, /, **stages: Any) -> Recipe:
        """A changed copy. A stage is replaced by a part (`mask=P(Random, ratio=0.6)`, or by its name in `parts`,
        `{"mask": "Random"}`), or some of its arguments are (`mask=dict(ratio=0.6)`, or `{"mask.ratio": 0.6}`).

        Raises:
            RecipeError: unknown stage or argument; names the nearest one.
        """
        new = dict(self.stages)
        for path, value in {**(changes or {}), **stages}.items():
            stage, *rest = path.split(".")
            if stage not in STAGES:
                raise RecipeError(f"a recipe has no stage {stage!r}{_nearest(stage, STAGES)}")
            if rest:
                new[stage] = _change(new.get(stage), stage, rest, value)
            elif isinstance(value, dict) and isinstance(new.get(stage), P):
                for argument, part in value.items():
                    new[stage] = _change(new[stage], stage, [argument], part)
            else:
                new[stage] = _named(stage, value) if isinstance(value, str) else value
        return replace(self, stages=new)

    @property
    def kind(self) -> str | None:
        """The kind of data that it is about: what its tokenizer takes; None where that is several."""
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, P):
            return None
        taken = tokenizer.args.get("kind") or getattr(tokenizer.part, "takes", None)
        return taken if isinstance(taken, str) else None

    def serves(self, kind: str) -> bool:
        """Whether it can be trained on a kind of data."""
        serves = getattr(getattr(self.tokenizer, "part", None), "serves", None)
        return serves(kind, self.tokenizer.args) if serves else self.kind == kind

    @property
    def claim(self) -> Any:
        """The recipe's main claim: `claim` in its file."""
        return getattr(sys.modules.get(self.module), "claim", None)

    @property
    def claims(self) -> dict[str, Any]:
        """All its claims by name: the main one as "", and what its file has in the dict `further_claims`."""
        main = {} if self.claim is None else {"": self.claim}
        return main | getattr(sys.modules.get(self.module), "further_claims", {})

    @property
    def summary(self) -> str:
        return self.doc.strip().split("\n")[0]

    def build(self, schema: Any, size: Size | str, *, earlier: Mapping[str, Model] | None = None) -> Model:
        """The model, for data of `schema`, with fresh weights from torch's global generator."""
        missing = [s for s in MODEL_STAGES if s not in self.stages and s != "extras"]
        if missing:
            raise RecipeError(f"recipe {self.slug!r} lacks the stage {missing[0]!r}; give it a parent or that stage")
        size = SIZES[size] if isinstance(size, str) else size
        stages = {**self.stages, "loss": _bound(self.stages["loss"])}
        return Model(stages, schema=schema, size=size, earlier=earlier)

    def to_json(self) -> dict[str, Any]:
        """The resolved recipe as plain data, defaults included; `from_json` reads it back."""
        from anymask.recipe_json import to_json

        stages = {s: to_json(self.stages[s], f"{self.slug}.{s}") for s in STAGES if self.stages.get(s)}
        about = {k: getattr(self, k) for k in ("slug", "name", "paper", "family", "doc", "module")}
        return {**about, "parent": self.parent.slug if self.parent else None, "stages": stages}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """A recipe from `to_json`. Parts are looked up in anymask and in files loaded with `find`; nothing else is
        imported."""
        from anymask.recipe_json import from_json, import_known

        about = {k: data[k] for k in ("slug", "name", "paper", "family", "doc", "module")}
        stages = {stage: from_json(value) for stage, value in data["stages"].items()}
        import_known(about["module"])
        return cls(stages=stages, parent=_parent(data.get("parent"), about["module"]), **about)


def recipe(
    *, paper: str = "", name: str = "", parent: Recipe | None = None, slug: str = ""
) -> Callable[[Callable[[Recipe], Recipe]], Recipe]:
    """Decorator of a function that takes the parent recipe and returns the changed one. Its docstring is the recipe's:
    one line of what differs, then how to run it, cost, expected figure, and what is not reproduced."""

    def wrap(change: Callable[[Recipe], Recipe]) -> Recipe:
        made = change(parent or Recipe())
        found = slug or change.__name__.replace("_", "-")
        family = change.__module__.rpartition(".")[0].rpartition(".")[2]
        about: dict[str, Any] = dict(slug=found, name=name or found, paper=paper, doc=inspect.getdoc(change) or "")
        return replace(made, parent=parent, family=family, module=change.__module__, **about)

    return wrap


# Finding recipes.


def catalogue() -> Iterator[str]:
    """Slugs of all recipes: files under anymask/recipes, then entry points of the group `anymask.recipes`."""
    yield from sorted(_files())
    yield from sorted(entry.name for entry in importlib.metadata.entry_points(group="anymask.recipes"))


def find(name: str | Recipe) -> Recipe:
    """A recipe by slug ('mae'), or from a user's file ('./mine.py', or './mine.py:name' if it holds several).

    Raises:
        RecipeError: there is none; names the nearest.
    """
    if isinstance(name, Recipe):
        return name
    path, _, inner = name.partition(".py:")
    if inner or name.endswith(".py"):
        return _load_file(Path(path + ".py" if inner else name).expanduser(), inner)
    files = _files()
    if name in files:
        return _only(importlib.import_module(files[name]), name)
    for entry in importlib.metadata.entry_points(group="anymask.recipes"):
        if entry.name == name:
            return entry.load()
    known = list(catalogue())
    raise RecipeError(
        f"no recipe {name!r}{_nearest(name, known)}; `anymask recipes` lists all, ./file.py loads your own"
    )


def _files() -> dict[str, str]:
    package = importlib.import_module("anymask.recipes")
    found = {}
    for family in pkgutil.iter_modules(package.__path__, "anymask.recipes."):
        folder = importlib.import_module(family.name) if family.ispkg else None
        for module in pkgutil.iter_modules(folder.__path__, family.name + ".") if folder else ():
            found[module.name.rpartition(".")[2].replace("_", "-")] = module.name
    return found


def _parent(slug: str | None, module: str) -> Recipe | None:
    """The recipe called `slug`: one that the child's own file holds, as users' parents are known nowhere else."""
    held = vars(sys.modules[module]).values() if slug and module in sys.modules else ()
    own = next((r for r in held if isinstance(r, Recipe) and r.slug == slug), None)
    if slug and not own and ".py" in slug:  # `find` would run it
        raise RecipeError(f"this run's recipe has a file as its parent ({slug}); load that file first, with --recipe")
    return own or (find(slug) if slug else None)


def _only(module: types.ModuleType, wanted: str = "") -> Recipe:
    own = {r.slug: r for r in vars(module).values() if isinstance(r, Recipe) and r.module == module.__name__}
    if wanted in own:
        return own[wanted]
    if len(own) == 1 and not wanted:
        return next(iter(own.values()))
    where = module.__file__
    if not own:
        raise RecipeError(f"{where} defines no recipe: decorate a function with @anymask.recipe.recipe(...)")
    raise RecipeError(f"{where} defines {', '.join(own)}; say which, as in {where}:{next(iter(own))}")


def _load_file(path: Path, wanted: str) -> Recipe:
    if not path.is_file():
        raise RecipeError(f"no file {path}; `anymask new NAME --parent mae` writes one to start from")
    name = USER_MODULE + path.stem
    if name in sys.modules and Path(sys.modules[name].__file__ or "").resolve() == path.resolve():
        return _only(sys.modules[name], wanted)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return _only(module, wanted)


# Changing one argument, and plain data in and out.


def _named(stage: str, name: str) -> Any:
    """The part called `name` of the module of `parts` that a stage's parts live in; a loss is a plain function."""
    plural = {"loss": "losses", "positions": "positions"}.get(stage, stage + "s")
    if stage not in MODEL_STAGES or stage == "extras":
        raise RecipeError(f"stage {stage!r} cannot be set by a name; write a recipe file (`anymask new`)")
    module = importlib.import_module(f"anymask.parts.{plural}")
    kind = types.FunctionType if stage == "loss" else type
    own = {n: v for n, v in vars(module).items() if isinstance(v, kind) and v.__module__ == module.__name__}
    if name not in own:
        raise RecipeError(f"no {stage} is called {name!r}{_nearest(name, own)}")
    return own[name] if stage == "loss" else P(own[name])


def _change(part: Any, stage: str, path: list[str], value: Any) -> Any:
    if isinstance(part, (tuple, list)) and path[0].isdigit() and int(path[0]) < len(part):
        items = list(part)
        items[int(path[0])] = _change(items[int(path[0])], stage, path[1:], value) if path[1:] else value
        return tuple(items)
    if not isinstance(part, P):
        raise RecipeError(f"stage {stage!r} is {brief(part)}, which has no argument {path[0]!r}")
    if path[1:]:
        value = _change(part.defaults().get(path[0]), f"{stage}.{path[0]}", path[1:], value)
    elif path[0] not in _parameters(part.part):
        names = [n for n in _parameters(part.part) if n != "model"]
        raise RecipeError(f"{stage} ({part.part.__qualname__}) takes no argument {path[0]!r}{_nearest(path[0], names)}")
    return part.but(**{path[0]: value})


def _parameters(part: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    found = inspect.signature(part.__init__ if inspect.isclass(part) else part).parameters  # type: ignore[misc]
    return {n: p for n, p in found.items() if n != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def brief(value: Any) -> str:
    """An argument as text."""
    if value is None:
        return "auto"
    if isinstance(value, (type, types.FunctionType)):
        return value.__qualname__
    return value if isinstance(value, str) else repr(value)


def _nearest(word: str, words: Any) -> str:
    words = list(words)
    close = get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f" (there is: {', '.join(words)})" if words else ""
