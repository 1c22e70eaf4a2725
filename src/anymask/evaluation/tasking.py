"""`evaluate`: a run measured by one of the tasks in `anymask.evaluation.tasks`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anymask.data import DataError, Source, infer_schema
from anymask.evaluation import tasks
from anymask.evaluation.errors import EvaluateError
from anymask.run import Run
from anymask.table import Table


def task_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(tasks.__path__))


def task(name: str) -> Callable[..., Table]:
    """The function of a task.

    Raises:
        EvaluateError: there is none of this name.
    """
    if name not in task_names():
        raise EvaluateError(f"no task {name!r}{_near(name, task_names())}; there is: {', '.join(task_names())}")
    return importlib.import_module(f"{tasks.__name__}.{name}").evaluate


def evaluate(run: Run | str | Path, source: object, *, task: str | None = None, **options: Any) -> Table:
    """What a run is worth on a task, beside baselines.

    Args:
        run: a Run or its folder.
        source: a Source, or what `open_source` takes.
        task: its name; None = what the source has labels for, see `default_task`.
        options: of the task, see `anymask.evaluation.tasks`. All take `test` (a Source to measure on; None = the
            source's own test split or, where the task needs one, a part held back), `seed` and `progress`.

    Raises:
        EvaluateError: no such task, or an option that it does not take.
        SchemaError: the data do not fit the model. DataError: they are not what the task needs.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    data = opened(run, source)
    name = task or default_task(data, options)
    measure = _task(name)
    known = {n: p for n, p in inspect.signature(measure).parameters.items() if n not in ("run", "source")}
    if options.get("test") is not None:
        options["test"] = opened(run, options["test"])
    for option, value in options.items():
        if option not in known:
            raise EvaluateError(
                f"task {name!r} has no option {option!r}{_near(option, list(known))}; it has: {', '.join(known)}"
            )
        _check_kind(name, known[option], value)
    run.schema.check(infer_schema(data))
    return measure(run, data, **options)


# What an option may be by its annotation; others take anything.
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int, np.integer),
    "float": (int, float, np.integer, np.floating),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
    "Source": (Source,),
    "Pool": (Callable,),  # type: ignore[dict-item]
}


def _check_kind(task: str, option: inspect.Parameter, value: object) -> None:
    """
    Raises:
        EvaluateError: a value that the option's annotation excludes, such as text for a number.
    """
    wanted = [word.strip() for word in str(option.annotation).split("|")]
    lists = [word for word in wanted if word.startswith("Sequence[")]
    if any(word not in _KINDS for word in wanted if word not in lists):
        return
    kinds = tuple(kind for word in wanted if word not in lists for kind in _KINDS[word])
    if isinstance(value, bool) and "bool" not in wanted:
        kinds = ()
    if isinstance(value, kinds) or (lists and isinstance(value, (list, tuple, np.ndarray))):
        return
    example = f"a list, as --set {option.name}=[...]" if lists else " or ".join(w for w in wanted if w != "None")
    raise EvaluateError(f"option {option.name!r} of task {task!r} is {value!r}; give {example}")


def default_task(source: Source, options: Mapping[str, Any] | None = None) -> str:
    """"classify" where there are classes (or `labels` is asked for), "regress" where there are continuous targets,
    "retrieve" for a collection with queries, else "health", which needs no labels."""
    if source.labels is not None or source.token_labels is not None or (options or {}).get("labels") is not None:
        return "classify"
    if source.targets is not None:
        return "regress"
    return "retrieve" if "queries" in source.splits else "health"


def opened(run: Run, source: object) -> Source:
    """`source` as the run's own data were opened, see `Run.source`.

    Raises:
        DataError: a stream.
    """
    found = run.source(source)
    if not isinstance(found, Source):
        raise DataError(
            f"{found.name} is a stream, whose labels are known by reading only; open it without streaming=True"
        )
    return found


def _near(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


_task = task  # `evaluate` has an argument of this name
