"""`simmim` against Hugging Face's ViTForMaskedImageModeling: the same weights and the same mask."""

import pytest
import torch

from anymask.contract.data import batch_of, picture_schema
from anymask.engine import Step, split
from anymask.interop.hugging_face import ENCODER_BLOCKS, blocks
from anymask.parts.positions import Table
from anymask.recipe import P, Size, find

transformers = pytest.importorskip("transformers")
PATCH, GRID = 8, 4


def theirs():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        image_size=PATCH * GRID,
        patch_size=PATCH,
        encoder_stride=PATCH,
        layer_norm_eps=1e-6,
    )
    model = transformers.ViTForMaskedImageModeling(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def our_weights(model):
    """Their weights under our names. Their CLS token has a position, which goes into ours; their head makes the pixels
    of a patch channel by channel (PixelShuffle), ours pixel by pixel."""
    their = model.state_dict()
    embedded, place = "vit.embeddings.patch_embeddings.projection.", their["vit.embeddings.position_embeddings"]
    head = their["decoder.0.weight"][..., 0, 0].unflatten(0, (3, PATCH * PATCH)).transpose(0, 1).flatten(0, 1)
    bias = their["decoder.0.bias"].unflatten(0, (3, PATCH * PATCH)).T.flatten()
    return {
        "stem.embed.image.weight": their[embedded + "weight"].permute(0, 2, 3, 1).flatten(1),
        "stem.embed.image.bias": their[embedded + "bias"],
        "stem.positions.table": place[:, 1:],
        "encoder.prefix": (their["vit.embeddings.cls_token"] + place[:, :1])[0],
        "encoder.norm.weight": their["vit.layernorm.weight"],
        "encoder.norm.bias": their["vit.layernorm.bias"],
        "corruption.token": their["vit.embeddings.mask_token"].flatten(),
        "decoder.heads.heads.pixels.weight": head,
        "decoder.heads.heads.pixels.bias": bias,
        **blocks(their, ENCODER_BLOCKS, "encoder.blocks."),
    }


def test_simmim(record):
    model = theirs()
    recipe = find("simmim").but({"tokenizer.patch": PATCH, "positions": P(Table)})
    ours = recipe.build(picture_schema((3, PATCH * GRID, PATCH * GRID)), Size(48, 3, 4, 48, 1, 4)).eval()
    ours.load_state_dict(our_weights(model))

    batch = batch_of(ours.schema)
    tokens = ours.tokenizer(batch)
    noise = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1))
    mask = split(noise, 0.4, keep=ours.corruption.keep)
    pixels = ours.tokenizer.whole(tokens.x["image"], tokens.grid)
    with torch.no_grad():
        own = ours.learn(Step(batch, tokens, mask, aux={}))
        their = model(pixels, bool_masked_pos=~mask.visible)
        code = model.vit(pixels, bool_masked_pos=~mask.visible).last_hidden_state

    patches = their.reconstruction.unflatten(2, (GRID, PATCH)).unflatten(4, (GRID, PATCH))  # B C h p w p
    patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # B N ppC
    asked = patches.gather(1, mask.ask[..., None].expand(-1, -1, patches.shape[-1]))
    gaps = {
        "latent": (torch.cat([own.latent.prefix, own.latent.x], 1) - code).abs().max().item(),
        "reconstruction": (own.pred["pixels"] - asked).abs().max().item(),
        "loss": (own.loss - their.loss).abs().item(),
    }
    record("simmim", "transformers ViTForMaskedImageModeling", gaps)
    assert max(gaps.values()) < 1e-5, gaps
