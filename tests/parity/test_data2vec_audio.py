"""The feature encoder of `data2vec-2-speech` against that of Hugging Face's Data2VecAudioModel: the same weights. It
is a part of the model, so nothing is recorded."""

import pytest
import torch

from anymask.contract.data import example_schema
from anymask.engine import Step, everything
from anymask.recipe import Size, find

transformers = pytest.importorskip("transformers")
CHANNELS, WIDTH = 16, 24


def theirs():
    torch.manual_seed(0)
    config = transformers.Data2VecAudioConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=(CHANNELS,) * 7,
        num_conv_pos_embeddings=1, conv_pos_kernel_size=3, num_conv_pos_embedding_groups=2, feat_proj_dropout=0.0,
    )  # fmt: skip
    model = transformers.Data2VecAudioModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def our_weights(model):
    ours = {}
    for n, layer in enumerate(model.feature_extractor.conv_layers):
        ours[f"convolutions.{n}.weight"] = layer.conv.weight
        ours |= {f"norms.{n}.{kind}": getattr(layer.layer_norm, kind) for kind in ("weight", "bias")}
    front = model.feature_projection
    for name, part in (("norm", front.layer_norm), ("project", front.projection)):
        ours |= {f"{name}.{kind}": getattr(part, kind) for kind in ("weight", "bias")}
    return ours


def test_feature_encoder():
    model, schema = theirs(), example_schema("audio")
    assert tuple(model.config.conv_kernel) == (10, 3, 3, 3, 3, 2, 2)
    assert tuple(model.config.conv_stride) == (5, 2, 2, 2, 2, 2, 2)
    recipe = find("data2vec-2-speech").but({"stem.channels": CHANNELS})
    ours = recipe.build(schema, Size(WIDTH, 1, 2, 16, 1, 2)).eval()
    ours.stem.positions = None  # theirs come after
    ours.stem.embed["audio"].load_state_dict(our_weights(model))
    wave = torch.randn(2, 5_000, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.1
    sample = {"audio": wave, "key": torch.arange(2)}
    tokens = ours.tokenizer(sample)
    step = Step(sample, tokens, everything(tokens))
    how = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    given = torch.tensor(how(list(wave.numpy()), sampling_rate=16_000)["input_values"])
    with torch.no_grad():
        found = model.feature_extractor(given).transpose(1, 2)
        projected = model.feature_projection(found)[0]
        own = ours.stem(step).x
    assert own.shape == (2, (5_000 - 400) // 320 + 1, WIDTH)
    gap = (own - projected).abs().max().item()
    assert gap < 1e-4
