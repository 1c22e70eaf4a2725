"""Weights to begin with: from another run, a safetensors file, or the folder of a Hugging Face ViT-MAE or BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from anymask.engine import Model
from anymask.interop import from_hugging_face
from anymask.recipe import Size

from .errors import TrainError


def load_weights(model: Model, init: str | Path) -> str:
    """Loads what has the same name into `model`; returns in words what was loaded and what was not.

    Args:
        init: a run folder, a .safetensors file with anymask's names, or a Hugging Face folder.

    Raises:
        TrainError: no such weights, none of them has a name of the model's, or one has another shape.
    """
    found = read_weights(init)
    own = model.state_dict()
    shared = [name for name in own if name in found]
    if not shared:
        raise TrainError(
            f"{init} holds no weight of this model (it has {', '.join(list(found)[:3])}, ...; the model has "
            f"{', '.join(list(own)[:3])}, ...); give an anymask run or its encoder.safetensors"
        )
    wrong = [name for name in shared if own[name].shape != found[name].shape]
    if wrong:
        ours, theirs = (tuple(weights[wrong[0]].shape) for weights in (own, found))
        raise TrainError(
            f"{wrong[0]} is {theirs} in {init} and {ours} in this model ({len(wrong)} weights differ so); take the "
            "same --size, patch and number of channels as that run"
        )
    model.load_state_dict({name: found[name] for name in shared}, strict=False)
    return _words(init, own, found, shared)


def read_weights(init: str | Path) -> dict[str, Tensor]:
    """Weights by the names that anymask gives them. Other formats are turned into these names here."""
    path = Path(init).expanduser()
    if is_hugging_face(path):
        return from_hugging_face(path).weights
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise TrainError(f"{init} holds no weights ({file} is not there); give a run folder or a .safetensors file")
    try:
        return safetensors.torch.load_file(file)
    except SafetensorError as error:
        raise TrainError(f"{file} is no safetensors file ({error}); give a run folder or such a file") from error


def is_hugging_face(path: str | Path) -> bool:
    """Whether a folder holds a Hugging Face model and no run."""
    path = Path(path).expanduser()
    return (path / "config.json").is_file() and not (path / "run.json").is_file()


def shape_of(init: str | Path) -> tuple[Size, dict[str, Any]]:
    """Size and changes of the recipe that make a model fit the weights of a Hugging Face model."""
    made = from_hugging_face(init)
    changes: dict[str, Any] = {}
    if "patch" in made.recipe.tokenizer.args:
        changes = {"tokenizer.patch": made.recipe.tokenizer.args["patch"], "positions": made.recipe.positions}
    if "mlp_ratio" in made.recipe.encoder.args:
        changes["encoder.mlp_ratio"] = made.recipe.encoder.args["mlp_ratio"]
    return made.size, changes


def _words(init: str | Path, own: dict[str, Tensor], found: dict[str, Tensor], shared: list[str]) -> str:
    groups = lambda names: ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
    words = f"{len(shared)} of {len(own)} weights come from {init} ({groups(shared)})"
    fresh = [name for name in own if name not in found]
    unused = [name for name in found if name not in own]
    words += f"; fresh: {groups(fresh)}" if fresh else ""
    return words + (f"; left: {groups(unused)}" if unused else "")
