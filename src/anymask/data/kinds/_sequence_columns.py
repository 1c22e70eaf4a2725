"""Which column of a table holds sequences, and what the others say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, some
from ..labels import TokenLabels
from ..options import Options
from ..source import Source, canonical_split
from . import _cells, _text_sources
from ._cells import Raw
from .text import TextColumn

if TYPE_CHECKING:
    from ._sequences import SequenceKind

LIKELY = 0.9  # share of the first cells that have to be sequences where a column is taken for one of them
APART = frozenset(("", "id", "_id", "idx", "index", "split", "set", "validation", "mask"))  # columns that are no label


def column_of(kind: SequenceKind, columns: Sequence[Raw], options: Options, where: str) -> Raw | None:
    """The column of sequences: the one that text= names, or one with a name of `kind.columns` whose cells look like
    it; where the kind is asked for, any that does. None = there is none."""
    asked = options.kind == kind.name
    texts = [column for column in columns if column.text is not None]
    if options.text is not None:
        if asked:
            named = _cells.taken(list(columns), options.text, "text=", where)
            if named.text is None:
                raise DataError(f"column '{named.name}' of {where} holds numbers, not {kind.noun}; name another one: "
                                "text= (--text)")
            return named
        texts = [column for column in texts if column.name == options.text]
    known = {name: n for n, name in enumerate(kind.columns)}
    named_ = sorted((c for c in texts if c.name.lower() in known), key=lambda c: known[c.name.lower()])
    likely = [column for column in (*named_, *(texts if asked else ())) if _likely(kind, column)]
    return next(iter((*likely, *(named_ if asked else ()))), None)


def _likely(kind: SequenceKind, column: Raw) -> bool:
    cells = [cell for cell in islice(column.text or (), _cells.LOOKED_AT) if cell]
    return bool(cells) and sum(map(kind.likely, cells)) >= LIKELY * len(cells)


def from_columns(kind: SequenceKind, columns: list[Raw], options: Options, name: str, again: Callable[[Options], Any]
                 ) -> Source:
    """A source of one column of sequences, with what other columns say of them; `again` opens another split."""
    columns = _text_sources.used(columns, options, name)
    column = column_of(kind, columns, options, name)
    if column is None or column.text is None:
        have = some([f"'{one.name}'" for one in columns], 8) or "none"
        raise DataError(f"{name} has no column of {kind.noun} (columns: {have}); name it: text= (--text)")
    if options.text is None and kind.likely(column.name) and column.name.lower() not in kind.columns:
        raise DataError(f"the first line of {name} looks like data ('{column.name}'); put a line with the names of the "
                        f"columns before it, as {kind.columns[0]},label")
    texts, bad = _cleaned(kind, column.text, options)
    chosen = np.array([row for row in range(len(texts)) if row not in bad], dtype=np.int64)
    notes = _told(kind, column, len(columns), bad, name, options)
    if not len(chosen):
        raise DataError(f"none of the {len(texts):,} cells of column '{column.name}' of {name} is one of the "
                        f"{kind.noun} (first: {bad[0]}); name another column: text= (--text)")
    groups = kind.grouped(options, columns, texts)
    marks, token_labels, more = _said(kind, columns, column, texts, replace(
        options, group=options.group if groups is None else None), name)
    groups = marks.groups if groups is None else groups
    ids = next((one.values for one in columns if one.name.lower() in ("id", "_id")), None)
    source = Source(name=name, columns={kind.name: TextColumn(texts, kind.pieces(options), kind)}, labels=marks.labels,
                    label_names=marks.names, targets=marks.targets, groups=groups, token_labels=token_labels,
                    notes=[*notes, *more], ids=None if ids is None else [str(one) for one in ids], rows=chosen,
                    strict=options.strict)
    splits = kind.split_by(options, groups, name) or marks.splits or _set_of(columns)
    return _cells.splitted(source, splits, options, again)


def _cleaned(kind: SequenceKind, cells: Sequence[str | None], options: Options) -> tuple[list[str], dict[int, str]]:
    """The sequences, '' where there is none, and row -> what is wrong with it."""
    texts, bad = [], dict[int, str]()
    for row, cell in enumerate(cells):
        try:
            texts.append(kind.cleaned(cell or "", options))
        except ValueError as error:
            texts.append("")
            bad[row] = str(error)
    return texts, bad


def _told(kind: SequenceKind, column: Raw, count: int, bad: dict[int, str], name: str, options: Options) -> list[str]:
    """Notes on the column and on rows that are left out. Raises DataError for such a row where that is asked for."""
    notes = [f"{kind.noun} are column '{column.name}'"] if count > 1 else []
    if bad:
        row, reason = next(iter(bad.items()))
        first = f"{len(bad):,} of {len(column):,} rows (first: row {row + 1}, {reason})"
        if options.strict:
            raise DataError(f"column '{column.name}' of {name} holds no {kind.noun} in {first}; mend or remove them, "
                            "or open the data with strict=False to leave them out")
        notes.append(f"{first} are left out" if len(bad) > 1 else f"{first} is left out")
    return notes


# What other columns say.


def _said(kind: SequenceKind, columns: list[Raw], column: Raw, texts: Sequence[str], options: Options, name: str
          ) -> tuple[_cells.Marks, TokenLabels | None, list[str]]:
    """Labels, targets, groups, splits; labels of single letters; and notes. Without label= the label is the column
    `label`, or else the only one of numbers."""
    label, notes = options.label, list[str]()
    if label is None and not any(one.name == "label" for one in columns):
        label, notes = _only_number(columns, column)
    asked = "label" if label is None else label  # a name, or the labels themselves
    named = next((one for one in columns if isinstance(asked, str) and one.name == asked), None)
    if kind.labelled_tokens and named is not None and named.text is not None and _by_letter(named.text, texts):
        mask = next((one.text for one in columns if one.name == "mask"), None)
        found = token_labels(texts, named.text, mask, name)
        rest = [one for one in columns if one is not named]
        return _cells.marks_of(rest, replace(options, label=None), name), found, notes
    return _cells.marks_of(columns, replace(options, label=label), name), None, notes


def _only_number(columns: Sequence[Raw], column: Raw) -> tuple[str | None, list[str]]:
    numbers = [one for one in columns if one is not column and one.numbers is not None
               and one.name.lower() not in APART and not _counts(one.numbers)]
    named = next((one for one in numbers if one.name.lower() == "target"), numbers[0] if len(numbers) == 1 else None)
    if named is not None:
        why = "" if named.name.lower() == "target" else ", the only one of numbers"
        return named.name, [f"labels are column '{named.name}'{why}; label= (--label) names another"]
    names = some([f"'{one.name}'" for one in numbers], 12)
    return None, [f"columns of numbers that label= (--label) may name: {names}"] if numbers else []


def _counts(numbers: np.ndarray) -> bool:
    """Whether a column counts the rows."""
    return any(np.array_equal(numbers, np.arange(start, start + len(numbers))) for start in (0, 1))


def _by_letter(cells: Sequence[str | None], texts: Sequence[str]) -> bool:
    """Whether the cells are as long as their sequences, of which some have more than three letters."""
    pairs = [(len(cell), len(text)) for cell, text in zip(cells, texts) if cell and text]
    same = sum(one == two for one, two in pairs)
    return bool(pairs) and same >= LIKELY * len(pairs) and max(two for _, two in pairs) > 3


def token_labels(texts: Sequence[str], cells: Sequence[str | None], mask: Sequence[str | None] | None, where: str
                 ) -> TokenLabels:
    """Labels of the letters of each sequence, one character each; those whose character of the mask is 0 have none.

    Raises:
        DataError: a sequence has another number of labels than of letters.
    """
    names = sorted({letter for cell in cells if cell for letter in cell})
    number = np.full(0x110000, -1, dtype=np.int64)
    number[[ord(name) for name in names]] = np.arange(len(names))
    labels = []
    for row, (text, cell) in enumerate(zip(texts, cells)):
        known = cell or ""
        hidden = (mask[row] or "" if mask is not None else "") or "1" * len(text)
        for what, given in (("labels", known or text), ("marks in its mask", hidden)):
            if text and len(given) != len(text):
                raise DataError(f"row {row + 1} of {where} has {len(text):,} letters and {len(given):,} {what}; give "
                                "one each, or leave the row out")
        own = number[[ord(letter) for letter in known]] if known and text else np.full(len(text), -1, dtype=np.int64)
        labels.append(np.where(np.array([mark == "0" for mark in hidden[: len(own)]], dtype=bool), -1, own))
    return TokenLabels(labels, names)


def _set_of(columns: Sequence[Raw]) -> Raw | None:
    """The columns `set` (train, test) and `validation` (true for a part of train) of FLIP, as one of splits."""
    by_name = {column.name.lower(): column for column in columns}
    found, validation = by_name.get("set"), by_name.get("validation")
    if found is None or found.text is None or "train" not in {canonical_split(cell or "") for cell in found.text}:
        return None
    held = [False] * len(found) if validation is None else [cell in (1.0, "true", "True") for cell in validation.values]
    cells = ["validation" if apart and canonical_split(cell or "") == "train" else cell
             for cell, apart in zip(found.text, held)]
    return Raw(name="split", text=cells)
