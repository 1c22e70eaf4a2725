"""`open_source`: from whatever names data to a source."""

from __future__ import annotations

import difflib
import os
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
from .shards import ENDING as SHARD
from .shards import open_shards
from .source import AnySource, Source
from .stream import StreamSource


def open_source(spec: Any = None, **options: Any) -> Any:
    """A source from a path or an object.

    `spec` is None or "digits" (embedded), or

    * images: a folder, with class folders or not, with train/ test/ validation/ folders or not, with metadata.csv
      (file_name, and label, split or other columns) or not; a folder of parquet files in the Hugging Face layout, or of
      .npy files; an image file; an array (N, H, W), (N, C, H, W) or (N, H, W, C)
    * a table: a .csv, .tsv or .parquet file with columns of numbers, categories and dates, a folder with train.csv and
      test.csv, a DataFrame, an array (N, F), with NaN, empty or NA cells missing
    * time series: such a table with a column of dates, a .ts file of the UCR/UEA archive or a folder of them, an array
      (N, T) or (N, C, T) with kind="series"
    * health records: a long table with a row for each measurement (columns of stay, time, code and value) as .csv,
      .tsv, .parquet or DataFrame, or a folder with such a table and one of outcomes, a row for each stay
    * texts: a .txt file of paragraphs or lines, a .csv, .tsv, .jsonl or .parquet file or a DataFrame with a column of
      sentences and fewer than two of numbers, a folder with such files as train.csv and so on, one of .txt files (each
      a sample), one in the layout of BEIR (corpus.jsonl, queries.jsonl, qrels/), a list of strings, (strings, labels)
    * proteins: a FASTA file, a table with a column of sequences, a folder in one of the layouts of FLIP; a list of
      strings with kind="protein"
    * molecules: a .smi file, a table with a column of SMILES; a list of strings with kind="molecule"
    * graphs: torch_geometric Data or a sequence of them, the folder of a Planetoid or TU set with its raw files, a
      folder with nodes.csv and edges.csv, or of such folders
    * skeletons: a folder of .npy (T, J, C) or .csv files (frame, joint, x, y, z), an array (N, T, J, C) with
      kind="skeleton"
    * electrocardiograms: a wfdb record or a folder of them; with label="beat" its annotated beats are the samples
    * trajectories: a .txt file of frame, agent, x, y, or a folder of such scenes
    * point clouds: a folder of .ply, .off or .xyz files, an array (N, P, 3), a list of arrays (P, 3); a folder of lidar
      sweeps (.bin)
    * volumes: a NIfTI file (.nii, .nii.gz), a folder of them, or of cases with several scans each (CASE/t1.nii.gz, or
      CASE_0000.nii.gz); with kind="volume" also .npy files and arrays (X, Y, Z) or (N, X, Y, Z)
    * videos: a folder of .mp4, .avi, .webm or .mkv files, as one of images; with kind="video" also of .gif files, or
      with a folder of pictures for each video; an array (N, T, H, W, C) or (N, C, T, H, W)
    * a .tar file or a folder of them, in the layout of webdataset: a stream of any kind of data that comes in files;
      train-000.tar and test-000.tar are splits
    * sounds: a folder of .wav, .flac, .ogg or .mp3 files as of images, an array (N, T) or (N, C, T) or a list of arrays
      (T,) or (C, T) with kind="audio" and rate
    * several parts of each sample, any of them missing in some: a description (mix.toml, mix.json) or the same as a
      dict, a dict of parts {"rgb": ..., "text": ...}, a folder of folders with matching names (see `anymask.data.mix`)
    * any of them as .npy, .npz, NumPy array, torch tensor, (x, y), torch Dataset or IterableDataset, Hugging Face
      Dataset, DatasetDict or IterableDataset, as far as it can hold them.

    Of several splits `split` names one (the training split by default). `label` and `group` name columns, or are arrays
    where `spec` is an array. `strict` makes an unreadable sample an error instead of leaving it out. `streaming`
    reads in order instead of by number. `layout` ("NCHW" or "NHWC") and `channels` (1, 3 or 4) are for images:
    without `layout` the channels are the smaller of the first and the last axis of an image, at most 16; without
    `channels` transparency is laid on white, and grey images among RGB become RGB. `ignore` names columns, leads or
    scenes to leave out; `na_values` (further words that stand for a missing cell) and `categories` (columns whose
    numbers are names of categories) are for tables. `events` ("stay,time,code,value") names the columns of health
    records where their names do not tell. `kind` ("image", "points", ...) says what the data are where their form
    leaves it open, as that of bare arrays does: an array (N, H, W) is grey images, (N, P, 3) point clouds, (N, F) a
    table, unless `kind` says otherwise.

    A long record (a table with a column of dates) is cut into windows of `window` moments, one every `stride` moments,
    within parts by time: `parts` are three shares (training, validation, test; 0.6, 0.2, 0.2 by default), or months of
    30 days, as 12, 4, 4. Of a video, `window` are the frames of a clip and `stride` those from one to the next. Volumes
    are cut into crops of `window` voxels a side (48), on a grid of one every `stride` voxels (as many).

    `text` names the column of texts. Their vocabulary is trained on the data: `tokenizer` "wordpiece" (the default) or
    "bytepair" (on bytes), of `vocabulary` pieces, or "characters", in lower case unless `cased`; or it is given as
    `tokenizer`, the path of a tokenizer.json or of another run, or a tokenizer of the library tokenizers. Of proteins
    and molecules `text` names the column as well, and the vocabulary is their alphabet. `canonical` rewrites SMILES as
    RDKit does, and leaves out what it cannot read. `group="scaffold"` groups molecules by scaffold, and `parts` (0.8,
    0.1, 0.1) then divides them so, the largest groups to training.

    `rate` is the sampling rate of sounds in Hz: that of arrays, which do not say theirs, and what files are resampled
    to; by default that of most files.

    With `kind="mix"`, or `text`, a folder of images with metadata.csv is read as images with their texts. `derive`
    names the parts that samples are to have: their own and what is made of their image, "luma", "edges", "colours".

    Returns a Source, or a StreamSource for streams. Raises DataError, which names what is wrong and the mend.
    """
    asked = Options.of(options)
    source = _open(spec, asked)
    if asked.derive:
        if not isinstance(source, Source):
            raise DataError("parts are derived (--derive) from samples by number, and this is a stream")
        source = derived(source, asked.derive)
    if asked.streaming and isinstance(source, Source):
        return as_stream(source)
    return source


def _open(spec: Any, options: Options) -> AnySource:
    mixed = open_mix(spec, options)
    if mixed is not None:
        return mixed
    for kind in sorted(asked_kinds(options.kind), key=lambda kind: kind.asked_last - kind.asked_first):
        try:
            source = kind.open(spec, options)
        except PermissionError as error:  # kinds look into folders before they are sure that they know them
            place = error.filename or spec
            raise DataError(f"no permission to read the folder {place}; change it: chmod u+rx {place}") from error
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
    if ending == SHARD:
        return open_shards([path], options, path.name)
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
