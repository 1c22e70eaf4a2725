"""What kinds of sequences over an alphabet of a science (proteins, molecules) have in common: they are texts whose
vocabulary is that alphabet, in columns of tables or in files of their own."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..columns import Blobs, Column
from ..errors import DataError, Unreadable, some
from ..kind import Settled
from ..objects import hugging_face
from ..options import Options
from ..schema import Field
from ..source import Source, canonical_split, of_split_files
from . import _cells, _text_sources, _texts
from ._cells import Raw
from ._sequence_columns import column_of, from_columns
from ._vocabulary import Alphabet, Pieces
from .text import BESIDE, TextKind, as_bytes

MANY = 24  # tables in a folder that are looked into


class SequenceKind(TextKind):
    """A kind whose samples are strings over a fixed alphabet."""

    endings: frozenset[str] = frozenset()  # a file holds many samples
    incidental = False
    files: tuple[str, ...] = ()  # endings of files of many sequences, beside tables
    alphabet: Alphabet
    labelled_tokens = False  # whether single letters may have labels

    @abstractmethod
    def cleaned(self, text: str, options: Options) -> str:
        """A sequence as it is read. Raises ValueError with what is wrong with it."""

    @abstractmethod
    def likely(self, cell: str) -> bool:
        """Whether a cell looks like a sequence of this kind."""

    @abstractmethod
    def read_file(self, path: Path, options: Options) -> list[Raw]:
        """The columns of a file with one of `files`."""

    def open_folder(self, root: Path, options: Options) -> Source | None:
        """A source of a layout that only this kind knows."""
        return None

    def grouped(self, options: Options, columns: Sequence[Raw], texts: Sequence[str]) -> np.ndarray | None:
        """(N,) groups that the kind itself knows by the name that `group=` gives; None = it is a column."""
        return None

    def split_by(self, options: Options, groups: np.ndarray | None, where: str) -> Raw | None:
        """What split each row is of, where `parts=` asks for one. Raises DataError where it cannot be had."""
        if options.parts is not None:
            raise DataError(f"parts= (--parts) is for long records; {self.noun} are divided by a column split: leave "
                            "it out")
        return None

    # What kinds are asked.

    def open(self, spec: Any, options: Options) -> Source | None:
        return open_sequences(self, spec, options)

    def settle(self, blobs: Blobs, options: Options) -> Settled:
        raise DataError(f"{self.noun} are cells of a table or records of a file ({', '.join(self.files)}), not a file "
                        "each")

    def array_column(self, array: np.ndarray, options: Options, name: str) -> Column | None:
        return super().array_column(array, options, name) if options.kind == self.name else None

    def object_reader(self, example: Any, options: Options) -> Callable[[Any, str], np.ndarray] | None:
        if options.kind != self.name or not isinstance(example, str):
            return None
        given = [name for name in BESIDE if getattr(options, name)]
        if given:
            raise DataError(f"{given[0]}= is for files, lists and tables; give the {self.noun} as a list, or leave it "
                            "out")
        return partial(self._item, options)

    def _item(self, options: Options, item: Any, name: str) -> np.ndarray:
        if not isinstance(item, str):
            raise Unreadable(name, f"is {type(item).__name__}, not text")
        try:
            return as_bytes(self.cleaned(item, options))
        except ValueError as error:
            raise Unreadable(name, str(error)) from error

    def asked_column(self, options: Options) -> str | None:
        return options.text if options.kind == self.name else None

    def model_size(self, field: Field) -> str:
        return "pico"

    def pieces(self, options: Options) -> Pieces:
        if options.vocabulary is not None or options.cased or options.tokenizer is not None:
            raise DataError(f"{self.noun} have an alphabet of their own: leave tokenizer=, vocabulary= and cased= "
                            "(--tokenizer, --vocabulary, --cased) out")
        return self.alphabet


# From objects and files.


def open_sequences(kind: SequenceKind, spec: Any, options: Options) -> Source | None:
    """A source of sequences; None where it is none. Strings alone are such only where the kind is asked for."""
    if isinstance(spec, (str, os.PathLike)):
        path = Path(spec).expanduser()
        if path.is_dir():
            return _open_folder(kind, path, options)
        return open_file(kind, path, options) if holds(kind, path, options) else None
    if isinstance(spec, tuple) and len(spec) == 2 and not isinstance(spec[0], str):
        return _labelled(kind, spec, options)
    again = partial(_other_split, kind, spec)
    if hugging_face(spec) == "DatasetDict":
        return _open_dict(kind, spec, options)
    if hugging_face(spec) == "Dataset" and may_hold(kind, spec.column_names, options):
        columns = _text_sources.plain_columns(spec, options)
        return _if_held(kind, columns, options, getattr(spec.info, "dataset_name", None) or "hugging face data", again)
    if _text_sources.is_frame(spec):
        names = spec.column_names if hasattr(spec, "column_names") else spec.columns
        columns = _texts.of_frame(spec, options) if may_hold(kind, names, options) else []
        return _if_held(kind, columns, options, "table", again) if columns else None
    strings = isinstance(spec, (list, tuple)) and any(isinstance(text, str) for text in spec)
    return _of_list(kind, list(spec), None, options) if strings and options.kind == kind.name else None


def _if_held(kind: SequenceKind, columns: list[Raw], options: Options, name: str, again: Callable[[Options], Any]
             ) -> Source | None:
    found = column_of(kind, columns, options, name) is not None or options.kind == kind.name
    return from_columns(kind, columns, options, name, again) if found else None


def _other_split(kind: SequenceKind, spec: Any, options: Options) -> Source:
    source = open_sequences(kind, spec, replace(options, kind=kind.name))
    assert source is not None
    return source


def _labelled(kind: SequenceKind, spec: tuple[Any, Any], options: Options) -> Source | None:
    """(sequences, labels)."""
    texts, labels = spec
    if _text_sources.is_frame(texts):
        return open_sequences(kind, texts, replace(options, label=labels))
    strings = isinstance(texts, (list, tuple)) and any(isinstance(text, str) for text in texts)
    return _of_list(kind, list(texts), labels, options) if strings and options.kind == kind.name else None


def _of_list(kind: SequenceKind, texts: list[Any], labels: Any, options: Options) -> Source:
    wrong = next((n for n, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"item {wrong} of the list is {type(texts[wrong]).__name__}, not text; leave it out, or make "
                        "it a string")
    columns = [Raw(name=kind.name, text=[text or None for text in texts])]
    given = labels if labels is not None else options.label
    if kind.labelled_tokens and isinstance(given, (list, tuple)) and all(isinstance(one, str) for one in given):
        if len(given) != len(texts):
            raise DataError(f"there are {len(texts):,} {kind.noun} and {len(given):,} labels; give one each")
        columns.append(Raw(name="label", text=list(given)))
        given = None
    options = replace(options, label=given, text=kind.name)
    return from_columns(kind, columns, options, f"list of {kind.noun}", partial(_of_list, kind, texts, labels))


def _open_dict(kind: SequenceKind, spec: Any, options: Options) -> Source | None:
    """A Hugging Face DatasetDict."""
    there = {canonical_split(name): name for name in spec}
    split = canonical_split(options.split) if options.split else "train" if "train" in there else next(iter(there))
    if split not in there:
        return None
    plain = open_sequences(kind, spec[there[split]], replace(options, split=None))
    makers = {s: partial(_other_split, kind, spec, replace(options, split=s)) for s in there}
    return None if plain is None else plain.with_splits(split, makers)


def may_hold(kind: SequenceKind, names: Iterable[Any], options: Options) -> bool:
    """Whether columns of these names are worth a look, which costs time in large tables."""
    return options.kind == kind.name or any(str(name).lower() in kind.columns for name in names)


def holds(kind: SequenceKind, path: Path, options: Options) -> bool:
    """Whether a file holds sequences, judged by its ending and first rows."""
    ending = path.suffix.lower()
    if not os.access(path, os.R_OK):
        return False
    if ending in kind.files or (options.kind == kind.name and ending in (*_texts.TABLES, ".jsonl")):
        return True
    if ending not in (*_texts.TABLES, ".jsonl"):
        return False
    try:
        if not may_hold(kind, [column.name for column in _texts.read_columns(path, options, 2)], options):
            return False
        columns = _texts.read_columns(path, options, _cells.LOOKED_AT)
    except DataError:
        return False  # whoever else reads it says what is wrong
    return column_of(kind, columns, options, path.name) is not None


def open_file(kind: SequenceKind, path: Path, options: Options) -> Source:
    again = partial(open_file, kind, path)
    if path.suffix.lower() in kind.files:
        return from_columns(kind, kind.read_file(path, options), replace(options, kind=kind.name), path.name, again)
    return from_columns(kind, _texts.read_columns(path, options), options, path.name, again)


def _open_folder(kind: SequenceKind, root: Path, options: Options) -> Source | None:
    """A layout of the kind's own; train.csv, test.csv and so on; one file of sequences; or several that divide the same
    sequences in several ways by a column `set` (FLIP), of which the first one by name is taken."""
    own = kind.open_folder(root, options)
    if own is not None:
        return own
    found = [path for path in sorted(root.iterdir()) if path.suffix.lower() in (*kind.files, *_texts.TABLES, ".jsonl")]
    found = [path for path in found if path.is_file() and not path.name.startswith((".", "metadata."))]
    held = [path for path in found[:MANY] if holds(kind, path, options)]
    if not held or len(found) > MANY:
        return None
    files = {split: path for path in held if (split := canonical_split(path.stem)) in _text_sources.SPLITS}
    plain = partial(open_file, kind)
    if files:
        there = {split: files[split] for split in _text_sources.SPLITS if split in files}
        return of_split_files(root, there, options.split, lambda path: plain(path, replace(options, split=None)))
    source = plain(held[0], options)
    if len(held) > 1:
        ways = [path.stem for path in held]
        if not all(_divides(path, options) for path in held):
            names = some([path.name for path in held], 6)
            raise DataError(f"{root} holds {len(held)} files of {kind.noun} ({names}); give one of them, as {held[0]}")
        source.notes.append(f"{root.name} divides its {kind.noun} in {len(ways)} ways ({', '.join(ways)}): this is "
                            f"{ways[0]!r}; {held[1]} is another")
    source.name = f"{root.name}/{held[0].name}"
    return source


def _divides(path: Path, options: Options) -> bool:
    return any(column.name.lower() == "set" for column in _texts.read_columns(path, options, 2))
