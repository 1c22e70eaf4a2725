"""`impute`: the missing cells of a table, filled by a trained model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import DataError, Field, Source, open_source, ordered_loader
from anymask.data.kinds.table import KIND, TableColumn, empty_of, levels_of
from anymask.engine import Mask, Model, Step, split
from anymask.evaluation.errors import EvaluateError
from anymask.run import Run


def impute(
    run: Run | Model | str | Path,
    source: object,
    *,
    batch_size: int = 512,
    trained: bool = True,
    device: str | torch.device | None = None,
) -> np.ndarray:
    """A table with its missing cells filled, everything that is not missing shown to the model at once.

    Args:
        run: a Run, its folder, or a Model, of a recipe that predicts cells of tables.
        source: a table: a Source, or what `open_source` takes.
        trained: False = the model before its first step.

    Returns:
        (N, F) in the units and the order of columns of the source: float64, or objects where it has categories, which
        are given by name. Cells that are there stay as they are, bit for bit. Columns that were constant in training
        are filled with that constant. Those that had no cell, or are not known to the model, are not filled: they stay
        NaN (categories None).

    Raises:
        SchemaError: other columns than in training. DataError: a stream, or no table.
        EvaluateError: the recipe does not predict the cells of a table.
    """
    cells, levels = impute_cells(run, source, batch_size=batch_size, trained=trained, device=device)
    if not any(levels):
        return cells
    out = cells.astype(object)
    for place, names in enumerate(levels):
        if names:
            there = ~np.isnan(cells[:, place])
            out[:, place] = None
            out[there, place] = np.array(names, dtype=object)[cells[there, place].astype(np.int64)]
    return out


@torch.no_grad()
def impute_cells(
    run: Run | Model | str | Path,
    source: object,
    *,
    batch_size: int = 512,
    trained: bool = True,
    device: str | torch.device | None = None,
) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """As `impute`: (N, F) float64, and of each column the names of its categories, which its cells number; () = it
    holds numbers."""
    if isinstance(run, Model):
        model, opened = run, lambda: open_source(source, kind="table")
    else:
        run = run if isinstance(run, Run) else Run.open(run)
        model, opened = run.model(trained=trained), partial(run.source, source, labelled=False, kind="table")
    check_imputes(model.tokenizer, model.target)
    data = source if isinstance(source, Source) else opened()
    if not isinstance(data, Source):
        raise DataError(f"{data.name} is a stream; open it without streaming=True to impute it")
    field = model.schema.fields[model.tokenizer.field]
    _check_columns(model, data, field)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    filled = np.full((len(data), field.shape[0]), np.nan)
    training = model.training
    model.to(device).eval()
    try:
        for batch in ordered_loader(data, model.schema, batch_size=batch_size, fixed=True):
            cells = predicted_cells(model, {name: value.to(device) for name, value in batch.items()})
            filled[batch["index"].numpy()] = cells.cpu().numpy()
    finally:
        model.train(training)
    flat = np.array(field.highs) <= np.array(field.lows)
    filled[:, flat] = np.array(field.lows)[flat]  # a column that was constant in training
    filled[:, np.array(field.gaps) == 1.0] = np.nan
    return _beside_observed(filled, data, field)


def check_imputes(tokenizer: Any, target: Any) -> None:
    """Raises EvaluateError unless these parts, built or not, are of a model that predicts the cells of a table."""
    if getattr(tokenizer, "takes", None) != "table" or not hasattr(target, "content"):
        raise EvaluateError("imputation needs a model that predicts the cells of a table, as remasker's does")


def _check_columns(model: Model, data: Source, field: Field) -> None:
    """Not the whole schema, which needs rows to measure: one row, all of it missing, can be imputed too."""
    if field.name not in data.columns:
        raise DataError(f"{data.name} is no table (it has: {', '.join(data.columns)}); give one to impute")
    column = data.columns[field.name]
    if isinstance(column, TableColumn):
        empty = empty_of(np.asarray(column.array)[data.rows], column.names)
        KIND.compare_columns(field, column.names, column.levels, empty, model.schema.source, data.name)


def predicted_cells(model: Model, sample: dict[str, Tensor]) -> Tensor:
    """(B, F) float64 predictions of all cells in the units of the data, from all that are there."""
    tokens = model.tokenizer(sample)
    step = model.predict(Step(sample, tokens, everything_missing(model, tokens.valid, tokens.shape), aux={}))
    return model.tokenizer.raw(model.target.content(step))


def everything_missing(model: Model, valid: Tensor | None, shape: tuple[int, int]) -> Mask:
    """All valid cells (B, F) visible, all cells asked for, missing ones too."""
    device = next(model.parameters()).device
    mask = split(torch.zeros(shape, device=device), 1.0, keep=model.corruption.keep, ask=None, valid=valid)
    # Where hidden tokens enter the encoder, missing ones enter with them: they are what is hidden here.
    return mask._replace(ask_ok=None, keep_ok=None if mask.keep is None else mask.keep_ok)


def _beside_observed(filled: np.ndarray, data: Source, field: Field) -> tuple[np.ndarray, list[tuple[str, ...]]]:
    """The table itself, in its own order of columns and in double precision, with predictions where it has gaps; and
    the names of its categories."""
    column = data.columns[field.name]
    if not isinstance(column, TableColumn):
        own = np.stack([sample[field.name] for sample in data.fetch(range(len(data)))]).astype(np.float64)
        return np.where(np.isnan(own), filled, own), [()] * own.shape[1]
    out = np.asarray(column.array)[data.rows].astype(np.float64)
    trained, held = levels_of(field), []
    for place, name in enumerate(column.names):
        names = column.levels.get(name, ())
        gone = np.isnan(out[:, place])
        if name in field.columns and gone.any():
            new = filled[gone, field.columns.index(name)]
            if name in trained:  # numbered as in training: names that this table lacks are added to its own
                names += tuple(level for level in trained[name] if level not in names)
                places = np.array([names.index(level) for level in trained[name]] + [0])
                new = np.where(np.isnan(new), np.nan, places[np.nan_to_num(new, nan=-1).astype(np.int64)])
            out[gone, place] = new
        held.append(names)
    return out, held
