"""A trained encoder as a plain Vision Transformer, which other libraries know; and as it is, with how to feed it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymask.data import Field, Schema
from anymask.engine import Latent, Model, Sample, Step, everything
from anymask.errors import AnymaskError
from anymask.parts.encoders import ViT
from anymask.parts.stems import Embed
from anymask.parts.tokenizers import Patches
from anymask.run import ENCODER_PARTS, Run, save_tensors, write_atomically


class InteropError(AnymaskError):
    """Weights that cannot be carried over; the message says why and what can be."""


@dataclass(frozen=True)
class PlainViT:
    """Weights of a Vision Transformer: shapes as timm's, D width, p patch, C channels, N patches."""

    patch_weight: Tensor  # (D, C, p, p)
    patch_bias: Tensor  # (D,)
    cls: Tensor  # (1, 1, D)
    positions: Tensor  # (1, 1 + N, D), that of CLS first
    blocks: dict[str, Tensor]  # "0.norm1.weight", "0.attn.qkv.weight" (3D, D), ...
    norm: dict[str, Tensor]  # "weight", "bias"
    heads: int
    depth: int
    hidden: int  # of the MLPs
    image: Field
    size: tuple[int, int]  # (H, W) in pixels of whole patches


def model_of(source: Run | Model) -> Model:
    return source.model() if isinstance(source, Run) else source


def latent_of(model: Model, sample: Sample) -> Latent:
    """What `Model.embed` gives, in the mode that the model is in and with gradients."""
    tokens = model.tokenizer(sample)
    step = Step(sample, tokens, everything(tokens), aux={})
    return model.encoder(step._replace(seen=model.stem(step)), model)


def public_schema(schema: Schema) -> Schema:
    """The schema as others may see it: without notes on files, and the source by its name alone."""
    fields = {name: replace(field, notes=()) for name, field in schema.fields.items()}
    source = Path(schema.source).name if Path(schema.source).expanduser().is_absolute() else schema.source
    return replace(schema, fields=fields, notes=(), source=source)


def fitted_schema(model: Model) -> Schema:
    """The schema at the size that the tokenizer takes: whole patches."""
    from anymask.train.planning import cropped

    return cropped(model.schema, model)


@torch.no_grad()
def plain_vit(source: Run | Model) -> PlainViT:
    """
    Raises:
        InteropError: encoder, stem or tokenizer are not those of a plain ViT with a CLS token.
    """
    model = model_of(source)
    tokenizer, stem, encoder = model.tokenizer, model.stem, model.encoder
    kinds = {"encoder": (encoder, ViT), "stem": (stem, Embed), "tokenizer": (tokenizer, Patches)}
    for name, (part, known) in kinds.items():
        if type(part) is not known:
            raise InteropError(
                f"only plain Vision Transformers go to timm and Hugging Face, and the {name} is {type(part).__name__}, "
                f"not {known.__name__}; export it with --to safetensors"
            )
    if encoder.prefix is None or encoder.prefix.shape[0] != 1 or encoder.within is not None:
        raise InteropError(
            "timm and Hugging Face know the ViT with one CLS token that attends to all; this one has "
            f"{0 if encoder.prefix is None else encoder.prefix.shape[0]} such tokens or its own attention; "
            "export it with --to safetensors"
        )
    p, channels, device = tokenizer.patch, tokenizer.channels, encoder.prefix.device
    embed = stem.embed[tokenizer.field]
    tokens = tokenizer({tokenizer.field: torch.zeros(1, channels, *tokenizer.crop, device=device)})
    place = torch.zeros(1, tokens.shape[1], encoder.width) if stem.positions is None else stem.positions(tokens)
    cls = encoder.prefix[None]
    weights = {name: tensor.cpu().clone() for name, tensor in encoder.blocks.state_dict().items()}
    return PlainViT(
        patch_weight=embed.weight.unflatten(1, (p, p, channels)).permute(0, 3, 1, 2).contiguous().cpu(),
        patch_bias=embed.bias.cpu().clone(),
        cls=cls.cpu().clone(),
        positions=torch.cat([torch.zeros(1, 1, encoder.width), place.cpu().float()], 1),  # CLS has no place
        blocks=weights,
        norm={name: tensor.cpu().clone() for name, tensor in encoder.norm.state_dict().items()},
        heads=encoder.heads,
        depth=len(encoder.blocks),
        hidden=encoder.blocks[0].mlp.fc1.out_features,
        image=model.schema.fields[tokenizer.field],
        size=tokenizer.crop,
    )


def scale_of(image: Field) -> float:
    """What raw values are divided by to lie in 0..1; 1 for floats, which are left as they are."""
    return {"uint8": 255.0, "uint16": 65535.0}.get(image.dtype, 1.0)


def standardise(image: Field) -> dict[str, Any]:
    """Mean and spread of each channel after division by `scale`."""
    scale = scale_of(image)
    return {"scale": scale, "mean": [m / scale for m in image.mean], "std": [s / scale for s in image.std]}


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())


def to_safetensors(source: Run | Model, folder: str | Path) -> Path:
    """Tokenizer, stem and encoder under anymask's own names, and `preprocess.json`: what goes in and how. Works for
    every recipe. Returns the folder."""
    model, folder = model_of(source), Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: t.cpu().contiguous() for n, t in model.state_dict().items() if n.partition(".")[0] in ENCODER_PARTS}
    about: dict[str, Any] = {
        "size": model.size._asdict(),
        "encoder": type(model.encoder).__name__,
        "fields": {},
        "schema": json.loads(model.schema.to_json()),
    }
    if isinstance(source, Run):
        about["recipe"] = source.recipe.to_json()
    for name, field in model.schema.fields.items():
        about["fields"][name] = {"shape": list(field.shape), "dtype": field.dtype, **standardise(field)}
    if isinstance(model.tokenizer, Patches):
        about["patch"] = model.tokenizer.patch
        about["how"] = (
            "x = (values / scale - mean) / std for each channel; cut into patches, row by row; values of a patch by "
            "rows, then columns, then channels; stem.embed.<field> is a linear layer on them"
        )
    write_json(folder / "preprocess.json", about)
    save_tensors(folder / "encoder.safetensors", weights)
    return folder
