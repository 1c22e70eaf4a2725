"""Vision models of Hugging Face as frozen teachers: a folder's network over the image that the tokens make."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from anymask.engine import Latent, Model, Part, Seen, Step
from anymask.interop.plain import InteropError
from anymask.recipe import Size


class Vision(NamedTuple):
    """What a teacher takes from a model."""

    stem: Part
    encoder: Part
    size: Size
    decoder: None = None  # it has none


class Untouched(Part):
    """The content of all tokens as it is: the network embeds pixels itself."""

    def forward(self, step: Step) -> Seen:
        (x,) = step.tokens.x.values()
        return Seen(x, step.tokens.pos, step.tokens.valid)


class Network(Part):
    """A vision model over the images that tokens were cut from, resized so that its patches are the tokens.

    Args:
        network: gives `last_hidden_state` (B, T + N, D), T tokens without content first.
        mean, std: of a channel, of pixels from 0 to 1, which it was trained with.
    """

    layers = True

    def __init__(self, model: Model, *, network: Any, mean: list[float], std: list[float]):
        super().__init__(model)
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        sides = network.config.patch_size
        self.sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
        known = inspect.signature(network.forward).parameters
        self.options: dict[str, Any] = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in known:
            self.options["interpolate_pos_encoding"] = True
        self.masks = "noise" in known  # ViTMAE: in this order it masks nothing and shuffles nothing
        if self.masks:
            network.config.mask_ratio = 0.0

    mean: Tensor
    std: Tensor

    def pixels(self, step: Step, model: Model) -> Tensor:
        """(B, 3, H, W) as the network was trained with them."""
        tokenizer, grid = model.tokenizer, step.tokens.grid
        assert grid is not None
        field = model.schema.fields[tokenizer.field]
        image = tokenizer.raw(tokenizer.whole(step.tokens.x[tokenizer.field].float(), grid))
        image = ((image - field.low) / max(field.high - field.low, 1e-12)).expand(-1, len(self.mean), -1, -1)
        size = [n * side for n, side in zip(grid, self.sides)]
        if list(image.shape[2:]) != size:
            image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        return (image - self.mean) / self.std

    def forward(self, step: Step, model: Model) -> Latent:
        pixels, n = self.pixels(step, model), step.tokens.shape[1]
        options = dict(self.options)
        if self.masks:
            options["noise"] = torch.arange(n, device=pixels.device).float().expand(len(pixels), -1)
        found = self.network(pixel_values=pixels, **options)
        x, layers = found.last_hidden_state, found.hidden_states
        t = x.shape[1] - n
        prefix = x[:, :t] if t else None
        return Latent(x[:, t:], step.tokens.pos, step.tokens.valid, None, prefix, (*layers[:-1], x))


def vision_model(folder: str | Path, model: Model) -> Vision:
    """The network of a folder with config.json, model.safetensors and preprocessor_config.json, to teach `model`: ViT,
    ViTMAE, DeiT, BEiT, DINOv2, CLIP, SigLIP and others that give one token a patch.

    Raises:
        InteropError: another kind of model, files that lack, or data that it cannot see.
    """
    try:
        import transformers
    except ImportError as error:
        raise InteropError("a model of Hugging Face needs transformers: pip install 'anymask[hf]'") from error
    folder = Path(folder).expanduser()
    about = folder / "preprocessor_config.json"
    how = json.loads(about.read_text()) if about.is_file() else {}
    if not {"image_mean", "image_std"} <= set(how):
        raise InteropError(
            f"{about} has to say image_mean and image_std, the mean and spread of each channel that the model was "
            "trained with; add it to the folder"
        )
    tokenizer, mean = model.tokenizer, list(how["image_mean"])
    if len(getattr(tokenizer, "sides", ())) != 2 or tokenizer.channels not in (1, len(mean)):
        raise InteropError(
            f"{folder.name} sees images of {len(mean)} channels (or grey ones), cut into patches; not "
            f"{tokenizer.takes} data of these tokens; use another teacher, or none (target.teacher=null)"
        )
    try:
        network = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InteropError(f"{folder} cannot be read as a Hugging Face model: {error}") from error
    network = getattr(network, "vision_model", network)
    config = network.config
    if not hasattr(config, "patch_size") or not hasattr(config, "hidden_size"):
        raise InteropError(f"{config.model_type} of {folder} is no vision model of patches; give one, such as a ViT")
    encoder = Network(model, network=network.float(), mean=mean, std=list(how["image_std"]))
    _try(encoder, model, folder)
    heads = getattr(config, "num_attention_heads", 1)
    depth = getattr(config, "num_hidden_layers", 1)
    return Vision(Untouched(model), encoder, Size(config.hidden_size, depth, heads, config.hidden_size, 1, heads))


@torch.no_grad()
def _try(encoder: Network, model: Model, folder: Path) -> None:
    """Once over an empty image, before training: does it give a code for each token?"""
    n = math.prod(model.tokenizer.grid)
    pixels = torch.zeros(1, len(encoder.mean), *(g * side for g, side in zip(model.tokenizer.grid, encoder.sides)))
    options = dict(encoder.options, **({"noise": torch.arange(n)[None].float()} if encoder.masks else {}))
    encoder.network.eval()
    try:
        shape = tuple(encoder.network(pixel_values=pixels, **options).last_hidden_state.shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InteropError(f"{folder} cannot see images of {tuple(pixels.shape[2:])} pixels: {error}; use a model for "
                           "images of this size, or other patches (--set tokenizer.patch=...)") from error  # fmt: skip
    if len(shape) != 3 or shape[1] < n:
        raise InteropError(
            f"{folder} gives codes of shape {shape} where {n} tokens need one each; use a model with one token a patch"
        )
