"""Vision models of Hugging Face, given as folders, as frozen teachers."""

import json

import numpy as np
import pytest
import torch

from anymask.contract.data import SMALL, batch_of, picture_schema
from anymask.interop.plain import InteropError
from anymask.recipe import RecipeError, Size, find
from anymask.run import Run
from anymask.train import pretrain

transformers = pytest.importorskip("transformers")
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
WIDE = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, patch_size=4)
MADE = {
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig(image_size=16, **WIDE)),
    "vit_mae": lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(image_size=16, **WIDE)),
    "beit": lambda: transformers.BeitModel(transformers.BeitConfig(image_size=16, **WIDE), add_pooling_layer=False),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(image_size=16, **WIDE)),
    "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=16, **WIDE)),
    "clip_both": lambda: transformers.CLIPModel(transformers.CLIPConfig(
        vision_config=dict(image_size=16, **WIDE), text_config=dict(hidden_size=8, num_hidden_layers=1, vocab_size=9)
    )),
    "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(image_size=16, **WIDE)),
}


def folder(path, network, how=True):
    network.save_pretrained(path)
    if how:
        (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return str(path)


def student(teacher, shape=(3, 16, 16), patch=4, recipe="dbot", **changes):
    torch.manual_seed(0)
    schema = picture_schema(shape)
    changes = {"target.teacher": teacher, "tokenizer.patch": patch, "stages": (), "mask.fewest": 1, **changes}
    return find(recipe).but(changes).build(schema, SMALL), batch_of(schema, 3)


@pytest.mark.parametrize("name", list(MADE))
def test_codes_are_those_of_the_network_itself(name, tmp_path):
    torch.manual_seed(1)
    network = MADE[name]().eval()
    model, batch = student(folder(tmp_path, network))
    step = model.hide(batch)
    low, high = (getattr(model.schema.fields["image"], end) for end in ("low", "high"))
    pixels = (batch["image"].float() - low) / (high - low)
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    if name == "vit_mae":
        network.config.mask_ratio = 0.0
    given = {"noise": torch.arange(16.0).expand(3, -1)} if name == "vit_mae" else {}
    with torch.no_grad():
        codes = getattr(network, "vision_model", network)(pixel_values=pixels, **given).last_hidden_state[:, -16:]
    codes = torch.nn.functional.layer_norm(codes, codes.shape[-1:])
    asked = codes.gather(1, step.mask.ask[..., None].expand(-1, -1, codes.shape[-1]))
    torch.testing.assert_close(model.target(step, model)["codes"], asked, atol=1e-4, rtol=1e-4)
    assert model.target.heads["codes"].width == 24


def test_other_sizes_and_grey_images_are_resized(tmp_path):
    where = folder(tmp_path, MADE["vit"]())
    model, batch = student(where, shape=(1, 12, 18), patch=3)
    step = model.hide(batch)
    pixels = model.target.encoder.pixels(step, model)
    assert pixels.shape == (3, 3, 16, 24)
    grey = pixels * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    torch.testing.assert_close(grey[:, 0], grey[:, 2])
    assert grey.min() > -1e-5 and grey.max() < 1 + 1e-5
    assert model(batch).loss.isfinite()


def test_a_run_learns_from_it_and_holds_it(tmp_path):
    network = MADE["clip"]()
    where = folder(tmp_path / "clip", network)
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    run = pretrain(
        images, recipe=find("dbot").but(stages=()), steps=3, size=SMALL, out=tmp_path / "r", probe_labels=None,
        progress=False, changes={"target.teacher": where, "tokenizer.patch": 4, "target.top": 2, "mask.fewest": 1},
    )  # fmt: skip
    held = Run.open(run.folder).model().target.encoder.network.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(held[name], value)
    assert Run.open(run.folder).model()(batch_of(run.schema, 2)).loss.isfinite()


def test_a_larger_run_teaches_if_it_is_frozen(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    how = dict(steps=2, probe_labels=None, progress=False, changes={"tokenizer.patch": 4, "mask.fewest": 1})
    large = pretrain(images, recipe="mae", size=Size(48, 3, 4, 16, 1, 2), out=tmp_path / "large", **how)
    changes = {**how.pop("changes"), "target.teacher": str(large.folder)}
    recipe = find("dbot").but(stages=())
    run = pretrain(images, recipe=recipe, size=SMALL, out=tmp_path / "small", changes=changes, **how)
    for mine, its in zip(run.model().target.encoder.parameters(), large.model().encoder.parameters(), strict=True):
        assert torch.equal(mine, its)
    with pytest.raises(RecipeError, match="freeze it"):
        student(str(large.folder), **{"target.decay": 0.9})


def test_what_cannot_teach_is_refused(tmp_path):
    lacks = folder(tmp_path / "a", MADE["vit"](), how=False)
    with pytest.raises(InteropError, match="has to say image_mean"):
        student(lacks)
    few = dict(image_size=16, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=2)
    with pytest.raises(InteropError, match="one token a patch"):
        student(folder(tmp_path / "b", transformers.SwinModel(transformers.SwinConfig(**few))))
    text = transformers.BertModel(transformers.BertConfig(vocab_size=9, **{k: WIDE[k] for k in list(WIDE)[:4]}))
    with pytest.raises(InteropError, match="no vision model"):
        student(folder(tmp_path / "c", text))
    with pytest.raises(InteropError, match="channels"):
        student(folder(tmp_path / "d", MADE["vit"]()), shape=(2, 16, 16))
    with pytest.raises(RecipeError, match="freeze it"):
        student(folder(tmp_path / "d", MADE["vit"]()), recipe="dbot", **{"target.decay": 0.9})
    (tmp_path / "d" / "model.safetensors").unlink()
    with pytest.raises(InteropError, match="cannot be read"):
        student(str(tmp_path / "d"))
