"""Exported encoders give, where they are read, what they give here."""

import json

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import load_file

from anymask.contract.data import batch_of, picture_schema
from anymask.interop import InteropError, export, from_hugging_face, initialise, to_hugging_face
from anymask.parts.encoders import ViT, within_kind
from anymask.parts.positions import Table
from anymask.recipe import P, Size, find
from anymask.run import Run, RunError

SIZE = Size(48, 2, 4, 32, 1, 2)

# What timm's VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=12, num_heads=3, num_classes=0) has.
TIMM_TINY_4 = {
    "cls_token": (1, 1, 192),
    "pos_embed": (1, 65, 192),
    "patch_embed.proj.weight": (192, 3, 4, 4),
    "patch_embed.proj.bias": (192,),
    "norm.weight": (192,),
    "norm.bias": (192,),
}
TIMM_BLOCK = {
    "norm1.weight": (192,),
    "norm1.bias": (192,),
    "attn.qkv.weight": (576, 192),
    "attn.qkv.bias": (576,),
    "attn.proj.weight": (192, 192),
    "attn.proj.bias": (192,),
    "norm2.weight": (192,),
    "norm2.bias": (192,),
    "mlp.fc1.weight": (768, 192),
    "mlp.fc1.bias": (768,),
    "mlp.fc2.weight": (192, 768),
    "mlp.fc2.bias": (192,),
}


def made(tmp_path, recipe="mae", shape=(3, 32, 32), size=SIZE):
    """A run with weights that no fresh model has."""
    run = Run(tmp_path / "run", find(recipe), size, picture_schema(shape), settings={"seed": 1})
    run.save()
    model = run.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    run.save_weights(model)
    return run


def prepared(folder, images):
    """What their image processor makes of raw images, in plain NumPy from its configuration."""
    how = json.loads((folder / "preprocessor_config.json").read_text())
    assert how["size"] == {"height": images.shape[2], "width": images.shape[3]}
    x = images.numpy().astype(np.float64) * (how["rescale_factor"] if how["do_rescale"] else 1)
    mean, std = (np.array(how[name])[:, None, None] for name in ("image_mean", "image_std"))
    return torch.tensor((x - mean) / std, dtype=torch.float32)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 40)])
def test_hugging_face_vit_gives_the_same(tmp_path, shape):
    transformers = pytest.importorskip("transformers")
    run = made(tmp_path, shape=shape)
    folder = export(run, "hf", tmp_path / "hf")
    vit = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch = batch_of(run.schema)
    with torch.no_grad():
        their = vit(prepared(folder, batch["image"])).last_hidden_state
    ours = run.model().embed(batch)
    gap = (torch.cat([ours.prefix, ours.x], 1) - their).abs().max().item()
    print(f"ViTModel: {gap:.1e}")
    assert gap < 1e-5


def test_their_image_processor_reads_the_configuration(tmp_path):
    pytest.importorskip("transformers")
    module = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")
    run = made(tmp_path)
    folder = export(run, "hf", tmp_path / "hf")
    images = batch_of(run.schema)["image"]
    processor = module.ViTImageProcessorPil.from_pretrained(folder)
    pixels = processor(
        images=[image.numpy() for image in images], return_tensors="pt", input_data_format="channels_first"
    )
    gap = (pixels["pixel_values"] - prepared(folder, images)).abs().max().item()
    print(f"image processor: {gap:.1e}")
    assert gap < 1e-5


def test_round_trip(tmp_path):
    """ViTMAEForPreTraining -> anymask -> ViTModel: the outputs of their two models are equal."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, image_size=32)
    decoder = dict(
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
    )
    config = transformers.ViTMAEConfig(**settings, **decoder, patch_size=8, mask_ratio=0.0, layer_norm_eps=1e-6)
    mae = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in mae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        mae.decoder.decoder_pos_embed[:, 0] = 0
    mae.config.mask_ratio = 0.75  # saved with a ratio that can be trained with
    mae.save_pretrained(tmp_path / "mae")
    recipe, size, weights = from_hugging_face(tmp_path / "mae")
    model = recipe.build(picture_schema((3, 32, 32)), size).eval()
    initialise(model, weights)
    vit = transformers.ViTModel.from_pretrained(
        to_hugging_face(model, tmp_path / "vit"), add_pooling_layer=False
    ).eval()

    images = prepared(tmp_path / "vit", batch_of(model.schema)["image"])
    mae.config.mask_ratio = 0.0
    with torch.no_grad():
        before = mae.vit(images, noise=torch.linspace(0, 1, 16).expand(4, -1)).last_hidden_state
        after = vit(images).last_hidden_state
    print(f"round trip: {(before - after).abs().max():.1e}")
    assert (before - after).abs().max() < 1e-5


def test_timm_names_and_shapes(tmp_path):
    run = made(tmp_path, size=Size(192, 12, 3, 32, 1, 2))
    file = export(run, "timm", tmp_path / "vit.safetensors")
    expected = TIMM_TINY_4 | {f"blocks.{i}.{name}": shape for i in range(12) for name, shape in TIMM_BLOCK.items()}
    assert {name: tuple(tensor.shape) for name, tensor in load_file(file).items()} == expected
    with safetensors.safe_open(file, "pt") as opened:
        about = opened.metadata()
    arguments = json.loads(about["timm"])
    assert arguments == {
        "img_size": [32, 32],
        "patch_size": 4,
        "in_chans": 3,
        "embed_dim": 192,
        "depth": 12,
        "num_heads": 3,
        "mlp_ratio": 4.0,
    }
    assert json.loads(about["input"])["mean"] == [m / 255 for m in run.schema.fields["image"].mean]


def timm_forward(w, x, depth, heads):
    """timm's VisionTransformer.forward_features, step by step from its state dict (its layer norms add 1e-6)."""
    from torch.nn.functional import conv2d, gelu, layer_norm, scaled_dot_product_attention

    width = w["cls_token"].shape[-1]
    norm = lambda x, name: layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)
    linear = lambda x, name: x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    patch = w["patch_embed.proj.weight"].shape[-1]
    x = conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
    for i in range(depth):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = qkv.reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        x = x + linear(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), f"blocks.{i}.attn.proj")
        hidden = gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")


@pytest.mark.parametrize("positions", [None, Table])
def test_timm_weights_give_the_same(tmp_path, positions):
    recipe = find("mae") if positions is None else find("mae").but(positions=P(positions))
    run = made(tmp_path, recipe)
    weights = load_file(export(run.model(), "timm", tmp_path / "out"))
    batch, image = batch_of(run.schema), run.schema.fields["image"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (image.mean, image.std))
    ours = run.model().embed(batch)
    theirs = timm_forward(weights, (batch["image"].float() - mean) / std, SIZE.depth, SIZE.heads)
    gap = (torch.cat([ours.prefix, ours.x], 1) - theirs).abs().max().item()
    print(f"timm: {gap:.1e}")
    assert gap < 1e-5


def test_safetensors(tmp_path):
    run = made(tmp_path)
    folder = export(str(run.folder), "safetensors", tmp_path / "out")
    weights, about = load_file(folder / "encoder.safetensors"), json.loads((folder / "preprocess.json").read_text())
    state = run.model().state_dict()
    assert set(weights) == {n for n in state if n.split(".")[0] in ("tokenizer", "stem", "encoder")}
    assert all(torch.equal(weights[n], state[n]) for n in weights)
    assert about["fields"]["image"]["scale"] == 255 and about["patch"] == 4
    assert about["recipe"]["slug"] == "mae" and about["size"]["width"] == 48


def test_errors(tmp_path):
    run = made(tmp_path)
    with pytest.raises(InteropError, match=r"no format 'keras'; there is: safetensors, timm, hf, onnx"):
        export(run, "keras", tmp_path / "x")
    with pytest.raises(InteropError, match="timm has no option 'pool'; it has: none"):
        export(run, "timm", tmp_path / "x", pool="cls")
    with pytest.raises(RunError, match="no run folder"):
        export(tmp_path / "nowhere", "timm", tmp_path / "x")
    schema = picture_schema((3, 32, 32))

    class Own(ViT):
        pass

    for change, message in (
        ({"encoder": P(Own)}, "the encoder is Own, not ViT; export it with --to safetensors"),
        ({"encoder.cls": False}, "this one has 0 such tokens"),
        ({"encoder.registers": 4}, "this one has 5 such tokens"),
        ({"encoder.within": within_kind}, "its own attention"),
    ):
        with pytest.raises(InteropError, match=message):
            export(find("mae").but(change).build(schema, SIZE), "hf", tmp_path / "x")
    assert not (tmp_path / "x").exists()
