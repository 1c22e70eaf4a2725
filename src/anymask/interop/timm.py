"""timm: the encoder under the names of its `vit_*` models. timm itself is not needed."""

from __future__ import annotations

import json
from pathlib import Path

from anymask.engine import Model
from anymask.interop.plain import plain_vit, standardise
from anymask.run import Run, save_tensors


def to_timm(source: Run | Model, file: str | Path) -> Path:
    """A safetensors file that `timm.models.VisionTransformer(**arguments, num_classes=0).load_state_dict` takes; the
    arguments, and mean and spread of the input, are JSON in its header under `timm` and `input`. A folder gets
    `model.safetensors`. Returns the file.

    Raises:
        InteropError: the encoder is no plain ViT.
    """
    vit, file = plain_vit(source), Path(file).expanduser()
    file = file if file.suffix == ".safetensors" else file / "model.safetensors"
    named = {
        "cls_token": vit.cls,
        "pos_embed": vit.positions,
        "patch_embed.proj.weight": vit.patch_weight,
        "patch_embed.proj.bias": vit.patch_bias,
        **{f"blocks.{name}": tensor for name, tensor in vit.blocks.items()},
        **{f"norm.{name}": tensor for name, tensor in vit.norm.items()},
    }
    width = vit.patch_bias.shape[0]
    arguments = {
        "img_size": list(vit.size),
        "patch_size": vit.patch_weight.shape[-1],
        "in_chans": vit.patch_weight.shape[1],
        "embed_dim": width,
        "depth": vit.depth,
        "num_heads": vit.heads,
        "mlp_ratio": vit.hidden / width,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(file, named, {"timm": json.dumps(arguments), "input": json.dumps(standardise(vit.image))})
    return file
