"""The training state as one safetensors file, readable without unpickling.

A state is a tree of dicts, lists, tuples, tensors and plain values, as Lightning makes it. Tensors are stored under
their path in the tree (`optimizer_states.0.state.3.exp_avg`); the tree itself, with a note in place of each tensor, is
JSON in the file's metadata, beside the format version and the step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from anymask.run import save_tensors

from .errors import StateError

FORMAT = 1
NAME = "state.safetensors"


def write_state(path: Path, state: Mapping[str, Any], *, step: int) -> None:
    """Writes atomically.

    Raises:
        StateError: a value is neither a tensor nor plain data; names its path.
        OSError: the file cannot be written, as on a full disk; an earlier one is unharmed.
    """
    tensors: dict[str, Tensor] = {}
    tree = encode(dict(state), "", tensors)
    save_tensors(path, tensors, {"anymask_state": str(FORMAT), "step": str(step), "tree": json.dumps(tree)})


def read_state(path: Path) -> dict[str, Any]:
    """The tree that was written, tensors on the CPU."""
    header = _header(path)
    with safetensors.safe_open(path, "pt") as file:
        return decode(json.loads(header["tree"]), file.get_tensor)


def step_of(path: Path) -> int:
    """Optimiser steps that a state has behind it, 0 where there is none; reads the header only."""
    return int(_header(path)["step"]) if path.is_file() else 0


def _header(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise StateError(f"{path} cannot be read ({error}); begin again with --overwrite") from error
    if "anymask_state" not in header:
        raise StateError(f"{path} is a safetensors file, but no training state; resume needs the run's own {NAME}")
    if int(header["anymask_state"]) > FORMAT:
        raise StateError(
            f"{path} is in format {header['anymask_state']}, this anymask reads up to {FORMAT}: pip install -U anymask"
        )
    return header


def encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors` by path."""
    below = lambda name: f"{path}.{name}" if path else str(name)
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu()
        return {"tensor": path}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Mapping):
        if all(isinstance(name, str) for name in value):
            return {"dict": {name: encode(v, below(name), tensors) for name, v in value.items()}}
        return {"pairs": [[encode(k, below(k), tensors), encode(v, below(k), tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(v, below(i), tensors) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [encode(v, below(i), tensors) for i, v in enumerate(value)]
    raise StateError(
        f"the training state holds a {type(value).__qualname__} at {path!r}; it can hold tensors, numbers, text, "
        "lists, tuples and dicts: change what that part's state_dict gives"
    )


def decode(value: Any, tensor: Any) -> Any:
    """The inverse of `encode`; `tensor(path)` gives a tensor."""
    if isinstance(value, list):
        return [decode(v, tensor) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensor(inner)
    if kind == "float":
        return float(inner)
    if kind == "dict":
        return {name: decode(v, tensor) for name, v in inner.items()}
    if kind == "pairs":
        return {decode(k, tensor): decode(v, tensor) for k, v in inner}
    if kind == "tuple":
        return tuple(decode(v, tensor) for v in inner)
    raise StateError(f"a training state with an unknown entry {kind!r}; it was written by a newer anymask: upgrade")


def same_state(a: Any, b: Any) -> bool:
    """Whether two trees are equal bit for bit (NaNs too)."""
    left: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    if encode(a, "", left) != encode(b, "", right) or left.keys() != right.keys():
        return False
    return all(same_tensor(t, right[name]) for name, t in left.items())


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bytes_of = lambda t: t.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return torch.equal(bytes_of(a), bytes_of(b))
