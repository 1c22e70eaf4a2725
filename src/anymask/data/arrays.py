"""Sources from arrays: NumPy, torch, .npy, .npz, and the digits that come with scikit-learn."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import DataError
from .kind import asked_kinds
from .labels import classes_or_numbers
from .options import Options
from .source import Source, canonical_split, of_split_files

_DATA_NAMES = ("x", "images", "data")
_LABEL_NAMES = ("y", "labels", "label")
_CLASS_NAMES = "class_names"
_HELD_OUT = 500  # of the 1,797 digits


def from_array(array: np.ndarray, labels: Any, options: Options, name: str) -> Source:
    """A source from one array with all samples. Raises DataError for a shape no kind takes, and labels that do not
    fit."""
    if options.split is not None:
        raise DataError(f"{name} is one array and has no split '{options.split}'; open the parts one by one, or use "
                        "split_source(source)")
    if len(array.shape) and not len(array):
        raise DataError(f"{name} is empty (shape {array.shape}); give an array with samples")
    for kind in asked_kinds(options.kind):
        column = kind.array_column(array, options, name)
        if column is not None:
            break
    else:
        if options.kind is not None:
            raise DataError(f"{name} has shape {array.shape} and type {array.dtype}, which cannot be of kind "
                            f"{options.kind}; leave kind= (--kind) out, or name another one")
        raise DataError(f"{name} has shape {array.shape} and type {array.dtype}; images need numbers of shape (N, H, "
                        f"W), (N, C, H, W) or (N, H, W, C), point clouds (N, P, 3), tables (N, F), videos (N, T, H, W, "
                        "C) or (N, C, T, H, W), which need kind=\"video\" unless they are bytes of 3 channels")
    given = options.label if options.label is not None else labels
    if isinstance(given, str):
        raise DataError(f"{name} is an array and has no columns; give label= the labels themselves, one a sample")
    numbers = names = targets = None
    if given is not None:
        numbers, names, targets = classes_or_numbers(one_a_sample(given, len(array), "labels", name))
    groups = None if options.group is None else one_a_sample(options.group, len(array), "groups", name)
    return Source(name=name, columns={kind.name: column}, labels=numbers, label_names=names, groups=groups,
                  strict=options.strict, targets=targets)


def one_a_sample(values: Any, count: int, what: str, name: str) -> np.ndarray:
    out = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if out.shape not in ((count,), (count, 1)):
        raise DataError(f"{what} of {name} have shape {out.shape}, but there are {count} samples; give one a sample")
    return out.reshape(count)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A CPU array; half precision, which NumPy lacks or computes slowly, becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def open_npy(path: Path, options: Options) -> Source:
    """All samples in one file, memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as .npy ({error}); write it again with numpy.save, without objects") \
            from error
    return from_array(array, None, options, path.name)


def open_npz(path: Path, options: Options) -> Source:
    """Samples under x, images or data (or the only array with 3 to 5 axes), labels under y, labels or label, their
    names under class_names. An array that is named after a kind, as `points`, holds samples of this kind."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz ({error}); write it again with numpy.savez, without objects") \
            from error
    kinds = {name: kind.name for kind in asked_kinds(options.kind) for name in (kind.name, f"{kind.name}s")}
    named = [k for k in _DATA_NAMES if k in arrays] or [k for k in kinds if k in arrays]
    named = named or [k for k, a in arrays.items() if a.ndim in (3, 4, 5)]
    if len(named) != 1:
        have = ", ".join(f"{k} {a.shape}" for k, a in arrays.items()) or "nothing"
        raise DataError(f"{path.name} has {len(named)} arrays that may be the samples (it holds: {have}); name one of "
                        f"them 'x', 'images' or 'data'")
    labels = next((arrays[k] for k in _LABEL_NAMES if k in arrays), None)
    if isinstance(options.label, str):
        if options.label not in arrays:
            raise DataError(f"{path.name} has no array '{options.label}' for label= (it holds: {', '.join(arrays)})")
        labels, options = arrays[options.label], replace(options, label=None)
    if named[0] in kinds:
        options = replace(options, kind=kinds[named[0]])
    source = from_array(arrays[named[0]], labels, options, path.name)
    classes = arrays.get(_CLASS_NAMES)
    if classes is not None and source.labels is not None and source.labels.max(initial=-1) < len(classes):
        source.label_names = [str(name) for name in classes.tolist()]
    return source


def open_npz_splits(root: Path, options: Options) -> Source | None:
    """train.npz, test.npz and so on in a folder; None where there is no train.npz."""
    files = {canonical_split(path.stem): path for path in sorted(root.glob("*.npz"))}
    if "train" not in files:
        return None
    return of_split_files(root, files, options.split, partial(open_npz, options=replace(options, split=None)))


def open_digits(options: Options) -> Source:
    """scikit-learn's digits: 8 x 8, values 0..16 as float32; the last 500 of a seeded permutation are the test
    split."""
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    place = np.random.default_rng(0).permutation(len(images))
    chosen = {"train": np.sort(place[:-_HELD_OUT]), "test": np.sort(place[-_HELD_OUT:])}
    split = options.split or "train"
    if split not in chosen:
        raise DataError(f"digits have no split '{split}'; there are train and test")
    plain = replace(options, split=None)
    whole = from_array(images.reshape(-1, 8, 8).astype(np.float32), target, plain, "digits")
    whole.label_names = [str(i) for i in range(10)]
    makers = {name: partial(open_digits, replace(options, split=name)) for name in chosen}
    return whole.subset(chosen[split]).with_splits(split, makers)
