"""`simmim-swin` against Hugging Face's SwinForMaskedImageModeling: the same weights and the same mask."""

import pytest
import torch

from anymask.contract.data import batch_of, picture_schema
from anymask.engine import Step, split
from anymask.recipe import Size, find

transformers = pytest.importorskip("transformers")
PATCH, GRID, CELL, WINDOW = 8, 4, 2, 4  # cells: 16 x 16, 8 x 8, and 4 x 4, which are one window


def theirs():
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=PATCH * GRID, patch_size=CELL, embed_dim=8, depths=[2, 3, 2], num_heads=[1, 2, 4],
        window_size=WINDOW, encoder_stride=PATCH, drop_path_rate=0.0,
    )  # fmt: skip
    model = transformers.SwinForMaskedImageModeling(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def our_weights(model):
    their = model.state_dict()
    head = their["decoder.0.weight"][..., 0, 0].unflatten(0, (3, PATCH * PATCH)).transpose(0, 1).flatten(0, 1)
    ours = {
        "stem.embed.weight": their["swin.embeddings.patch_embeddings.projection.weight"].permute(0, 2, 3, 1).flatten(1),
        "stem.embed.bias": their["swin.embeddings.patch_embeddings.projection.bias"],
        "corruption.token": their["swin.embeddings.mask_token"].flatten(),
        "decoder.heads.heads.pixels.weight": head,
        "decoder.heads.heads.pixels.bias": their["decoder.0.bias"].unflatten(0, (3, PATCH * PATCH)).T.flatten(),
    }
    pairs = [("stem.norm", "embeddings.norm"), ("encoder.norm", "layernorm")]
    number = 0
    for level, stage in enumerate(model.swin.encoder.layers):
        for n in range(len(stage.blocks)):
            a, b = f"encoder.blocks.{number}.", f"encoder.layers.{level}.blocks.{n}."
            qkv = [f"{b}attention.{name}_proj" for name in "qkv"]
            for kind in ("weight", "bias"):
                ours[f"{a}attn.qkv.{kind}"] = torch.cat([their[f"swin.{name}.{kind}"] for name in qkv])
            ours[f"{a}attn.bias"] = their[
                f"swin.{b}attention.relative_position_bias.relative_position_bias_table"
            ]
            pairs += [
                (f"{a}norm1", f"{b}layernorm_before"), (f"{a}norm2", f"{b}layernorm_after"),
                (f"{a}attn.proj", f"{b}attention.o_proj"), (f"{a}mlp.fc1", f"{b}mlp.fc1"),
                (f"{a}mlp.fc2", f"{b}mlp.fc2"),
            ]  # fmt: skip
            number += 1
        if stage.downsample is not None:
            mine, its = f"encoder.merges.{level}", f"encoder.layers.{level}.downsample"
            ours[f"{mine}.linear.weight"] = their[f"swin.{its}.reduction.weight"]
            pairs.append((f"{mine}.norm", f"{its}.norm"))
    for mine, its in pairs:
        ours |= {f"{mine}.{kind}": their[f"swin.{its}.{kind}"] for kind in ("weight", "bias")}
    return ours


def test_swin(record):
    model = theirs()
    recipe = find("simmim-swin").but({"tokenizer.patch": PATCH, "stem.levels": 3})
    recipe = recipe.but({"encoder.blocks": (2, 3, 2), "encoder.window": WINDOW})
    ours = recipe.build(picture_schema((3, PATCH * GRID, PATCH * GRID)), Size(32, 7, 4, 32, 1, 4)).eval()
    ours.load_state_dict(our_weights(model))

    batch = batch_of(ours.schema)
    tokens = ours.tokenizer(batch)
    noise = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1))
    mask = split(noise, 0.4, keep=ours.corruption.keep)
    pixels = ours.tokenizer.whole(tokens.x["image"], tokens.grid)
    times = PATCH // CELL
    cells = (~mask.visible).view(-1, GRID, GRID).repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(1)
    with torch.no_grad():
        own = ours.learn(Step(batch, tokens, mask, aux={}))
        their = model(pixels, bool_masked_pos=cells)
        code = model.swin(pixels, bool_masked_pos=cells).last_hidden_state

    patches = their.reconstruction.unflatten(2, (GRID, PATCH)).unflatten(4, (GRID, PATCH))  # B C h p w p
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # B N ppC
    asked = patches.gather(1, mask.ask[..., None].expand(-1, -1, patches.shape[-1]))
    gaps = {
        "latent": (own.latent.x - code).abs().max().item(),
        "reconstruction": (own.pred["pixels"] - asked).abs().max().item(),
        "loss": (own.loss - their.loss).abs().item(),
    }
    record("simmim-swin", "transformers SwinForMaskedImageModeling", gaps)
    assert max(gaps.values()) < 2e-5, gaps
