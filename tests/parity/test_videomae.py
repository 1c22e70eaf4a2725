"""`videomae` against Hugging Face's VideoMAEForPreTraining: the same weights and the same tubes give the same numbers.

Theirs numbers the cubes of a clip one after another and takes sines and cosines of that number; ours is given their
table. Their decoder has an epsilon of its own.
"""

from dataclasses import replace

import pytest
import torch

from anymask import keyed
from anymask.contract.data import batch_of, example_schema
from anymask.parts.positions import Table
from anymask.recipe import P, Size, find

transformers = pytest.importorskip("transformers")

SIZE = Size(48, 3, 4, 32, 2, 2)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def theirs():
    """A model whose every weight is drawn, also those that start at zero or one."""
    torch.manual_seed(0)
    config = transformers.VideoMAEConfig(
        hidden_size=SIZE.width, num_hidden_layers=SIZE.depth, num_attention_heads=SIZE.heads,
        intermediate_size=4 * SIZE.width, image_size=32, patch_size=8, num_frames=8, tubelet_size=2,
        decoder_hidden_size=SIZE.decoder_width, decoder_num_hidden_layers=SIZE.decoder_depth,
        decoder_num_attention_heads=SIZE.decoder_heads, decoder_intermediate_size=4 * SIZE.decoder_width,
        layer_norm_eps=1e-6, use_mean_pooling=False, norm_pix_loss=True,
    )  # fmt: skip
    model = transformers.VideoMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def block(ours, their):
    """Weights of one transformer block."""
    own = their.attention.attention
    none = torch.zeros(len(own.key.weight))  # their keys have no bias
    ours.attn.qkv.weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
    ours.attn.qkv.bias.copy_(torch.cat([own.query.bias, none, own.value.bias]))
    linear = (ours.attn.proj, their.attention.output.dense), (ours.mlp.fc1, their.intermediate.dense)
    linear += ((ours.mlp.fc2, their.output.dense),)
    norms = (ours.norm1, their.layernorm_before), (ours.norm2, their.layernorm_after)
    for a, b in (*linear, *norms):
        a.load_state_dict(b.state_dict())


@torch.no_grad()
def filled(model, their):
    """Our model with their weights."""
    cubes = their.videomae.embeddings.patch_embeddings.projection  # D C t h w
    model.stem.embed["video"].weight.copy_(cubes.weight.permute(0, 2, 3, 4, 1).flatten(1))
    model.stem.embed["video"].bias.copy_(cubes.bias)
    model.stem.positions.table.copy_(their.videomae.embeddings.position_embeddings)
    for ours, layer in zip(model.encoder.blocks, their.videomae.encoder.layer, strict=True):
        block(ours, layer)
    model.encoder.norm.load_state_dict(their.videomae.layernorm.state_dict())
    model.decoder.embed.weight.copy_(their.encoder_to_decoder.weight)
    model.decoder.embed.bias.zero_()
    model.decoder.token.copy_(their.mask_token[0, 0])
    model.decoder.positions.table.copy_(their.position_embeddings)
    for ours, layer in zip(model.decoder.blocks, their.decoder.decoder_layers, strict=True):
        block(ours, layer)
    model.decoder.norm.load_state_dict(their.decoder.norm.state_dict())
    model.decoder.norm.eps = their.decoder.norm.eps
    model.decoder.heads.heads["pixels"].load_state_dict(their.decoder.head.state_dict())
    return model.eval()


def test_videomae(record):
    their = theirs()
    field = replace(
        example_schema("video").fields["video"], shape=(3, 8, 32, 32),
        mean=tuple(255 * m for m in MEAN), std=tuple(255 * s for s in STD),
    )  # fmt: skip
    schema = replace(example_schema("video"), fields={"video": field})
    recipe = find("videomae").but({"tokenizer.patch": (2, 8, 8)}, positions=P(Table, learned=False))
    model = filled(recipe.build(schema, SIZE), their)
    batch = batch_of(schema)
    noise = torch.randint(0, 256, batch["video"].shape, generator=torch.Generator().manual_seed(2))
    batch = {"video": noise.to(torch.uint8), "index": batch["index"], "key": keyed.keys(3, 0, batch["index"])}
    with torch.no_grad():
        step = model.learn(model.hide(batch))
        pixels = ((batch["video"].float() - model.tokenizer.mean) / model.tokenizer.std).transpose(1, 2)  # B T C H W
        hidden = ~step.mask.visible
        assert hidden.float().mean() > 0.9 and (hidden.unflatten(1, (4, 16)) == hidden[:, None, :16]).all()
        expected = their(pixels, bool_masked_pos=hidden)
        codes = their.videomae(pixels, bool_masked_pos=hidden).last_hidden_state
    order, asked = step.mask.keep.argsort(1), step.mask.ask.argsort(1)
    latent = step.latent.x.gather(1, order[..., None].expand_as(step.latent.x))
    made = step.pred["pixels"]
    gaps = {
        "latent": (latent - codes).abs().max().item(),
        "reconstruction": (made.gather(1, asked[..., None].expand_as(made)) - expected.logits).abs().max().item(),
        "loss": (step.loss - expected.loss).abs().item(),
    }
    record("videomae", "transformers VideoMAEForPreTraining", gaps)
    assert max(gaps.values()) < 1e-5, gaps
