"""`impute`: the missing cells of a table, filled by a trained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import DataError, Field, Source, open_source, ordered_loader
from anymask.data.kind import kind_of
from anymask.engine import Mask, Model, Step, split
from anymask.evaluation.errors import EvaluateError
from anymask.run import Run


@torch.no_grad()
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
        (N, F) float64 in the units and the order of columns of the source. Cells that are there stay as they are, bit
        for bit. Columns that were constant in training are filled with that constant. Those that had no cell, or are
        not known to the model, are not filled: they stay NaN.

    Raises:
        SchemaError: other columns than in training. DataError: a stream, or no table.
        EvaluateError: the recipe does not predict the cells of a table.
    """
    model = run if isinstance(run, Model) else (run if isinstance(run, Run) else Run.open(run)).model(trained=trained)
    check_imputes(model.tokenizer, model.target)
    data = source if isinstance(source, Source) else open_source(source)
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
    return _beside_observed(filled, data, field.name, field.columns)


def check_imputes(tokenizer: Any, target: Any) -> None:
    """Raises EvaluateError unless these parts, built or not, are of a model that predicts the cells of a table."""
    if getattr(tokenizer, "takes", None) != "table" or not hasattr(target, "content"):
        raise EvaluateError("imputation needs a model that predicts the cells of a table, as remasker's does")


def _check_columns(model: Model, data: Source, field: Field) -> None:
    """Not the whole schema, which needs rows to measure: one row, all of it missing, can be imputed too."""
    if field.name not in data.columns:
        raise DataError(f"{data.name} is no table (it has: {', '.join(data.columns)}); give one to impute")
    names = getattr(data.columns[field.name], "names", field.columns)
    kind_of(field.kind).compare(field, replace(field, columns=names), model.schema.source, data.name)


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


def _beside_observed(filled: np.ndarray, data: Source, part: str, columns: tuple[str, ...]) -> np.ndarray:
    """The table itself, in its own order of columns and in double precision, with predictions where it has gaps."""
    column = data.columns[part]
    names = getattr(column, "names", None)
    if names is None:
        own = np.stack([sample[part] for sample in data.fetch(range(len(data)))]).astype(np.float64)
        return np.where(np.isnan(own), filled, own)
    own = np.asarray(column.array)[data.rows].astype(np.float64)  # type: ignore[attr-defined]
    unknown = np.full((len(filled), 1), np.nan)  # for columns that the model does not know
    filled = np.concatenate([filled, unknown], 1)
    return np.where(np.isnan(own), filled[:, [columns.index(n) if n in columns else -1 for n in names]], own)
