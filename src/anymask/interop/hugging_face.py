"""Hugging Face transformers: `ViTMAEForPreTraining` and `BertForMaskedLM` in, `ViTModel` out. Files are read and
written directly, so transformers itself is not needed.

Its layer norms add 1e-12 to variances where its configuration says so; anymask adds 1e-6, as MAE's own code does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from anymask.engine import Model
from anymask.interop.bert import from_bert
from anymask.interop.plain import InteropError, PlainViT, plain_vit, standardise, write_json
from anymask.parts.positions import Table
from anymask.recipe import P, Recipe, Size, find
from anymask.run import Run, save_tensors

# A block's tensors: our name, Hugging Face's name on disk, and in memory since transformers 5.
BLOCK = (
    ("norm1", "layernorm_before", "layernorm_before"),
    ("attn.proj", "attention.output.dense", "attention.o_proj"),
    ("norm2", "layernorm_after", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense", "mlp.fc1"),
    ("mlp.fc2", "output.dense", "mlp.fc2"),
)
QKV = (
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
)
# Where blocks are: on disk; in memory since transformers 5; and as its 5.x versions save the decoder.
ENCODER_BLOCKS = r"(?:vit\.)?(?:encoder\.layer|layers)\.(\d+)\."
DECODER_BLOCKS = r"decoder\.(?:decoder_layers|decoder_encoder\.layer)\.(\d+)\."


class Imported(NamedTuple):
    """A checkpoint as anymask has it: `recipe.build(schema, size)`, then `initialise(model, weights)`."""

    recipe: Recipe
    size: Size
    weights: dict[str, Tensor]


def from_hugging_face(folder: str | Path) -> Imported:
    """The recipe, size and weights of a folder with config.json and model.safetensors of `ViTMAEForPreTraining` (or of
    `ViTMAEModel`, which has no decoder), or of `BertForMaskedLM` (`BertModel`), see `anymask.interop.bert`.

    Raises:
        InteropError: no such folder, another kind of model, or settings that mae does not have.
    """
    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        raise InteropError(
            f"{folder} is no Hugging Face model: it has no config.json; download one or save_pretrained() there"
        )
    config = json.loads((folder / "config.json").read_text())
    if config.get("model_type") == "bert":
        return Imported(*from_bert(folder, config, _tensors(folder)))
    config = {**DEFAULTS, **config}
    _refuse_what_differs(config, folder)
    weights = convert(_tensors(folder))
    patch, image = config["patch_size"], config["image_size"]
    height, width = image if isinstance(image, (list, tuple)) else (image, image)
    changes: dict[str, Any] = {
        "tokenizer.patch": patch,
        "positions": P(Table, grid=(height // patch, width // patch), learned=False),
        "mask.ratio": config["mask_ratio"],
        "target.normalise": config["norm_pix_loss"],
    }
    if config["intermediate_size"] != 4 * config["hidden_size"]:
        changes["encoder.mlp_ratio"] = config["intermediate_size"] / config["hidden_size"]
    size = Size(
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["decoder_hidden_size"],
        config["decoder_num_hidden_layers"],
        config["decoder_num_attention_heads"],
    )
    return Imported(find("mae").but(changes), size, weights)


DEFAULTS: dict[str, Any] = {  # of transformers' ViTMAEConfig; its files may leave them out
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "decoder_num_attention_heads": 16,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}


def _refuse_what_differs(config: Mapping[str, Any], folder: Path) -> None:
    needs = {
        "model_type": "vit_mae",
        "hidden_act": "gelu",
        "qkv_bias": True,
        "decoder_intermediate_size": 4 * config["decoder_hidden_size"],
    }
    for name, value in needs.items():
        if config.get(name) != value:
            raise InteropError(
                f"{folder} has {name} {config.get(name)!r}; weights of ViT-MAE models with {value!r} can be read"
            )


def _tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise InteropError(
            f"{folder} has no {missing[0]} (weights in .bin files are not read); "
            "load it in transformers and save_pretrained() it"
        )
    return {name: tensor for file in files for name, tensor in safetensors.torch.load_file(folder / file).items()}


def convert(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a ViT-MAE under anymask's names. Without decoder weights there are none in the result.

    Raises:
        InteropError: a weight is missing, or a position that anymask has no place for.
    """
    top = {name.removeprefix("vit."): tensor.float() for name, tensor in theirs.items()}
    try:
        ours = _encoder(top) | blocks(theirs, ENCODER_BLOCKS, "encoder.blocks.")
        if any(name.startswith("decoder.") for name in theirs):
            ours |= _decoder(top) | blocks(theirs, DECODER_BLOCKS, "decoder.blocks.")
    except KeyError as error:
        raise InteropError(f"the weights lack {error.args[0]}; they are not those of a whole ViT-MAE model") from None
    return {name: tensor.contiguous() for name, tensor in ours.items()}


def _encoder(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    place, conv = theirs["embeddings.position_embeddings"], "embeddings.patch_embeddings.projection"
    return {
        "stem.embed.image.weight": theirs[f"{conv}.weight"].permute(0, 2, 3, 1).flatten(1),  # D C p p -> D ppC
        "stem.embed.image.bias": theirs[f"{conv}.bias"],
        "stem.positions.table": place[:, 1:],
        "encoder.prefix": (theirs["embeddings.cls_token"] + place[:, :1])[0],
        "encoder.norm.weight": theirs["layernorm.weight"],
        "encoder.norm.bias": theirs["layernorm.bias"],
    }


def _decoder(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    place = theirs["decoder.decoder_pos_embed"]
    if place[:, 0].abs().max() > 1e-6:
        raise InteropError("the decoder gives its CLS token a position, which mae does not; these weights were changed")
    pairs = {"embed": "decoder_embed", "norm": "decoder_norm", "heads.heads.pixels": "decoder_pred"}
    ours = {f"decoder.{a}.{w}": theirs[f"decoder.{b}.{w}"] for a, b in pairs.items() for w in ("weight", "bias")}
    return ours | {"decoder.token": theirs["decoder.mask_token"].flatten(), "decoder.positions.table": place[:, 1:]}


def blocks(theirs: Mapping[str, Tensor], where: str, prefix: str) -> dict[str, Tensor]:
    """Transformer blocks under anymask's names: `where` is the pattern of what stands before a block's own names."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in theirs.items():
        match = re.match(where, name)
        if match:
            found.setdefault(int(match[1]), {})[name[match.end() :]] = tensor.float()
    ours = {}
    for number, block in found.items():
        for kind in ("weight", "bias"):
            qkv = [_either(block, pair, kind) for pair in QKV]
            ours[f"{prefix}{number}.attn.qkv.{kind}"] = torch.cat(qkv)
            for name, *names in BLOCK:
                ours[f"{prefix}{number}.{name}.{kind}"] = _either(block, names, kind)
    return ours


def _either(block: Mapping[str, Tensor], names: Sequence[str], kind: str) -> Tensor:
    for name in names:
        if f"{name}.{kind}" in block:
            return block[f"{name}.{kind}"]
    raise KeyError(f"{names[0]}.{kind}")


def initialise(model: Model, weights: Mapping[str, Tensor]) -> list[str]:
    """Puts weights into a fresh model. Stem and encoder have to fit; a decoder or positions of another kind stay as
    they are, and are named in the notes that are returned.

    Raises:
        InteropError: a weight of stem or encoder does not fit; nothing has been changed then.
    """
    own, taken, fresh = model.state_dict(), {}, set()
    for name, tensor in weights.items():
        part = name.split(".")[0]
        if name in own and own[name].shape == tensor.shape:
            taken[name] = tensor
        elif part == "decoder" or name == "stem.positions.table":
            fresh.add("decoder" if part == "decoder" else "positions")
        else:
            have = f"has {tuple(own[name].shape)}" if name in own else "has none"
            raise InteropError(
                f"the weights' {name} is {tuple(tensor.shape)}, the model {have}; use the recipe and size that "
                "from_hugging_face gives, and data with as many channels"
            )
    lacking = [n for n in own if n.split(".")[0] in ("stem", "encoder") and n not in taken and "positions" not in n]
    if lacking:
        raise InteropError(
            f"the weights have nothing for {lacking[0]} of the model; use the recipe and size that come with them"
        )
    if "decoder" in fresh or not any(n.startswith("decoder.") for n in taken):
        taken = {n: t for n, t in taken.items() if not n.startswith("decoder.")}
        fresh.add("decoder")
    model.load_state_dict({**own, **taken})
    return [f"{part}: the recipe's own, not from the weights" for part in sorted(fresh)]


def to_hugging_face(source: Run | Model, folder: str | Path) -> Path:
    """The encoder as `ViTModel` (without pooler): config.json, model.safetensors and preprocessor_config.json, for
    `ViTModel.from_pretrained(folder, add_pooling_layer=False)`. Returns the folder.

    Raises:
        InteropError: the encoder is no plain ViT.
    """
    vit, folder = plain_vit(source), Path(folder).expanduser()
    width, patch = vit.patch_bias.shape[0], vit.patch_weight.shape[-1]
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": vit.depth,
        "num_attention_heads": vit.heads,
        "intermediate_size": vit.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": vit.size[0] if vit.size[0] == vit.size[1] else list(vit.size),
        "patch_size": patch,
        "num_channels": vit.patch_weight.shape[1],
        "qkv_bias": True,
        "encoder_stride": patch,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", _preprocessor(vit))
    save_tensors(folder / "model.safetensors", _hugging_face_names(vit))
    return folder


def _preprocessor(vit: PlainViT) -> dict[str, Any]:
    how = standardise(vit.image)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": vit.size[0], "width": vit.size[1]},
        "resample": 3,  # bicubic, as anymask resizes
        "do_rescale": how["scale"] != 1.0,
        "rescale_factor": 1 / how["scale"],
        "do_normalize": True,
        "image_mean": how["mean"],
        "image_std": how["std"],
    }


def _hugging_face_names(vit: PlainViT) -> dict[str, Tensor]:
    named = {
        "embeddings.cls_token": vit.cls,
        "embeddings.position_embeddings": vit.positions,
        "embeddings.patch_embeddings.projection.weight": vit.patch_weight,
        "embeddings.patch_embeddings.projection.bias": vit.patch_bias,
        "layernorm.weight": vit.norm["weight"],
        "layernorm.bias": vit.norm["bias"],
    }
    for number in range(vit.depth):
        for kind in ("weight", "bias"):
            before = f"encoder.layer.{number}."
            for ours, theirs, _ in BLOCK:
                named[f"{before}{theirs}.{kind}"] = vit.blocks[f"{number}.{ours}.{kind}"]
            for tensor, (theirs, _) in zip(vit.blocks[f"{number}.attn.qkv.{kind}"].chunk(3), QKV):
                named[f"{before}{theirs}.{kind}"] = tensor.clone()
    return named
