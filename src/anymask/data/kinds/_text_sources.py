"""Sources of texts: files, folders, lists, tables, and collections for retrieval."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..kind import all_kinds
from ..objects import hugging_face
from ..options import Options
from ..source import Source, canonical_split
from . import _cells, _texts
from .text import KIND, TextColumn

SPLITS = ("train", "validation", "test")
SPLIT_FILES = ("train", "training", "test", "testing", "validation", "valid", "val", "dev")
CORPUS, QUERIES, JUDGED = "corpus.jsonl", "queries.jsonl", "qrels"


def open_texts(spec: Any, options: Options) -> Source | None:
    """A source of texts; None where it is none."""
    if isinstance(spec, (str, os.PathLike)):
        path = Path(spec).expanduser()
        if path.is_dir():
            return _open_folder(path, options)
        return open_file(path, options) if _texts.holds_texts(path, options) else None
    if isinstance(spec, tuple) and len(spec) == 2 and not isinstance(spec[0], str):
        return _labelled(spec, options)
    if hugging_face(spec) in ("Dataset", "DatasetDict"):
        return _open_hugging_face(spec, options)
    if is_frame(spec):
        columns = _texts.of_frame(spec, options)
        if _texts.text_column(columns, options, "table") is None:
            return None
        return _from_columns(columns, options, "table", partial(open_texts, spec))
    strings = isinstance(spec, (list, tuple)) and any(isinstance(text, str) for text in spec)
    return _of_list(list(spec), None, options) if strings else None


def _labelled(spec: tuple[Any, Any], options: Options) -> Source | None:
    """(texts, labels)."""
    texts, labels = spec
    if is_frame(texts):
        return open_texts(texts, replace(options, label=labels))
    strings = isinstance(texts, (list, tuple)) and any(isinstance(text, str) for text in texts)
    return _of_list(list(texts), labels, options) if strings else None


def is_frame(spec: Any) -> bool:
    frame = type(spec).__name__ in ("DataFrame", "Table")
    return frame and type(spec).__module__.split(".")[0] in ("pandas", "polars", "pyarrow")


def _of_list(texts: list[Any], labels: Any, options: Options) -> Source:
    if options.split is not None:
        raise DataError(f"a list of texts has no split '{options.split}'; open the parts one by one, or use "
                        "split_source(source)")
    wrong = next((n for n, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"item {wrong} of the list is {type(texts[wrong]).__name__}, not text; leave it out, or make "
                        "it a string")
    columns = [_cells.Raw(name="text", text=[text if text.strip() else None for text in texts])]
    given = labels if labels is not None else options.label
    return _from_columns(columns, replace(options, label=given, text="text"), "list of texts", _unsplit)


def _unsplit(options: Options) -> Source:
    raise DataError(f"a list of texts has no split '{options.split}'")


def open_file(path: Path, options: Options) -> Source:
    """A .txt file of many documents, or a table with a column of texts."""
    if path.suffix.lower() != ".txt":
        columns = _texts.read_columns(path, options)
        return _from_columns(columns, options, path.name, partial(open_file, path))
    if options.split is not None or options.label is not None or options.group is not None:
        raise DataError(f"{path.name} is plain text, which has no columns and no splits; leave split=, label= and "
                        "group= out, or give a .csv or .jsonl file")
    texts, notes = _texts.paragraphs(_texts.read_text(path))
    if not texts:
        raise DataError(f"{path} is empty; give data that hold something")
    return _source(texts, options, path.name, notes=notes)


def _open_folder(root: Path, options: Options) -> Source | None:
    """A collection for retrieval, or train.txt, test.csv and so on; None where there are no such files of texts."""
    if (root / CORPUS).is_file() and (root / QUERIES).is_file():
        return _open_collection(root, options)
    found = [root / (name + ending) for name in SPLIT_FILES for ending in _texts.FILES]
    files = {canonical_split(path.stem): path for path in found if path.is_file()}
    there = [split for split in SPLITS if split in files]
    if not there or not _texts.holds_texts(files[there[0]], options):
        return None
    split = canonical_split(options.split) if options.split else there[0]
    if split not in files:
        raise DataError(f"{root} has no split '{options.split}'; there are: {', '.join(there)}")
    source = open_file(files[split], replace(options, split=None))
    source.name = f"{root.name}/{files[split].name}"
    if split != "train" and options.split is None:
        source.notes.append(f"{root.name} has no training split: this is its {split} split")
    return source.with_splits(split, {s: partial(_again, root, replace(options, split=s)) for s in there})


def _again(root: Path, options: Options) -> Source:
    source = _open_folder(root, options)
    assert source is not None
    return source


def _source(texts: list[str], options: Options, name: str, **more: Any) -> Source:
    column = TextColumn(texts, KIND.pieces(options), KIND)
    return Source(name=name, columns={KIND.name: column}, strict=options.strict, **more)


def _from_columns(columns: list[_cells.Raw], options: Options, name: str,
                  again: Callable[[Options], Any]) -> Source:
    """A source of one column of texts, with label, group and split; `again` opens another split."""
    columns = used(columns, options, name)
    column = _texts.pick(columns, options, name)
    assert column.text is not None
    chosen = np.array([n for n, text in enumerate(column.text) if text is not None and text.strip()], dtype=np.int64)
    gone = len(column.text) - len(chosen)
    if not len(chosen):
        raise DataError(f"column '{column.name}' of {name} has no text in any of its {gone:,} rows; name another "
                        "one: text= (--text)")
    if gone and options.strict:
        row = next(n for n, text in enumerate(column.text) if not (text and text.strip()))
        raise DataError(f"column '{column.name}' of {name} is empty in {gone:,} of {len(column.text):,} rows (first: "
                        f"row {row + 1}); remove them, or open the data with strict=False to leave them out")
    others = [c.name for c in columns if c is not column and c.name not in ("label", "split", options.label)]
    notes = [f"texts are column '{column.name}'"] if len(columns) > 1 else []
    notes += [f"other columns are not used: {', '.join(others[:8])}; text= (--text) reads another"] if others else []
    notes += [f"{gone:,} rows without text are left out"] if gone else []
    texts = [text or "" for text in column.text]
    marks = _cells.marks_of(columns, options, name)
    source = _source(texts, options, name, labels=marks.labels, label_names=marks.names, targets=marks.targets,
                     groups=marks.groups, notes=notes, ids=_ids(columns), rows=chosen)
    return _cells.splitted(source, marks.splits, options, again)


def used(columns: list[_cells.Raw], options: Options, name: str) -> list[_cells.Raw]:
    """The columns without those that ignore= names.

    Raises:
        DataError: no rows, two columns of one name, or none of a name to be ignored.
    """
    if not columns or not len(columns[0]):
        raise DataError(f"{name} has no rows; give data that hold some")
    columns = _cells.named(columns, name)
    for ignored in options.ignore:
        _cells.taken(columns, ignored, "ignore=", name)
    return [column for column in columns if column.name not in options.ignore]


def plain_columns(dataset: Any, options: Options) -> list[_cells.Raw]:
    """The columns of a Hugging Face Dataset that hold texts, numbers or classes."""
    types = {name: type(feature).__name__ for name, feature in (dataset.features or {}).items()}
    cells = dataset.select_columns([name for name, what in types.items() if what in ("Value", "ClassLabel")])
    return _cells.from_arrow(cells.with_format("arrow")[:], options.na_values) if len(dataset) else []


def _ids(columns: list[_cells.Raw]) -> list[str] | None:
    """The ids that a collection for retrieval gives."""
    column = next((c for c in columns if c.name == "_id"), None)
    return None if column is None else [str(value) for value in column.values]


def _open_hugging_face(spec: Any, options: Options) -> Source | None:
    """A Dataset with a column of texts and nothing that another kind takes, or a DatasetDict of such."""
    if hugging_face(spec) == "DatasetDict":
        there = {canonical_split(name): name for name in spec}
        split = canonical_split(options.split) if options.split else "train" if "train" in there else next(iter(there))
        plain = _open_hugging_face(spec[there[split]], replace(options, split=None)) if split in there else None
        if plain is None:
            return None
        makers = {s: partial(open_texts, spec, replace(options, split=s)) for s in there}
        return plain.with_splits(split, makers)  # type: ignore[arg-type]
    types = {name: type(feature).__name__ for name, feature in (spec.features or {}).items()}
    known = set(all_kinds()) - {KIND.name}
    if options.split is not None or any(word.lower() in known for pair in types.items() for word in pair):
        return None
    columns = plain_columns(spec, options)
    if _texts.text_column(columns, options, "the dataset") is None:
        return None
    name = getattr(spec.info, "dataset_name", None) or "hugging face data"
    source = _from_columns(columns, options, name, partial(open_texts, spec))
    label = options.label if isinstance(options.label, str) else "label"
    source.label_names = getattr(spec.features.get(label), "names", None) or source.label_names
    return source


# Collections for retrieval (BEIR, arXiv:2104.08663).


def _open_collection(root: Path, options: Options) -> Source:
    """corpus.jsonl and queries.jsonl (_id, title, text), qrels/test.tsv: the documents, title before text, with the
    queries as a split that knows what is relevant to them."""
    parts = {"corpus": CORPUS, "queries": QUERIES}
    split = options.split or "corpus"
    if split not in parts:
        raise DataError(f"{root} has no split '{options.split}'; there are: {', '.join(parts)}")
    columns = {column.name: column for column in _texts.read_columns(root / parts[split], options)}
    if "_id" not in columns or "text" not in columns:
        raise DataError(f"{root / parts[split]} has the columns {', '.join(columns) or 'none'}; a collection needs _id "
                        "and text, and may have title")
    titles = columns["title"].values if "title" in columns else [None] * len(columns["text"])
    texts = [" ".join(str(part) for part in pair if part) for pair in zip(titles, columns["text"].values)]
    kept = np.array([n for n, text in enumerate(texts) if text.strip()], dtype=np.int64)
    notes = [f"{len(texts) - len(kept):,} texts are empty and left out"] if len(kept) < len(texts) else []
    ids = [str(value) for value in columns["_id"].values]
    twice, times = Counter(ids).most_common(1)[0]
    if times > 1:
        raise DataError(f"{root / parts[split]} has {times} texts with the _id '{twice}'; give each one its own")
    source = _source(texts, options, f"{root.name}/{parts[split]}", ids=ids, notes=notes, rows=kept)
    source.judged = _judged(root) if split == "queries" else None
    return source.with_splits(split, {s: partial(_open_collection, root, replace(options, split=s)) for s in parts})


def _judged(root: Path) -> Path:
    """The file of judgements: that of the test part, or the first one; the folder where there is none."""
    files = sorted((root / JUDGED).glob("*.tsv"))
    test = [file for file in files if canonical_split(file.stem) == "test"]
    return (test or files or [root / JUDGED])[0]


