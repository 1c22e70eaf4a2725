"""Tables of several types as scikit-learn has them (DataFrames, arrays of objects or of text) as sources, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from anymask.data import Source, open_source
from anymask.data.kinds.table import cells_of, table_of


def is_mixed(x: Any) -> bool:
    """Whether it holds a cell of text, of a category or of a date, which estimators of numbers refuse."""
    if hasattr(x, "iloc") and hasattr(x, "dtypes"):
        return any(_is_mixed(x.iloc[:, n]) for n in range(x.shape[1]))
    return isinstance(x, np.ndarray) and x.ndim == 2 and _is_mixed(x)


def _is_mixed(x: Any) -> bool:
    if type(x.dtype).__name__ == "CategoricalDtype" or getattr(x.dtype, "kind", "O") in "MUS":
        return True
    return getattr(x.dtype, "kind", "O") == "O" and any(isinstance(v, str) for v in np.asarray(x).ravel())


def source_of(x: Any) -> Source:
    """The rows of a DataFrame or of an array (N, F) of objects or text."""
    if hasattr(x, "iloc"):
        return open_source(x, kind="table")
    import pyarrow as pa

    columns = {}
    for n, column in enumerate(np.asarray(x, dtype=object).T):
        cells = [None if _gone(v) else v for v in column]
        numbers = all(v is None or isinstance(v, (int, float, np.number)) for v in cells)
        columns[f"column {n}"] = pa.array(
            [None if v is None else float(v) if numbers else str(v) for v in cells],
            pa.float64() if numbers else pa.string(),
        )
    return open_source(pa.table(columns), kind="table")


def names_of(x: Any) -> list[str]:
    """Of the columns, as `source_of` calls them."""
    return [str(name) for name in x.columns] if hasattr(x, "iloc") else [f"column {n}" for n in range(np.shape(x)[1])]


def empty_columns(x: np.ndarray) -> np.ndarray:
    """(F,) which columns of an array of objects hold no cell."""
    return np.array([all(_gone(v) for v in column) for column in x.T])


def _gone(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA, which is neither equal to itself nor not
        return True


class Values:
    """How categories and dates of the table that was fitted to are written: as its own cells are.

    Args:
        x: (N, F) objects. names: of its columns.
        source: the same as a source.
    """

    def __init__(self, x: np.ndarray, names: list[str], source: Source) -> None:
        table, cells = table_of(source), cells_of(source)
        self.categories: dict[str, dict[str, Any]] = {}
        self.dates: dict[str, Any] = {}
        for place, name in enumerate(names):
            if name in table.levels:
                codes = cells[:, table.names.index(name)]
                found, first = np.unique(codes[~np.isnan(codes)], return_index=True)
                rows = np.flatnonzero(~np.isnan(codes))[first]
                self.categories[name] = {
                    table.levels[name][int(code)]: x[row, place] for code, row in zip(found, rows)
                }
            elif f"{name} (days)" in table.names:
                there = np.flatnonzero(~np.isnan(cells[:, table.names.index(f"{name} (days)")]))
                self.dates[name] = x[there[0], place] if len(there) else None

    def fill(self, x: np.ndarray, names: list[str], source: Source, cells: np.ndarray, levels: list[tuple[str, ...]]
             ) -> np.ndarray:  # fmt: skip
        """`x` with what `cells` (N, F') of `imputing.impute_cells` say where the source has a gap. Columns that are not
        learnt from, such as numbers of rows, stay as they are."""
        table, own, out = table_of(source), cells_of(source), x.copy()
        for place, name in enumerate(names):
            dated = name in self.dates
            part = f"{name} (days)" if dated else name
            if part not in table.names:
                continue
            column = table.names.index(part)
            rows = np.flatnonzero(np.isnan(own[:, column]) & ~np.isnan(cells[:, column]))
            for row in rows:
                value = cells[row, column]
                if dated:
                    out[row, place] = self._date(name, value, hours=f"{name} (hour)" in table.names)
                elif levels[column]:
                    word = levels[column][int(value)]
                    out[row, place] = self.categories.get(name, {}).get(word, word)
                else:
                    out[row, place] = float(value)
        return out

    def _date(self, name: str, days: float, *, hours: bool) -> Any:
        moment = np.datetime64(round(days * 86_400), "s") if hours else np.datetime64(round(days), "D")
        like = self.dates[name]
        if isinstance(like, str) or like is None:
            return str(moment)
        make = getattr(type(like), "fromisoformat", type(like))
        return make(str(moment))
