"""Runs side by side: their figures and what they differ in, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from anymask.compare import flatten
from anymask.run import Run
from anymask.table import Figure, Table
from anymask.train.progress import duration

from .errors import ReportError
from .subject import Subject, unique_names

OURS, RAW, UNTRAINED = "pre-trained encoder", "raw input", "untrained encoder"
SAYS_ITSELF = ("steps", "epochs", "source")  # settings that have a row of their own
UNLIKE = ("opening", "threads")


class Worth(NamedTuple):
    """Figures of one column of a run's evaluation by one probe."""

    column: str
    probe: str
    ours: Figure
    raw: Figure | None
    untrained: Figure | None


def compare_runs(runs: Sequence[Run | str | Path]) -> Table:
    """A table with a column for each run: recipe, data, loss, what its recorded evaluation says, time, and every
    setting and argument of the recipe in which the runs differ.

    Raises:
        ReportError: no run given. RunError: a folder that is no run.
    """
    if not runs:
        raise ReportError("name one run folder or more; `anymask pretrain` makes one")
    subjects = [Subject.open(run) for run in runs]
    for subject, name in zip(subjects, unique_names([s.run.folder for s in subjects])):
        subject.name = name
    return table_of(subjects)


def table_of(subjects: Sequence[Subject]) -> Table:
    """As `compare_runs`."""
    rows: list[Sequence[Any]] = [(what, *cells) for what, cells in _facts(subjects)]
    rows += [(f"{path} *", *cells) for path, cells in _differences(subjects)]
    notes = ["* differs between the runs"] if any(str(row[0]).endswith(" *") for row in rows) else []
    if len({s.goal for s in subjects}) > 1:
        notes.append("the runs have different targets or losses: their losses do not compare")
    if len({s.run.schema.fingerprint for s in subjects}) > 1:
        notes.append("the runs were trained on different data")
    for subject in subjects:
        where = subject.run.folder
        if not subject.rows:
            notes.append(f"{subject.name} has no metrics.csv, so no loss and no time: anymask pretrain writes it")
        if subject.evaluation is None:
            notes.append(
                f"{subject.name} has no recorded evaluation: anymask evaluate {where} SOURCE measures it, and anymask "
                f"report {where} --source SOURCE shows it"
            )
    return Table(("", *(subject.name for subject in subjects)), rows, notes=notes)


def worths(table: Table | None) -> list[Worth]:
    """Every figure of the pre-trained encoder in an evaluation, with its baselines; none in a table of another form."""
    if table is None or tuple(table.columns[:2]) != ("features", "probe"):
        return []
    found = []
    for record in table.records():
        if record["features"] != OURS:
            continue
        for column in table.columns[2:]:
            others = [_figure(table, column, name, record["probe"]) for name in (RAW, UNTRAINED)]
            if isinstance(record[column], Figure):
                found.append(Worth(column, record["probe"], record[column], *others))
    return found


def headline(subject: Subject) -> Worth | None:
    """The figure that stands for a run: ten labels a class, or else the first of its evaluation."""
    found = worths(subject.evaluation)
    ten = [worth for worth in found if worth.column.startswith("10 labels")]
    return next(iter(ten or found), None)


def _figure(table: Table, column: str, features: str, probe: str) -> Figure | None:
    for record in table.records():
        if (record["features"], record["probe"]) == (features, probe) and isinstance(record[column], Figure):
            return record[column]
    return None


def _facts(subjects: Sequence[Subject]) -> list[tuple[str, list[Any]]]:
    losses, seconds = [s.loss for s in subjects], [s.seconds for s in subjects]
    rows: list[tuple[str, list[Any]]] = [
        ("recipe", [s.run.recipe.slug for s in subjects]),
        ("data", [s.run.schema.source for s in subjects]),
        ("steps", [_count(s.run.settings.get("steps")) for s in subjects]),
        ("epochs", [_count(s.run.settings.get("epochs")) for s in subjects]),
        ("loss at the start", [loss and f"{loss[0]:.4g}" for loss in losses]),
        ("loss at the end", [loss and f"{loss[1]:.4g}" for loss in losses]),
        ("training time", [None if t is None else duration(t) for t in seconds]),
    ]
    found = [{(w.column, w.probe): w for w in worths(s.evaluation)} for s in subjects]
    for key in dict.fromkeys(key for one in found for key in one):
        cells = [one.get(key) for one in found]
        rows.append((f"{key[1]}, {key[0]}", [worth and worth.ours for worth in cells]))
        raw = [worth and worth.raw for worth in cells]
        if any(raw):
            rows.append(("  the same on raw input", raw))
    return rows


def _differences(subjects: Sequence[Subject]) -> list[tuple[str, list[Any]]]:
    """Settings and arguments in which the runs differ."""
    flat = [_settings(s) for s in subjects]
    paths = dict.fromkeys(path for one in flat for path in one)
    rows = [(path, [one.get(path, "–") for one in flat]) for path in paths]
    return [(path, cells) for path, cells in rows if len(set(cells)) > 1]


def _settings(subject: Subject) -> dict[str, str]:
    run = subject.run
    settings = {k: v for k, v in run.settings.items() if k not in (*SAYS_ITSELF, *UNLIKE)}
    sizes = {f"size.{name}": value for name, value in run.size._asdict().items()}
    every = {**settings, **sizes, **flatten(run.recipe)}
    return {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in every.items()}


def _count(value: Any) -> str | None:
    return None if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
