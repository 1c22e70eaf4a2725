"""Parts of `audio-mae` against Hugging Face with the same weights: the decoder's shifted windows against Swin's layers
(their relative position biases at 0), the embedding of spectrogram patches against AST's. No whole model: nobody else's
Audio-MAE is installed, so nothing is recorded."""

import pytest
import torch

from anymask.contract.data import SMALL, example_schema
from anymask.engine import Step, everything
from anymask.recipe import find

transformers = pytest.importorskip("transformers")
GRID = (8, 12)


def test_windows_are_swins():
    from transformers.models.swin.modeling_swin import SwinLayer

    torch.manual_seed(0)
    changes = {"decoder.shift": (2, 2), "decoder.depth": 4}
    decoder = find("audio-mae").but(changes).build(example_schema("audio"), SMALL).decoder.eval()
    width, heads = SMALL.decoder_width, SMALL.decoder_heads
    config = transformers.SwinConfig(
        embed_dim=width, window_size=4, layer_norm_eps=1e-6, hidden_dropout_prob=0.0, attn_implementation="eager"
    )
    x = torch.randn(3, GRID[0] * GRID[1], width)
    y = x
    for number, block in enumerate(decoder.blocks):
        layer = SwinLayer(config, width, GRID, heads, shift_size=2 * (number % 2)).eval()
        own = {name: p + 0.1 * torch.randn_like(p) for name, p in block.state_dict().items()}
        block.load_state_dict(own)
        q, k, v = own["attn.qkv.weight"].chunk(3)
        q0, k0, v0 = own["attn.qkv.bias"].chunk(3)
        given = {
            "attention.q_proj.weight": q, "attention.k_proj.weight": k, "attention.v_proj.weight": v,
            "attention.q_proj.bias": q0, "attention.k_proj.bias": k0, "attention.v_proj.bias": v0,
            "attention.o_proj.weight": own["attn.proj.weight"], "attention.o_proj.bias": own["attn.proj.bias"],
            "layernorm_before.weight": own["norm1.weight"], "layernorm_before.bias": own["norm1.bias"],
            "layernorm_after.weight": own["norm2.weight"], "layernorm_after.bias": own["norm2.bias"],
            **{f"mlp.{n}": own[f"mlp.{n}"] for n in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")},
        }  # fmt: skip
        missing, unknown = layer.load_state_dict(given, strict=False)
        assert not unknown and all("relative_position" in name for name in missing)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if "relative_position" in name:
                    parameter.zero_()
            y = layer(y, GRID)[0]
    with torch.no_grad():
        ours = decoder.attended(x, None, GRID)
    assert (y - x).abs().max() > 1
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-4)


def test_patches_are_embedded_as_asts():
    from transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer import (
        ASTPatchEmbeddings,
    )

    torch.manual_seed(0)
    model = find("audio-mae").but({"stem.positions": False}).build(example_schema("audio"), SMALL)
    config = transformers.ASTConfig(hidden_size=SMALL.width, patch_size=4, frequency_stride=4, time_stride=4)
    theirs = ASTPatchEmbeddings(config)
    linear = model.stem.embed["audio"]
    with torch.no_grad():
        theirs.projection.weight.copy_(linear.weight.unflatten(1, (1, 4, 4)))
        theirs.projection.bias.copy_(linear.bias)
    wave = 0.1 * torch.randn(2, 1_600)
    tokens = model.tokenizer({"audio": wave})
    spectrogram = model.tokenizer.whole(tokens.x["audio"], tokens.grid)[:, 0]  # B bands frames
    seen = model.stem(Step({}, tokens, everything(tokens), aux={}))
    torch.testing.assert_close(seen.x, theirs(spectrogram.transpose(1, 2)), rtol=1e-4, atol=1e-4)
