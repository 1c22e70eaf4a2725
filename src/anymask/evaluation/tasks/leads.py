"""Leads of an electrocardiogram that are missing, rebuilt from the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from anymask.data import DataError, Source, infer_schema, split_source
from anymask.engine import Model, Step
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import batches, check_content, content, frozen, hide
from anymask.run import Run
from anymask.table import Figure, Table

CONSTANT = "mean of the lead"
MODELS = (("untrained model", False), ("pre-trained model", True))


def evaluate(
    run: Run,
    source: Source,
    *,
    hidden: Sequence[str] | str | None = None,
    test: Source | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Table:
    """Correlation and RMSE (mV) of leads that are hidden as a whole and rebuilt from the others.

    Beside the model: the mean of the lead, and the least squares prediction of each moment of a hidden lead from the
    same moment of the leads that are seen, fitted on the training part. A figure of a lead is over all moments of the
    test part; the last row is the mean over the leads.

    Args:
        source: fits the regression. test: what is rebuilt; None = the source's own test split, or a fifth of it, split
            by group where there are groups.
        hidden: names of the leads (a sequence, or text with commas); None = each lead in turn, of those that every
            window has.

    Raises:
        EvaluateError: no lead of such a name, or none left to see. DataError: windows without common leads.
    """
    models = {name: frozen(run, trained=trained) for name, trained in MODELS}
    model = models["pre-trained model"]
    check_content(model)
    if getattr(model.tokenizer, "takes", None) != "ecg":
        raise EvaluateError(f"leads are those of electrocardiograms; {run.recipe.slug} was trained on other data")
    if test is not None:
        run.schema.check(infer_schema(test))
        train, held = source, test
    elif "test" in source.splits:
        train, held = source, source.split("test")
    else:
        train, held = split_source(source, seed=seed)
    whole: dict[str, Any] = dict(batch_size=batch_size, fixed=True)
    steps = lambda part, show: _steps(model, batches(model, run.schema, part, progress=show, **whole))
    known = np.concatenate([_values(model, step) for step in steps(train, False)])
    truth = np.concatenate([_values(model, step) for step in steps(held, progress)])
    names = model.schema.fields[model.tokenizer.field].columns
    there = np.isfinite(known).any(2).all(0) & np.isfinite(truth).any(2).all(0)
    if there.sum() < 2:
        raise DataError(f"the windows of {source.name} and {held.name} have fewer than two leads in common; give one "
                        "record, or records of the same leads")  # fmt: skip
    asked = _asked(hidden, names, there)
    made: dict[str, dict[int, np.ndarray]] = {}
    for group in asked:
        seen = [n for n in np.flatnonzero(there).tolist() if n not in group]
        found = _classical(known, truth, group, seen)
        for name, one in models.items():
            parts = [_rebuilt(one, step, group) for step in steps(held, progress)]
            found[name] = np.concatenate(parts)[:, group]
        for name, guess in found.items():
            made.setdefault(name, {}).update({lead: guess[:, i] for i, lead in enumerate(group)})
    leads = sorted(lead for group in asked for lead in group)
    scores = {name: np.array([_score(one[lead], truth[:, lead]) for lead in leads]) for name, one in made.items()}
    heads = ["lead", *(f"{name}, {figure}" for name in made for figure in ("r", "RMSE")
                       if (name, figure) != (CONSTANT, "r"))]  # fmt: skip
    rows: list[Sequence[Any]] = []
    for place, lead in [*enumerate(names[lead] for lead in leads), (None, "mean")]:
        cells: list[Any] = [lead]
        for name, of_lead in scores.items():
            r, gap = of_lead.mean(0) if place is None else of_lead[place]
            cells += [] if name == CONSTANT else [Figure(float(r), digits=3)]
            cells.append(Figure(float(gap), digits=4))
        rows.append(cells)
    how = "together" if len(asked) == 1 else "one at a time"
    notes = [f"{len(truth):,} test windows; the leads are hidden {how}"]
    borrows = getattr(model.target, "borrows", None)
    notes += [f"of the models, {borrows} (--set target.normalise=false in training avoids that)"] if borrows else []
    title = f"hidden leads of {held.name}, {run.recipe.slug}"
    return Table(tuple(heads), rows, title=title, notes=notes)


def _asked(hidden: Sequence[str] | str | None, names: Sequence[str], there: np.ndarray) -> list[list[int]]:
    """Groups of leads, by number, that are hidden together."""
    if hidden is None:
        return [[n] for n in np.flatnonzero(there).tolist()]
    words = [word.strip() for word in hidden.split(",")] if isinstance(hidden, str) else list(hidden)
    have = [names[n] for n in np.flatnonzero(there).tolist()]
    wrong = [word for word in words if word not in have]
    if wrong or not words or len(set(words)) == len(have):
        told = f"no lead {wrong[0]!r}" if wrong else "no lead is left to see" if words else "no lead is named"
        raise EvaluateError(f"{told}; all windows have {', '.join(have)} (--set hidden=V1,V2)")
    return [[names.index(word) for word in words]]


def _steps(model: Model, samples: Iterator[dict[str, torch.Tensor]]) -> Iterator[Step]:
    for sample in samples:
        yield Step(sample, model.tokenizer(sample), aux={})


def _values(model: Model, step: Step) -> np.ndarray:
    """(B, L, T) in the units of the data (or of each window's own spread), NaN where missing."""
    (x,) = step.tokens.x.values()
    return _in_units(model, x)


def _in_units(model: Model, x: torch.Tensor) -> np.ndarray:
    values = model.tokenizer.values(x.float())
    return (values if model.tokenizer.instance else model.tokenizer.raw(values)).cpu().numpy()


@torch.no_grad()
def _rebuilt(model: Model, step: Step, group: list[int]) -> np.ndarray:
    """(B, L, T) with a group of leads hidden and predicted."""
    tokens = step.tokens
    assert tokens.grid is not None
    lead = torch.arange(tokens.shape[1], device=tokens.pos.device) // tokens.grid[1]
    away = torch.isin(lead, torch.tensor(group, device=lead.device)).expand(tokens.shape)
    seen = (~away if tokens.valid is None else ~away & tokens.valid).sum(1)
    step = hide(model, step._replace(aux={}), away.float(), seen)
    return _in_units(model, content(model, model.predict(step)))


def _classical(known: np.ndarray, truth: np.ndarray, group: list[int], seen: list[int]) -> dict[str, np.ndarray]:
    """(B, len(group), T) by the mean, and by linear regression from the leads that are seen."""
    from sklearn.linear_model import LinearRegression

    x, y = known[:, seen].swapaxes(1, 2).reshape(-1, len(seen)), known[:, group].swapaxes(1, 2).reshape(-1, len(group))
    whole = np.isfinite(x).all(1) & np.isfinite(y).all(1)
    model = LinearRegression().fit(x[whole], y[whole])
    new = truth[:, seen].swapaxes(1, 2).reshape(-1, len(seen))
    guess = model.predict(np.nan_to_num(new)).reshape(len(truth), -1, len(group)).swapaxes(1, 2)
    mean = np.broadcast_to(y[whole].mean(0)[None, :, None], guess.shape)
    return {CONSTANT: mean, "linear regression": guess}


def _score(guess: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Correlation (0 where a guess is constant) and RMSE over the moments that are there."""
    there = np.isfinite(truth)
    a, b = guess[there].astype(np.float64), truth[there].astype(np.float64)
    gap = float(np.sqrt(np.mean((a - b) ** 2)))
    return (float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 else 0.0), gap
