"""`mae` against Hugging Face's ViTMAEForPreTraining: the same weights and the same noise give the same numbers."""

import json

import pytest
import torch
import torch.nn.functional as F
from reference import mae_positions
from safetensors.torch import load_file, save_file

from anymask.contract.data import batch_of, picture_schema
from anymask.engine import Step, split
from anymask.interop import InteropError, from_hugging_face, initialise
from anymask.parts.positions import Table

transformers = pytest.importorskip("transformers")

SETTINGS = dict(
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=192,
    image_size=32,
    patch_size=8,
    decoder_hidden_size=32,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=128,
    mask_ratio=0.75,
    norm_pix_loss=True,
    layer_norm_eps=1e-6,
)


def theirs(**changes):
    """A model whose every weight is drawn, also those that start at zero or one, with the positions of MAE's own code
    (transformers 5 leaves them zero in a fresh model)."""
    torch.manual_seed(0)
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**{**SETTINGS, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        grid = model.config.image_size // model.config.patch_size
        for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
            table[0, 1:] = torch.from_numpy(mae_positions(table.shape[-1], grid, grid))
    return model


def both(tmp_path, shape=(3, 32, 32), **changes):
    """Their model; ours with their weights; and a step of ours with the mask of the noise."""
    model = theirs(**changes)
    model.save_pretrained(tmp_path)
    recipe, size, weights = from_hugging_face(tmp_path)
    ours = recipe.build(picture_schema(shape), size).eval()
    assert initialise(ours, weights) == []
    batch = batch_of(ours.schema)
    tokens = ours.tokenizer(batch)
    noise = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1))
    mask = split(noise, 1 - recipe.mask.args["ratio"], keep=ours.corruption.keep)
    pixels = ours.tokenizer.whole(tokens.x["image"], tokens.grid)
    return model, ours, Step(batch, tokens, mask, aux={}), pixels, noise


def compare(record, model, ours, step, pixels, noise, tolerance=1e-5, **options):
    with torch.no_grad():
        their = model(pixels, noise=noise, **options)
        code = model.vit(pixels, noise=noise, **options)
        own = ours.learn(step)
    latent = torch.cat([own.latent.prefix, own.latent.x], 1)
    pred = torch.zeros_like(their.logits).scatter(
        1, step.mask.ask[..., None].expand_as(own.pred["pixels"]), own.pred["pixels"]
    )
    gaps = {
        "latent": (latent - code.last_hidden_state).abs().max().item(),
        "reconstruction": (pred - their.logits * their.mask[..., None]).abs().max().item(),
        "loss": (own.loss - their.loss).abs().item(),
    }
    record("mae", "transformers ViTMAEForPreTraining", gaps)
    assert torch.equal((~step.mask.visible).float(), their.mask)
    assert max(gaps.values()) < tolerance, gaps


@pytest.mark.parametrize("normalise", [True, False])
def test_square(record, tmp_path, normalise):
    compare(record, *both(tmp_path, norm_pix_loss=normalise))


def test_their_default_epsilon(record, tmp_path):
    """1e-12 in layer norms in place of 1e-6."""
    compare(record, *both(tmp_path, layer_norm_eps=1e-12), tolerance=3e-4)


def test_not_square(record, tmp_path):
    """Encoder positions are interpolated in two dimensions by both. Their decoder interpolates over the flat sequence,
    as if the grid were one line: for the comparison ours is given those positions."""
    model, ours, step, pixels, noise = both(tmp_path, (3, 24, 40))
    grid = step.tokens.grid
    assert grid == (3, 5)
    line = model.decoder.decoder_pos_embed[:, 1:].transpose(1, 2)[:, :, None]  # 1 d 1 N
    line = F.interpolate(line, size=(1, 15), mode="bicubic", align_corners=False)
    table = Table(ours, width=32, grid=grid, learned=False)
    table.table.data = line.flatten(2).transpose(1, 2)
    ours.decoder.positions = table
    compare(record, model, ours, step, pixels, noise, interpolate_pos_encoding=True)


def test_more_patches_than_trained_with(tmp_path):
    """The encoder alone, on a larger image."""
    model, ours, *_ = both(tmp_path)
    tokens = ours.tokenizer(batch_of(picture_schema((3, 48, 64))))
    pixels = ours.tokenizer.whole(tokens.x["image"], tokens.grid)
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        order = torch.linspace(0, 1, tokens.shape[1]).expand(tokens.shape)
        code = model.vit(pixels, noise=order, interpolate_pos_encoding=True).last_hidden_state
    assert (ours.embed(batch_of(picture_schema((3, 48, 64)))).x - code[:, 1:]).abs().max() < 1e-5


def test_latents_are_in_the_order_of_the_noise():
    noise = torch.rand(5, 40)
    assert torch.equal(split(noise, 0.25).keep, noise.argsort(1)[:, :10])
    assert torch.equal(split(noise, 0.25).ask, noise.argsort(1)[:, 10:])


def test_fixed_positions_are_theirs(tmp_path):
    """The sin-cos table of a fresh model of ours is what checkpoints of MAE hold."""
    theirs().save_pretrained(tmp_path)
    recipe, size, weights = from_hugging_face(tmp_path)
    ours = recipe.build(picture_schema((3, 32, 32)), size)
    assert (ours.stem.positions.table - weights["stem.positions.table"]).abs().max() < 1e-6
    assert (ours.decoder.positions.table - weights["decoder.positions.table"]).abs().max() < 1e-6


def rename(tensors, *pairs):
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def test_names_of_public_checkpoints(tmp_path):
    """Their decoder's blocks are `decoder.decoder_layers.N.attention.attention.query`; transformers 5 has names of its
    own in memory. All give the same weights."""
    theirs().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    expected = from_hugging_face(tmp_path).weights
    public = rename(saved, ("decoder.decoder_encoder.layer.", "decoder.decoder_layers."))
    assert "decoder.decoder_layers.0.attention.attention.query.weight" in public
    for names in (public, {n: t.clone() for n, t in theirs().state_dict().items()}):
        save_file(names, tmp_path / "model.safetensors")
        found = from_hugging_face(tmp_path).weights
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(InteropError, match=r"it has no config.json"):
        from_hugging_face(tmp_path)
    theirs().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"model_type": "beit"}, "has model_type 'beit'; weights of ViT-MAE models with 'vit_mae' can be read"),
        ({"hidden_act": "relu"}, "has hidden_act 'relu'"),
        ({"decoder_intermediate_size": 64}, "has decoder_intermediate_size 64"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(InteropError, match=message):
            from_hugging_face(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["vit.layernorm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InteropError, match=r"the weights lack layernorm.weight"):
        from_hugging_face(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InteropError, match=r"no model.safetensors .*save_pretrained"):
        from_hugging_face(tmp_path)


def test_initialise_says_what_does_not_fit(tmp_path):
    theirs().save_pretrained(tmp_path)
    recipe, size, weights = from_hugging_face(tmp_path)
    grey = recipe.build(picture_schema((1, 32, 32)), size)
    before = {name: tensor.clone() for name, tensor in grey.state_dict().items()}
    with pytest.raises(
        InteropError, match=r"stem.embed.image.weight is \(48, 192\), the model has \(48, 64\).*channels"
    ):
        initialise(grey, weights)
    assert all(torch.equal(tensor, before[name]) for name, tensor in grey.state_dict().items())
    deeper = recipe.build(picture_schema((3, 32, 32)), size._replace(depth=4))
    with pytest.raises(InteropError, match=r"nothing for encoder\.blocks\.3"):
        initialise(deeper, weights)


def test_an_encoder_for_another_recipe(tmp_path):
    """Only stem and encoder are taken where the decoder is another; positions too, where it has no table."""
    from anymask.recipe import find

    theirs().save_pretrained(tmp_path)
    _, size, weights = from_hugging_face(tmp_path)
    model = find("simmim").but({"tokenizer.patch": 8}).build(picture_schema((3, 32, 32)), size)
    notes = initialise(model, weights)
    assert notes == [
        "decoder: the recipe's own, not from the weights",
        "positions: the recipe's own, not from the weights",
    ]
    assert torch.equal(model.encoder.prefix, weights["encoder.prefix"])


def test_pretraining_begins_with_them(tmp_path):
    """`init=` a Hugging Face folder: its size, patch and positions are taken with its weights."""
    import numpy as np

    from anymask.train import pretrain

    model = theirs()
    model.save_pretrained(tmp_path / "their")
    images = np.random.default_rng(0).integers(0, 255, (8, 3, 32, 32), dtype=np.uint8)
    run = pretrain(
        images, init=tmp_path / "their", out=tmp_path / "run", steps=1, batch_size=4, changes={"optimiser.lr": 1e-9},
        probe_labels=None, progress=False, precision="fp32",
    )  # fmt: skip
    expected = from_hugging_face(tmp_path / "their").weights
    found = run.model().state_dict()
    assert run.size.width == 48 and expected.keys() <= found.keys()
    for name in ("encoder.blocks.2.mlp.fc1.weight", "stem.positions.table", "decoder.token"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)
