"""`patchtsmixer` against Hugging Face's PatchTSMixerForPretraining: the same weights and the same mask."""

import pytest
import torch
from torch import nn

from anymask.contract.data import example_schema
from anymask.engine import Step
from anymask.recipe import Size, find

transformers = pytest.importorskip("transformers")
CHANNELS, LENGTH, PATCH = 2, 48, 4


class Fixed(nn.Module):
    """Their masking with a mask that is given, (B, C, N) True = hidden."""

    def __init__(self, hidden):
        super().__init__()
        self.hidden = hidden

    def forward(self, patches):
        return patches.masked_fill(self.hidden[..., None], 0), self.hidden


def theirs():
    torch.manual_seed(0)
    config = transformers.PatchTSMixerConfig(
        context_length=LENGTH, patch_length=PATCH, patch_stride=PATCH, num_input_channels=CHANNELS, d_model=24,
        expansion_factor=2, num_layers=3, gated_attn=True, scaling="std", masked_loss=True,
    )  # fmt: skip
    model = transformers.PatchTSMixerForPretraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


NAMES = {
    "patch_mixer.norm.norm": "norm1", "patch_mixer.mlp": "patches",
    "patch_mixer.gating_block.attn_layer": "gate1.weigh",
    "feature_mixer.norm.norm": "norm2", "feature_mixer.mlp": "features",
    "feature_mixer.gating_block.attn_layer": "gate2.weigh",
}  # fmt: skip


def our_weights(model):
    found = {}
    for name, value in model.state_dict().items():
        name = name.replace("model.encoder.mlp_mixer_encoder.mixers.", "encoder.blocks.")
        name = name.replace("model.encoder.patcher.", "stem.embed.series.")
        name = name.replace("head.base_pt_block.", "decoder.heads.heads.patch.")
        for their, our in NAMES.items():
            name = name.replace(their, our)
        found[name] = value
    return found


def test_patchtsmixer(record):
    model = theirs()
    schema = example_schema("series")
    field = schema.fields["series"]
    plain = {**field.__dict__, "mean": (0.0,) * CHANNELS, "std": (1.0,) * CHANNELS, "gaps": (0.0,) * CHANNELS}
    schema = type(schema)(**{**schema.__dict__, "fields": {"series": type(field)(**plain)}})
    ours = find("patchtsmixer").but({"tokenizer.patch": PATCH}).build(schema, Size(24, 3, 2, 24, 1, 2)).eval()
    ours.load_state_dict(our_weights(model))

    values = torch.randn(3, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(1)).cumsum(2) + 5
    sample = {"series": values, "key": torch.arange(3)}
    step = ours.hide(sample)
    hidden = ~step.mask.visible.unflatten(1, (CHANNELS, -1))
    model.model.masking = Fixed(hidden)
    with torch.no_grad():
        own = ours.learn(Step(sample, step.tokens, step.mask, aux={}))
        their = model(values.transpose(1, 2))
    asked = their.prediction_outputs.flatten(1, 2).gather(1, step.mask.ask[..., None].expand(-1, -1, PATCH))
    gaps = {
        "latent": (own.latent.x - their.last_hidden_state.flatten(1, 2)).abs().max().item(),
        "prediction": (own.pred["patch"] - asked).abs().max().item(),
        "loss": (own.loss - their.loss).abs().item(),
    }
    record("patchtsmixer", "transformers PatchTSMixerForPretraining", gaps)
    assert max(gaps.values()) < 1e-5, gaps
