"""The sections of a report that come from what training left: curves, few labels, recipe, settings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from anymask.compare import diff, flatten
from anymask.recipe import RecipeError, find
from anymask.table import Figure, Table

from . import page, plots
from .comparing import OURS, RAW, UNTRAINED, headline
from .page import Section
from .plots import DASHES, MARKS, SERIES, Line
from .subject import Subject

POINTS = 250  # of a curve


def label(subject: Subject, subjects: Sequence[Subject]) -> str:
    """What stands for a run in a plot: nothing where there is only one."""
    return subject.letter if len(subjects) > 1 else ""


def title(what: str, subject: Subject, subjects: Sequence[Subject]) -> str:
    return f"{what}: {subject.letter} {subject.name}" if len(subjects) > 1 else what


def series(n: int) -> dict[str, object]:
    """Colour and dash of the n-th run."""
    return {"paint": SERIES[n % len(SERIES)], "dash": DASHES[n % len(DASHES)]}


def named(subject: Subject, subjects: Sequence[Subject]) -> str:
    """What begins a run's part of a caption: nothing where there is only one."""
    return f"{subject.letter} ({subject.name}): " if len(subjects) > 1 else ""


def sentence(words: Sequence[str]) -> str:
    text = "; ".join(words)
    return f"{text[:1].upper()}{text[1:]}."


def training(subjects: Sequence[Subject]) -> Section:
    """Loss, and what the features were worth meanwhile."""
    curves = [_losses(subjects), _neighbours(subjects), _ranks(subjects)]
    return Section("Training", "What fell, and what the features became meanwhile.", page.cards(*curves))


def _losses(subjects: Sequence[Subject]) -> str:
    lines, words, drawn = [], [], set[str]()
    for n, subject in enumerate(subjects):
        rows = subject.rows[:: max(1, len(subject.rows) // POINTS)]
        if not rows:
            continue
        steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
        lines.append(Line(label(subject, subjects), steps, losses, **series(n)))  # type: ignore[arg-type]
        assert subject.loss is not None
        constant = subject.constant()
        against = ""
        if constant is not None:
            against = f", {constant:.3g} for the best constant prediction"
            if subject.goal not in drawn:
                name = f"{label(subject, subjects)} constant".strip()
                lines.append(Line(name, [steps[0], steps[-1]], [constant] * 2, paint="muted", dash=DASHES[2]))
                drawn.add(subject.goal)
        words.append(
            f"{named(subject, subjects)}{subject.loss[0]:.3g} at the start, {subject.loss[1]:.3g} over the last "
            f"tenth of {steps[-1]:,.0f} steps{against}"
        )
    lacking = [s.name for s in subjects if not s.rows]
    if not lines:
        return page.missing("Loss", f"{', '.join(lacking)}: no metrics.csv in the folder; anymask pretrain writes it")
    caption = sentence(words)
    if len({s.goal for s in subjects}) > 1:
        caption += " The runs have different targets, so their losses do not compare."
    if lacking:
        caption += f" No metrics.csv in {', '.join(lacking)}; anymask pretrain writes it."
    plot = plots.curves(lines, what="training loss", along="step", alt=f"Line plot of the loss by step. {caption}")
    return page.card("Loss", plot, caption)


def _neighbours(subjects: Sequence[Subject]) -> str:
    lines, words = [], []
    for n, subject in enumerate(subjects):
        kept = subject.kept
        if "neighbour" not in kept:
            continue
        y, raw = 100 * kept["neighbour"], 100 * float(kept["neighbour_raw"])
        paint, spread = series(n), 1.96 * float((0.25 / kept["labelled"]) ** 0.5)
        lines.append(Line(label(subject, subjects) or "features", kept["step"], y, mark=MARKS[n % 6], **paint))  # type: ignore[arg-type]
        if n == 0 or subject.run.schema.fingerprint != subjects[0].run.schema.fingerprint:
            ends = [kept["step"][0], kept["step"][-1]]
            name = f"{label(subject, subjects)} raw".strip()
            lines.append(Line(name, ends, [raw, raw], paint="muted", dash=DASHES[2]))  # type: ignore[arg-type]
        words.append(
            f"{named(subject, subjects)}{y[0]:.1f} % before training, {y[-1]:.1f} % at the end, {raw:.1f} % for raw "
            f"input, on {int(kept['labelled'])} training samples (give or take {100 * spread:.0f} points)"
        )
    name = "Does the nearest sample have the same label?"
    if not lines:
        return page.missing(name, "The runs kept no such curve: their data have no labels, or they are older.")
    caption = sentence(words) + " Labels are only used to measure."
    plot = plots.curves(lines, what="nearest neighbour has the same label", along="step", percent=True,
                        alt=f"Line plot of neighbours with the same label by step. {caption}")  # fmt: skip
    return page.card(name, plot, caption)


def _ranks(subjects: Sequence[Subject]) -> str:
    lines, words = [], []
    for n, subject in enumerate(subjects):
        kept = subject.kept
        if "rank" not in kept or not np.isfinite(kept["rank"]).all():
            continue
        rank = kept["rank"]
        name = label(subject, subjects)
        lines.append(Line(name, kept["step"], rank, mark=MARKS[n % 6], **series(n)))  # type: ignore[arg-type]
        words.append(f"{named(subject, subjects)}{rank[0]:.1f} before training, {rank[-1]:.1f} at the end, of "
                     f"{subject.run.size.width} dimensions")  # fmt: skip
    if not lines:
        return page.missing("Effective rank", "The runs kept no history.npz: they are older; train again to have it.")
    caption = sentence(words) + " A fall towards 1 is collapse."
    alt = f"Line plot of the effective rank by step. {caption}"
    plot = plots.curves(lines, what="effective rank of the features", along="step", alt=alt)
    return page.card("Effective rank", plot, caption)


def few_labels(subjects: Sequence[Subject]) -> Section:
    """The recorded evaluation, as curves and as a table."""
    shown = []
    probes = dict.fromkeys(
        row[1] for s in subjects if s.evaluation is not None and headline(s) for row in s.evaluation.rows
    )
    shown += [_label_curve(subjects, probe) for probe in probes]
    for subject in subjects:
        name = title("Every figure", subject, subjects)
        if subject.evaluation is None:
            name = title("No figures yet", subject, subjects)
            where = subject.run.folder
            why = f"Nothing is recorded of what the features of {subject.name} are worth. With labelled data: anymask "
            why += f"report {where} --source SOURCE, with --label where labels are a column."
            if subject.unmeasured:
                why = f"The features of {subject.name} could not be measured: {subject.unmeasured}."
            shown.append(page.missing(name, why, wide=True))
        else:
            body = page.table(subject.evaluation, f"Evaluation of {subject.name}")
            shown.append(page.card(name, body, subject.evaluation.title.capitalize() + ".", wide=True))
    intro = "Frozen features with a few labels a class, beside raw input and the same encoder before training."
    return Section("Few labels", intro, page.cards(*shown))


def _label_curve(subjects: Sequence[Subject], probe: str) -> str:
    lines, words, ticks = [], [], list[str]()
    several = len(subjects) > 1
    for n, subject in enumerate(subjects):
        if subject.evaluation is None or not headline(subject):
            continue
        columns = [str(c) for c in subject.evaluation.columns[2:]]
        ticks += [c for c in columns if c not in ticks]
        first = n == 0 or subject.run.schema.fingerprint != subjects[0].run.schema.fingerprint
        names = {OURS: (subject.letter if several else "pre-trained"), RAW: "raw", UNTRAINED: "untrained"}
        for features, name in names.items():
            if features == RAW and not first:
                continue
            cells = [_cell(subject.evaluation, features, probe, c) for c in columns]
            there = [(ticks.index(c), cell) for c, cell in zip(columns, cells) if cell is not None]
            if not there or (features == UNTRAINED and several):
                continue
            paint = series(n)["paint"] if features == OURS else "c5" if features == UNTRAINED else "muted"
            dash = {OURS: series(n)["dash"], RAW: DASHES[2], UNTRAINED: DASHES[1]}[features]
            y = [f.mean for _, f in there]
            low = [f.mean if f.low is None else f.low for _, f in there]
            high = [f.mean if f.high is None else f.high for _, f in there]
            mark = {OURS: MARKS[n % 6], RAW: None, UNTRAINED: "x"}[features]
            lines.append(Line(name, [x for x, _ in there], y, low, high, paint=str(paint), dash=dash, mark=mark))
            figures = ", ".join(f"{f} with {columns[x]}" for x, f in there)
            words.append(f"{name} {figures}")
    caption = "Mean and 95 % interval over draws of the labelled samples."
    short = [t.replace(" labels a class", "").replace(" label a class", "").replace(" labels", "") for t in ticks]
    plot = plots.curves(lines, what="accuracy on the test part", along="labels a class", ticks=short, percent=True,
                        alt=f"Line plot of accuracy in % by labels a class, {probe}. {'; '.join(words)}.")  # fmt: skip
    return page.card(probe[:1].upper() + probe[1:], plot, caption)


def _cell(table: Table, features: str, probe: str, column: str) -> Figure | None:
    for record in table.records():
        if (record["features"], record["probe"]) == (features, probe) and isinstance(record[column], Figure):
            return record[column]
    return None


def recipes(subjects: Sequence[Subject]) -> Section:
    """What separates each recipe from its parent, and all of it."""
    shown = []
    for subject in subjects:
        recipe = subject.run.recipe
        if recipe.parent is None:
            why = f"{recipe.slug} has no parent: other recipes are differences from it."
            shown.append(page.missing(title("Against its parent", subject, subjects), why))
        else:
            rows = diff(recipe.parent, recipe)
            made = Table(("stage", recipe.parent.slug, recipe.slug), [*rows])
            body = page.table(made, f"Differences of {recipe.slug} from {recipe.parent.slug}")
            name = title(f"Against its parent, {recipe.parent.slug}", subject, subjects)
            shown.append(page.card(name, body, f"{recipe.name} ({recipe.paper}). {recipe.summary}", wide=True))
        changed = _changed(subject)
        if changed is not None:
            name = title("Changed for this run", subject, subjects)
            shown.append(page.card(name, page.table(changed, name), f"Against {recipe.slug} as it is.", wide=True))
    for subject in subjects:
        made = Table(("stage", "value"), list(flatten(subject.run.recipe).items()))
        name = title("The whole pipeline", subject, subjects)
        caption = "Every argument, defaults included; auto is decided by size or data."
        shown.append(page.details(name, page.table(made, name), caption))
    return Section("Recipe", "What was trained, and what sets it apart.", page.cards(*shown))


def _changed(subject: Subject) -> Table | None:
    """What the run's recipe has else than the recipe of its name; None where nothing differs or there is none."""
    try:
        published = find(subject.run.recipe.slug)
    except RecipeError:  # a user's own, which lives in a file
        return None
    rows = diff(published, subject.run.recipe)
    return Table(("stage", published.slug, "this run"), [*rows]) if rows else None


def settings(subjects: Sequence[Subject]) -> Section:
    """Settings, size, data and versions, a column for each run."""
    found = [_settings(s) for s in subjects]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [(name, *(one.get(name) for one in found)) for name in names]
    heads = [f"{s.letter} {s.name}" if len(subjects) > 1 else "value" for s in subjects]
    body = page.details("Settings, data and versions", page.table(Table(("", *heads), [*rows]), "Settings"))
    return Section("Settings", "As resolved when the run began.", page.cards(body))


def _settings(subject: Subject) -> dict[str, str]:
    run = subject.run
    found = {name: _plain(value) for name, value in run.settings.items() if value not in (None, {}, "")}
    found |= {f"size: {name.replace('_', ' ')}": str(value) for name, value in run.size._asdict().items()}
    found |= {f"data: {what}": value for what, value in run.schema.describe()}
    return found | {f"version: {name}": version for name, version in run.versions.items()}


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
