"""`beit-v2` against Hugging Face's BeitForMaskedImageModeling: the same weights, mask and visual words."""

import pytest
import torch

from anymask.contract.data import batch_of, picture_schema
from anymask.engine import Step, split
from anymask.interop.hugging_face import blocks
from anymask.parts.positions import Table
from anymask.recipe import P, Size, find

transformers = pytest.importorskip("transformers")
PATCH, GRID, WORDS = 8, 4, 16


def theirs():
    torch.manual_seed(0)
    config = transformers.BeitConfig(
        vocab_size=WORDS, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192,
        image_size=PATCH * GRID, patch_size=PATCH, layer_norm_eps=1e-6, use_mask_token=True,
        use_absolute_position_embeddings=True, layer_scale_init_value=0.0, drop_path_rate=0.0,
    )  # fmt: skip
    model = transformers.BeitForMaskedImageModeling(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def our_weights(model):
    """Their weights under our names. Their keys have no bias; their CLS token has a position, which goes into ours."""
    their = model.state_dict()
    for name in [name for name in their if name.endswith("q_proj.bias")]:
        their[name.replace("q_proj", "k_proj")] = torch.zeros_like(their[name])
    embedded, place = "beit.embeddings.patch_embeddings.projection.", their["beit.embeddings.position_embeddings"]
    return {
        "stem.embed.image.weight": their[embedded + "weight"].permute(0, 2, 3, 1).flatten(1),
        "stem.embed.image.bias": their[embedded + "bias"],
        "stem.positions.table": place[:, 1:],
        "encoder.prefix": (their["beit.embeddings.cls_token"] + place[:, :1])[0],
        "encoder.norm.weight": their["layernorm.weight"],
        "encoder.norm.bias": their["layernorm.bias"],
        "corruption.token": their["beit.embeddings.mask_token"].flatten(),
        "decoder.heads.heads.codes.weight": their["lm_head.weight"],
        "decoder.heads.heads.codes.bias": their["lm_head.bias"],
        **blocks(their, r"beit\.layers\.(\d+)\.", "encoder.blocks."),
    }


def test_beit(record):
    model = theirs()
    schema, size = picture_schema((3, PATCH * GRID, PATCH * GRID)), Size(48, 3, 4, 48, 1, 4)
    patch = {"tokenizer.patch": PATCH}
    (stage,) = find("beit-v2").stages["stages"]
    teacher = find("mae").but(patch).build(schema, size)
    words = stage.but({**patch, "decoder.codes": WORDS}).build(schema, size, earlier={"mae": teacher})
    recipe = find("beit-v2").but({**patch, "positions": P(Table)})
    ours = recipe.build(schema, size, earlier={"beit-v2-words": words}).eval()
    known = our_weights(model)
    rest = {name for name in ours.state_dict() if not name.startswith(("target.", "extras."))}
    assert rest == set(known)  # the words and the branch by way of CLS are not in theirs
    ours.load_state_dict(known, strict=False)

    batch = batch_of(schema)
    tokens = ours.tokenizer(batch)
    noise = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1))
    mask = split(noise, 0.6, keep=ours.corruption.keep)
    pixels = ours.tokenizer.whole(tokens.x["image"], tokens.grid)
    hidden = ~mask.visible
    with torch.no_grad():
        own = ours.learn(Step(batch, tokens, mask, aux={}))
        place = torch.zeros(hidden.shape, dtype=torch.long).scatter(1, mask.ask, own.goal["codes"])
        their = model(pixels, bool_masked_pos=hidden, labels=place[hidden])
        code = model.layernorm(model.beit(pixels, bool_masked_pos=hidden).last_hidden_state)
    scores = their.logits.gather(1, mask.ask[..., None].expand(-1, -1, WORDS))
    gaps = {
        "codes": (torch.cat([own.latent.prefix, own.latent.x], 1) - code).abs().max().item(),
        "scores": (own.pred["codes"] - scores).abs().max().item(),
        "loss": (own.error["codes"].mean() - their.loss).abs().item(),
    }
    assert own.goal["codes"].unique().numel() > 1
    record("beit-v2", "transformers BeitForMaskedImageModeling", gaps)
    assert max(gaps.values()) < 1e-5, gaps
