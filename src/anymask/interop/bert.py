"""Hugging Face transformers: `BertForMaskedLM` (or `BertModel`) in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymask.interop.plain import InteropError
from anymask.recipe import Recipe, Size, find

NEEDS = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
CLS = "[CLS]"
# Parts of a block: our name, theirs.
BLOCK = (
    ("attn.proj", "attention.output.dense"),
    ("norm1", "attention.output.LayerNorm"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
    ("norm2", "output.LayerNorm"),
)
HEAD = {"dense": "transform.dense", "norm": "transform.LayerNorm"}


def from_bert(
    folder: Path, config: Mapping[str, Any], theirs: Mapping[str, Tensor]
) -> tuple[Recipe, Size, dict[str, Tensor]]:
    """Recipe, size and weights. Their CLS token has a place and a segment, which go into ours; so the places of words
    begin with their second one: `size=` (--image-size) has to be one less than their `max_position_embeddings`.

    Raises:
        InteropError: another kind of model, or no vocabulary that says which piece is [CLS].
    """
    for name, value in NEEDS.items():
        if config.get(name, value) != value:
            raise InteropError(f"{folder} has {name} {config[name]!r}; BERT models with {value!r} can be read")
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = Size(width, config["num_hidden_layers"], heads, width, 1, heads)
    changes = {"encoder.dropout": float(config.get("hidden_dropout_prob", 0.1))}
    if config["intermediate_size"] != 4 * width:
        changes["encoder.mlp_ratio"] = config["intermediate_size"] / width
    return find("bert").but(changes), size, convert(theirs, config["num_hidden_layers"], cls_of(folder))


def convert(theirs: Mapping[str, Tensor], depth: int, cls: int) -> dict[str, Tensor]:
    """Weights under anymask's names; without their head there is none in the result."""
    theirs = {name.removeprefix("bert."): tensor for name, tensor in theirs.items()}
    words, places = theirs["embeddings.word_embeddings.weight"], theirs["embeddings.position_embeddings.weight"]
    segment = theirs["embeddings.token_type_embeddings.weight"][0]
    ours = {
        "stem.embed.text.weight": words,
        "stem.positions.table": places[1:] + segment,
        "encoder.prefix": (words[cls] + places[0] + segment)[None],
    }
    for kind in ("weight", "bias"):
        ours[f"encoder.norm.{kind}"] = theirs[f"embeddings.LayerNorm.{kind}"]
        for n in range(depth):
            block, place = f"encoder.layer.{n}.", f"encoder.blocks.{n}."
            qkv = [theirs[f"{block}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            ours[f"{place}attn.qkv.{kind}"] = torch.cat(qkv)
            ours |= {f"{place}{name}.{kind}": theirs[f"{block}{their}.{kind}"] for name, their in BLOCK}
        if "cls.predictions.bias" in theirs:
            head = {name: theirs[f"cls.predictions.{their}.{kind}"] for name, their in HEAD.items()}
            ours |= {f"decoder.{name}.{kind}": tensor for name, tensor in head.items()}
            ours["decoder.bias"] = theirs["cls.predictions.bias"]
    return ours


def cls_of(folder: Path) -> int:
    """The number of [CLS] in tokenizer.json or vocab.txt."""
    for name in ("tokenizer.json", "vocab.txt"):
        if not (folder / name).is_file():
            continue
        text = (folder / name).read_text(encoding="utf-8")
        words = json.loads(text)["model"]["vocab"] if name.endswith("json") else text.split("\n")
        if CLS in words:
            return words[CLS] if isinstance(words, dict) else words.index(CLS)
    raise InteropError(f"{folder} has no tokenizer.json or vocab.txt with {CLS}; save the tokenizer beside the model")
