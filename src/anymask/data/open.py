"""`open_source`: from whatever names data to a source."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from . import finding
from .arrays import as_numpy, from_array, open_digits, open_npy, open_npz
from .derive import derived
from .errors import DataError
from .folder import open_file, open_folder
from .kind import asked_kinds
from .mix import open_mix
from .objects import as_stream, hugging_face, open_hf, open_torch
from .options import Options
from .parquet import open_parquet
from .source import AnySource, Source
from .stream import StreamSource


def open_source(spec: Any = None, *, split: str | None = None, strict: bool = False, label: Any = None,
                group: Any = None, streaming: bool = False, layout: str | None = None,
                channels: int | None = None, ignore: str | Sequence[str] = (),
                na_values: str | Sequence[str] = (), kind: str | None = None, window: int | None = None,
                stride: int | None = None, parts: str | Sequence[float] | None = None, text: str | None = None,
                tokenizer: Any = None, vocabulary: int | None = None, cased: bool = False,
                derive: str | Sequence[str] | None = None) -> Any:
    """A source from a path or an object.

    `spec` is None or "digits" (embedded), or

    * images: a folder, with class folders or not, with train/ test/ validation/ folders or not, with metadata.csv
      (file_name, and label, split or other columns) or not; a folder of parquet files in the Hugging Face layout, or of
      .npy files; an image file; an array (N, H, W), (N, C, H, W) or (N, H, W, C)
    * a table: a .csv, .tsv or .parquet file of numeric columns, a folder with train.csv and test.csv, a DataFrame, an
      array (N, F), with NaN, empty or NA cells missing
    * time series: such a table with a column of dates, a .ts file of the UCR/UEA archive or a folder of them, an array
      (N, T) or (N, C, T) with kind="series"
    * texts: a .txt file of paragraphs or lines, a .csv, .tsv, .jsonl or .parquet file or a DataFrame with a column of
      sentences and fewer than two of numbers, a folder with such files as train.csv and so on, one of .txt files (each
      a sample), one in the layout of BEIR (corpus.jsonl, queries.jsonl, qrels/), a list of strings, (strings, labels)
    * graphs: torch_geometric Data or a sequence of them, the folder of a Planetoid or TU set with its raw files, a
      folder with nodes.csv and edges.csv, or of such folders
    * point clouds: a folder of .ply, .off or .xyz files, an array (N, P, 3), a list of arrays (P, 3); a folder of lidar
      sweeps (.bin)
    * several parts of each sample, any of them missing in some: a description (mix.toml, mix.json) or the same as a
      dict, a dict of parts {"rgb": ..., "text": ...}, a folder of folders with matching names (see `anymask.data.mix`)
    * any of them as .npy, .npz, NumPy array, torch tensor, (x, y), torch Dataset or IterableDataset, Hugging Face
      Dataset, DatasetDict or IterableDataset, as far as it can hold them.

    Of several splits `split` names one (the training split by default). `label` and `group` name columns, or are arrays
    where `spec` is an array. `strict` makes an unreadable sample an error instead of leaving it out. `streaming`
    reads in order instead of by number. `layout` ("NCHW" or "NHWC") and `channels` (1, 3 or 4) are for images:
    without `layout` the channels are the smaller of the first and the last axis of an image, at most 16; without
    `channels` transparency is laid on white, and grey images among RGB become RGB. `ignore` (names of columns to leave
    out) and `na_values` (further words that stand for a missing cell) are for tables. `kind` ("image", "points", ...)
    says what the data are where their form leaves it open, as that of bare arrays does: an array (N, H, W) is grey
    images, (N, P, 3) point clouds, (N, F) a table, unless `kind` says otherwise.

    A long record (a table with a column of dates) is cut into windows of `window` moments, one every `stride` moments,
    within parts by time: `parts` are three shares (training, validation, test; 0.6, 0.2, 0.2 by default), or months of
    30 days, as 12, 4, 4.

    `text` names the column of texts. Their vocabulary is trained on the data: `tokenizer` "wordpiece" (the default) or
    "bytepair" (on bytes), of `vocabulary` pieces, in lower case unless `cased`; or it is given as `tokenizer`, the path
    of a tokenizer.json or of another run, or a tokenizer of the library tokenizers.

    With `kind="mix"`, or `text`, a folder of images with metadata.csv is read as images with their texts. `derive`
    names the parts that samples are to have: their own and what is made of their image, "luma", "edges", "colours".

    Returns a Source, or a StreamSource for streams. Raises DataError, which names what is wrong and the mend.
    """
    options = Options(split=split, strict=strict, label=label, group=group, streaming=streaming, layout=layout,
                      channels=channels, ignore=_words(ignore), na_values=_words(na_values), kind=kind,
                      window=window, stride=stride, parts=_numbers(parts), text=text, tokenizer=tokenizer,
                      vocabulary=vocabulary, cased=cased)
    source = _open(spec, options)
    names = _listed(derive)
    if names:
        if not isinstance(source, Source):
            raise DataError("parts are derived (--derive) from samples by number, and this is a stream")
        source = derived(source, names)
    if streaming and isinstance(source, Source):
        return as_stream(source)
    return source


def _listed(given: str | Sequence[str] | None) -> tuple[str, ...]:
    words = given.split(",") if isinstance(given, str) else given or ()
    return tuple(word.strip() for word in words if word.strip())


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(str(word) for word in given)


def _numbers(given: str | Sequence[float] | None) -> tuple[float, ...] | None:
    if given is None:
        return None
    words = given.split(",") if isinstance(given, str) else given
    try:
        found = tuple(float(word) for word in words)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or min(found) <= 0 or (max(found) < 1 and sum(found) > 1 + 1e-6):
        raise DataError(f"parts={given!r} (--parts) is for training, validation and test: three shares, as "
                        "0.6,0.2,0.2, or months of 30 days, as 12,4,4")
    return found


def _open(spec: Any, options: Options) -> AnySource:
    mixed = open_mix(spec, options)
    if mixed is not None:
        return mixed
    for kind in sorted(asked_kinds(options.kind), key=lambda kind: kind.asked_last):
        source = kind.open(spec, options)
        if source is not None:
            return source
    if isinstance(spec, (Source, StreamSource)):
        return spec.split(options.split) if options.split and isinstance(spec, Source) else spec
    if spec is None or (isinstance(spec, str) and spec == "digits"):
        return open_digits(options)
    if isinstance(spec, (str, os.PathLike)):
        return _open_path(Path(spec).expanduser(), options)
    if isinstance(spec, torch.Tensor):
        return from_array(as_numpy(spec), None, options, "tensor")
    if isinstance(spec, np.ndarray):
        return from_array(spec, None, options, "array")
    if isinstance(spec, tuple) and len(spec) == 2:
        x, y = spec
        return from_array(as_numpy(x) if isinstance(x, torch.Tensor) else np.asarray(x), y, options, "array")
    if hugging_face(spec):
        return open_hf(spec, options)
    if isinstance(spec, Dataset) or (hasattr(spec, "__getitem__") and hasattr(spec, "__len__")):
        return open_torch(spec, options)
    raise DataError(f"cannot make a source of {type(spec).__name__}; give a path, an array, (x, y), a torch Dataset "
                    f"or a Hugging Face dataset")


def _open_path(path: Path, options: Options) -> AnySource:
    try:
        there = path.exists()
        os.stat(path)
    except PermissionError as error:
        raise DataError(f"no permission to reach {path}; give its folder reading and entering permission (chmod "
                        f"u+rx)") \
            from error
    except FileNotFoundError:
        there = False
    if not there:
        raise DataError(f"{path} does not exist{_near(path)}")
    if path.is_dir():
        return finding.found(path, options) or open_folder(path, options)
    if not os.access(path, os.R_OK):
        raise DataError(f"no permission to read {path}; change it: chmod u+r {path}")
    ending = path.suffix.lower()
    if ending == ".npy":
        return open_npy(path, options)
    if ending == ".npz":
        return open_npz(path, options)
    if ending == ".parquet":
        return open_parquet([path], options, path.name)
    return open_file(path, options)


def _near(path: Path) -> str:
    """' (did you mean ...?)' from the names beside the nearest folder that exists."""
    missing = path.absolute()
    while not missing.parent.is_dir():
        missing = missing.parent
    try:
        names = [n for n in os.listdir(missing.parent) if not n.startswith(".")]
    except PermissionError:
        return ""
    near = difflib.get_close_matches(missing.name, names, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(str(missing.parent / n) for n in near)}?"
    return f"; {missing.parent} holds no '{missing.name}'"
