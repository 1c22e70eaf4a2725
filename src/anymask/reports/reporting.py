"""`report`: runs as one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import anymask
from anymask.data import DataError
from anymask.evaluation import EvaluateError, evaluate
from anymask.run import Run, write_atomically
from anymask.train.progress import duration

from . import page, sections, seeing
from .comparing import headline, table_of
from .errors import ReportError
from .plots import SERIES
from .samples import new_samples
from .subject import LETTERS, Subject, open_subjects

FEWEST, MOST = 2, 2000  # samples that are looked at


def report(
    runs: Run | str | Path | Sequence[Run | str | Path],
    source: Any = None,
    out: str | Path = "report.html",
    *,
    test: Any = None,
    label: str | None = None,
    title: str | None = None,
    samples: int = 600,
    seed: int = 0,
) -> Path:
    """Writes what runs were worth and look like into one HTML file that opens offline.

    Args:
        runs: one run or folder, or several, which are shown side by side.
        source: the data that samples are drawn from, for all runs: a Source, or what `open_source` takes. None = what
            each run was trained on, where it was a path that is still there. Where a run has recorded no evaluation
            and `source` has labels, it is evaluated (`anymask.evaluation.evaluate`, on `test` if given).
        out: the file.
        label: where a path has its labels, see `anymask.data.open_source`; None = where each run's data have them.
        title: None = the names of the runs.
        samples: random ones that features are shown of, 2 to 2,000.
        seed: of that choice.

    Returns:
        `out`. Sections for which something is missing say what, and which command supplies it.

    Raises:
        ReportError: no run, too many runs, or `samples` out of range. RunError: a folder that is no run.
        SchemaError: `source` does not fit a run. DataError: it cannot be opened.
        OSError: `out` cannot be written.
    """
    given = [runs] if isinstance(runs, (Run, str, Path)) else list(runs)
    if not given:
        raise ReportError("name one run folder or more; `anymask pretrain` makes one")
    if len(given) > len(SERIES):
        raise ReportError(f"{len(given)} runs are too many to tell apart in one page; name {len(SERIES)} or fewer")
    if not FEWEST <= samples <= MOST:
        raise ReportError(f"samples is a number from {FEWEST} to {MOST:,}, not {samples}")
    path = Path(out).expanduser()
    if path.is_dir():
        raise ReportError(f"{path} is a folder; name a file, such as -o {path / 'report.html'}")
    subjects = open_subjects(given, source, label=label, samples=samples, seed=seed)
    if source is not None:
        for subject in subjects:
            _evaluate(subject, test, label)
    html = page.page(
        title=title or " and ".join(s.name for s in subjects),
        eyebrow=f"anymask {anymask.__version__} · {_about(subjects)}",
        finding=finding(subjects),
        summary=_summary(subjects),
        sections=[
            sections.training(subjects),
            sections.few_labels(subjects),
            seeing.reconstructions(subjects),
            seeing.masks(subjects),
            *new_samples(subjects),
            seeing.features(subjects),
            sections.recipes(subjects),
            sections.settings(subjects),
        ],
        footer=f"Made by: anymask report {shlex.join(str(s.run.folder) for s in subjects)} -o {path.name}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, html.encode())
    return path


def finding(subjects: Sequence[Subject]) -> str:
    """What the runs show, in a sentence."""
    if len(subjects) == 1:
        return _one(subjects[0])
    found = {s.letter: worth for s in subjects if (worth := headline(s)) is not None}
    alike = len({s.run.schema.fingerprint for s in subjects}) == 1
    same = len({(w.column, w.probe) for w in found.values()}) == 1
    if len(found) < 2 or not alike or not same:
        return f"{len(subjects)} runs side by side. " + " ".join(
            f"{s.letter}: {_one(s)[:1].lower()}{_one(s)[1:]}" for s in subjects
        )
    best = max(found, key=lambda letter: found[letter].ours.mean)
    first = found[best]
    name = next(s.name for s in subjects if s.letter == best)
    others = ", ".join(f"{letter} {percent(w.ours)}" for letter, w in found.items() if letter != best)
    text = (
        f"With {first.column}, a {first.probe} on the features of {best} ({name}) reaches {percent(first.ours)}, the "
        f"most of {len(found)} runs; {others}"
    )
    return text + (f"; raw input {percent(first.raw)}." if first.raw else ".")


def _one(subject: Subject) -> str:
    worth = headline(subject)
    if worth is None:
        words = f"Trained for {subject.run.settings.get('steps', 0):,} steps"
        if subject.loss is not None:
            words += f"; the loss went from {subject.loss[0]:.3g} to {subject.loss[1]:.3g}"
        return f"{words}. Nothing is recorded of what the features are worth."
    words = f"With {worth.column}, a {worth.probe} on the frozen features reaches {percent(worth.ours)}"
    against = []
    for name, other in (("raw input", worth.raw), ("the untrained encoder", worth.untrained)):
        if other is None:
            continue
        gain = worth.ours.mean - other.mean
        side = "above" if gain >= 0 else "below"
        against.append(f"{abs(gain):.1f} points {side} {name}{_overlap(worth.ours, other)}")
    return f"{words}, {' and '.join(against)}." if against else f"{words}."


def percent(figure: Any) -> str:
    """67.7 % (66.0 to 69.4)"""
    mean, _, interval = str(figure).partition(" ")
    return f"{mean} % {interval}".rstrip()


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "\N{MINUS SIGN}")


def _overlap(a: Any, b: Any) -> str:
    """Whether the intervals leave it open."""
    if None in (a.low, a.high, b.low, b.high) or a.low > b.high or b.low > a.high:
        return ""
    return " (the intervals overlap)"


def _about(subjects: Sequence[Subject]) -> str:
    if len(subjects) > 1:
        return f"{len(subjects)} runs side by side"
    run = subjects[0].run
    count = f"{run.schema.count:,} samples" if run.schema.count else "a stream"
    return f"{run.recipe.name} ({run.recipe.slug}) on {run.schema.source}, {count}"


def _summary(subjects: Sequence[Subject]) -> str:
    """Key figures of one run; of several, which is which, and their table."""
    if len(subjects) == 1:
        return page.tiles(_key(subjects[0]))
    each = "".join(
        f'<li><b style="color:var(--{SERIES[n]})">{s.letter}</b>{escape(s.name)}: {escape(s.run.recipe.slug)} on '
        f"{escape(s.run.schema.source)}</li>"
        for n, s in enumerate(subjects)
    )
    table = table_of(subjects)
    table.columns = ("", *(f"{letter} {name}" for letter, name in zip(LETTERS, table.columns[1:])))
    compared = page.card("Compared", page.table(table, "Runs compared"), wide=True, level=2)
    return f'<ul class="key">{each}</ul>{page.cards(compared)}'


def _key(subject: Subject) -> list[tuple[str, str, str]]:
    facts = []
    worth = headline(subject)
    if worth is not None:
        low, high = worth.ours.low, worth.ours.high
        spread = "" if low is None else f"95 % interval {low:.1f} to {high:.1f}"
        facts.append((f"{worth.ours.mean:.1f} %", f"{worth.probe}, {worth.column}", spread))
        for name, other in (("raw input", worth.raw), ("untrained encoder", worth.untrained)):
            if other is not None:
                gain = signed(worth.ours.mean - other.mean)
                facts.append((gain, f"points against {name}", f"which has {other.mean:.1f} %"))
    rank = subject.kept.get("rank")
    if rank is not None and np.isfinite(rank).all():
        facts.append((f"{rank[-1]:.1f}", "effective rank", f"{rank[0]:.1f} before training"))
    if subject.loss is not None:
        facts.append((f"{subject.loss[1]:.3g}", "loss at the end", f"{subject.loss[0]:.3g} at the start"))
    if subject.seconds is not None:
        facts.append((duration(subject.seconds), "of training", f"{subject.run.settings.get('steps', 0):,} steps"))
    return facts


def _evaluate(subject: Subject, test: Any, label: str | None) -> None:
    """Fills in an evaluation that was not recorded, where the data have labels."""
    if subject.evaluation is not None or subject.source is None:
        return
    if subject.source.labels is None and subject.source.token_labels is None:
        subject.unmeasured = f"{subject.source.name} has no labels; name the column or file that holds them: --label"
        return
    try:
        held = None if test is None else subject.run.source(test, label=label)
        subject.evaluation = evaluate(subject.run, subject.source, labels=(1, 5, 10), test=held, lenient=True)
    except (DataError, EvaluateError) as error:  # one class, or too few samples: the rest of the page needs no labels
        subject.unmeasured = str(error)
