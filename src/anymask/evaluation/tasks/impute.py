"""Missing cells of tables: error, distribution and use of what is filled in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anymask.data import DataError, Source, ordered_loader, split_source
from anymask.data.kinds._categories import categories_of
from anymask.data.kinds.table import levels_of, with_cells
from anymask.evaluation.classical import IMPUTERS, min_max, rmse, wasserstein
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.missing import MECHANISMS, make_missing
from anymask.evaluation.probe import linear_probe
from anymask.run import Run
from anymask.table import Table, interval

FOLDS = 5
BASELINES = {"mean": "mean", "knn": "5 nearest neighbours", "iterative": "iterative", "forest": "missForest-like"}
Fill = Callable[[np.ndarray, int], np.ndarray]  # (N, F) with NaN in units of the range, seed -> (N, F)


def evaluate(
    run: Run,
    source: Source,
    *,
    rates: float | Sequence[float] = (0.3,),
    mechanisms: str | Sequence[str] = tuple(MECHANISMS),
    draws: int = 3,
    baselines: str | Sequence[str] = tuple(IMPUTERS),
    test: Source | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = False,
) -> Table:
    """Removes cells of the test part and fills them, by the run and by classical imputers.

    RMSE is over the removed cells, Wasserstein the mean over columns of the distance between the true and the filled
    column, both in per cent of the column's range in the training part. Where the test part has labels, the last column
    is the accuracy of a linear probe (C = 1) that learns from filled rows and is judged on complete ones, in 5 folds of
    the test part; its row "complete" learns from complete rows. Where there are categories, RMSE and Wasserstein are
    over the columns of numbers, and a column says how many removed categories are filled right, in per cent; classical
    imputers then see them one-hot, and the largest of what they fill in is taken. Figures are means over draws of the
    removed cells, with a 95 % interval (Student's t).

    The run learnt before and sees only the incomplete rows; the classical imputers learn from the training part and
    from the incomplete test part together. ReMasker's own protocol is another one: all methods are fitted on one
    incomplete table (benchmarks/imputation.py).

    Args:
        source: a table, with gaps of its own or without; cells that are missing already are not judged.
        rates: shares of the cells to remove, or one.
        mechanisms: "mcar", "mar" and "mnar", see `anymask.evaluation.missing`; or in one text, divided by commas.
        draws: of the removed cells, with the seeds `seed`, `seed + 1`, ...
        baselines: "mean", "knn", "iterative", "forest"; or in one text.
        test: the rows whose cells are removed; None = the source's own test split, or else a fifth of it.

    Raises:
        EvaluateError: the run is not of tables; an unknown mechanism, baseline or rate.
        SchemaError: the data do not fit the model.
    """
    from anymask.evaluation.imputing import impute_cells

    field = _table_field(run)
    about = run.schema.fields[field]
    mixed = Mixed(about.shape[0], [group.size for group in categories_of(about).values()])
    rates = (rates,) if isinstance(rates, (int, float)) else tuple(rates)
    mechanisms, baselines = (v.split(",") if isinstance(v, str) else tuple(v) for v in (mechanisms, baselines))
    _check(rates, mechanisms, draws, baselines)
    train, held, notes = _parts(run, source, test, seed)
    known, truth = (_cells(run, part, field, batch_size) for part in (train, held))
    unknown = np.isnan(known).all(0) | (np.array(run.schema.fields[field].gaps) == 1.0)
    if unknown.any():
        names = [name for name, none in zip(run.schema.fields[field].columns, unknown) if none]
        notes.append(f"columns without a cell in the training part are not judged: {', '.join(names)}")
        truth[:, unknown] = np.nan
    low, spread = mixed.scale(*min_max(known))
    known, truth = (known - low) / spread, (truth - low) / spread

    def by_run(x: np.ndarray, seed: int) -> np.ndarray:
        cells, _ = impute_cells(run, with_cells(held, x * spread + low, about.columns, levels_of(about)))
        return (cells - low) / spread

    fills: dict[str, Fill] = {f"{run.recipe.slug} (this run)": by_run}
    fills |= {BASELINES[name]: _classical(name, known, mixed) for name in baselines}
    labels, complete = _labels(held, notes), mixed.filled(IMPUTERS["mean"], truth)
    rows: list[Sequence[Any]] = []
    for mechanism in mechanisms:
        for rate in rates:
            masks = [make_missing(truth, mechanism=mechanism, rate=rate, seed=seed + d) for d in range(draws)]
            for name, fill in fills.items():
                scores = [_scores(truth, complete, m, fill, labels, seed + d, mixed) for d, m in enumerate(masks)]
                figures = [interval(100 * np.array(column), digits=2) for column in zip(*scores)]
                rows.append((mechanism, rate, name, *figures))
                if progress:
                    print(f"{mechanism}, {rate} missing, {name}: RMSE {figures[0]}", flush=True)
    if labels is not None:
        plain = mixed.one_hot(complete)
        best = interval(100 * np.array([_probed(plain, plain, labels, seed + d) for d in range(draws)]), digits=2)
        rows.append((None, None, "complete", *[None] * len(mixed.measures), best))
    heads = ("mechanism", "rate", "method", *mixed.measures, *(["probe"] if labels is not None else []))
    notes.append(f"RMSE and Wasserstein distance are in % of a column's range; means over {draws} draws of the cells")
    notes.append("the run learnt before; classical imputers learn from training part and incomplete test part together")
    title = f"imputation of {len(held):,} test rows of {held.name}, {truth.shape[1]} columns, {run.recipe.slug}"
    return Table(heads, rows, title=title, notes=notes)


def _table_field(run: Run) -> str:
    tables = [name for name, field in run.schema.fields.items() if field.kind == "table"]
    if len(tables) != 1 or len(run.schema.fields) != 1:
        have = ", ".join(field.kind for field in run.schema.fields.values())
        raise EvaluateError(
            f"cells are imputed in tables, and {run.folder} was trained on {have}; give a run of a table (anymask "
            "pretrain TABLE.csv)"
        )
    return tables[0]


def _check(rates: Sequence[float], mechanisms: Sequence[str], draws: int, baselines: Sequence[str]) -> None:
    for what, given, there in (("mechanism", mechanisms, MECHANISMS), ("baseline", baselines, IMPUTERS)):
        for name in given:
            if name not in there:
                raise EvaluateError(f"no {what} '{name}'; there are {', '.join(there)}")
    if not mechanisms or not rates or draws < 1:
        raise EvaluateError("give a mechanism, a rate and a draw at least")
    for rate in rates:
        if not 0 < rate <= 0.9:
            raise EvaluateError(f"rate {rate} must lie above 0 and be 0.9 at most")


def _parts(run: Run, source: Source, test: Source | None, seed: int) -> tuple[Source, Source, list[str]]:
    """Training part, test part and notes. Labels are not needed."""
    if test is not None:
        train, held, how = source, test, "the test part is the one given"
    elif "test" in source.splits:
        train, held, how = source, source.split("test"), "the test part is the data's own test split"
    else:
        train, held = split_source(source, seed=seed)
        how = f"the test part is a fifth of the data, split{' by group' * (source.groups is not None)} with seed {seed}"
    notes = [how]
    if run.schema.fingerprint in (held.fingerprint(), source.fingerprint() if train is not source else None):
        notes.append("the run was pre-trained on the test part as well, with the very cells that are removed here")
    return train, held, notes


def _cells(run: Run, source: Source, field: str, batch_size: int) -> np.ndarray:
    """(N, F) float64 in the units of the data, NaN where missing."""
    out = np.full((len(source), *run.schema.fields[field].shape), np.nan)
    for batch in ordered_loader(source, run.schema, batch_size=batch_size):
        out[batch["index"].numpy()] = batch[field].numpy()
    if np.isnan(out).all():
        raise DataError(f"{source.name} holds no cell with a value; give a table that has some")
    return out


class Mixed:
    """Cells (N, F) of which the first columns are numbers and the others categories, `sizes` of each."""

    def __init__(self, columns: int, sizes: Sequence[int]) -> None:
        self.numbers, self.sizes = columns - len(sizes), list(sizes)
        self.measures = ["RMSE", "Wasserstein"] * (self.numbers > 0) + ["categories right"] * bool(sizes)

    def scale(self, low: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest value and range of the numbers; categories stay as they are."""
        own = np.arange(len(low)) < self.numbers
        return np.where(own, low, 0.0), np.where(own, spread, 1.0)

    def one_hot(self, x: np.ndarray) -> np.ndarray:
        """(N, F'), a missing category missing in all its columns."""
        parts = [x[:, : self.numbers]]
        for column, size in zip(x[:, self.numbers :].T, self.sizes):
            parts.append(np.where(np.isnan(column)[:, None], np.nan, column[:, None] == np.arange(size)))
        return np.concatenate(parts, 1)

    def filled(self, imputer: Callable[..., np.ndarray], x: np.ndarray, **options: Any) -> np.ndarray:
        """What an imputer of numbers makes of it."""
        if not self.sizes:
            return imputer(x, **options)
        made, start = imputer(self.one_hot(x), **options), self.numbers
        columns = [made[:, : self.numbers]]
        for size in self.sizes:
            columns.append(made[:, start : start + size].argmax(1).astype(np.float64)[:, None])
            start += size
        return np.where(np.isnan(x), np.concatenate(columns, 1), x)

    def errors(self, truth: np.ndarray, filled: np.ndarray, missing: np.ndarray) -> list[float]:
        n, found = self.numbers, list[float]()
        if n:
            parts = truth[:, :n], filled[:, :n], missing[:, :n]
            found += [rmse(*parts) if parts[2].any() else np.nan, wasserstein(*parts[:2])]
        if self.sizes:
            right = (truth == filled)[:, n:][missing[:, n:]]
            found.append(float(right.mean()) if len(right) else np.nan)
        return found


def _classical(name: str, known: np.ndarray, mixed: Mixed) -> Fill:
    more = mixed.one_hot(known) if mixed.sizes else known
    return lambda x, seed: mixed.filled(IMPUTERS[name], x, more=more, seed=seed)


def _labels(held: Source, notes: list[str]) -> np.ndarray | None:
    """The labels of the test part, where a probe can learn them in folds."""
    if held.labels is None:
        return None
    known = held.labels[held.labels >= 0]
    counts = np.bincount(known)
    if (counts >= FOLDS).sum() < 2:
        notes.append(f"no probe: it needs two classes with {FOLDS} labelled test rows or more")
        return None
    return held.labels


def _scores(
    truth: np.ndarray, complete: np.ndarray, missing: np.ndarray, fill: Fill, labels: np.ndarray | None, seed: int,
    mixed: Mixed,
) -> tuple[float, ...]:  # fmt: skip
    incomplete = np.where(missing, np.nan, truth)
    filled = np.where(missing, fill(incomplete, seed), complete)
    error = mixed.errors(truth, filled, missing)
    if labels is None:
        return tuple(error)
    return (*error, _probed(mixed.one_hot(filled), mixed.one_hot(complete), labels, seed))


def _probed(filled: np.ndarray, complete: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Accuracy on complete rows of a probe that learnt from filled ones, over folds; classes with fewer rows than folds
    are left out."""
    counts = np.bincount(labels[labels >= 0])
    rows = np.flatnonzero((labels >= 0) & (counts[np.maximum(labels, 0)] >= FOLDS))
    fold = np.empty(len(rows), dtype=np.int64)
    rng = np.random.default_rng([seed, 4])
    for c in np.unique(labels[rows]):
        mine = rng.permutation(np.flatnonzero(labels[rows] == c))
        fold[mine] = np.arange(len(mine)) % FOLDS
    correct = []
    for f in range(FOLDS):
        learn, judge = rows[fold != f], rows[fold == f]
        found = linear_probe(filled[learn], labels[learn], complete[judge], labels[judge], strengths=(1.0,))
        correct.append(found.correct)
    return float(np.concatenate(correct).mean())
