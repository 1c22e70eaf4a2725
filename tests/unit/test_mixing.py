"""Rows of several samples: who shows what, attention to the most similar, and the loss that tells samples apart."""

import pytest
import torch

from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.engine import Latent, Mask
from anymask.parts.layers import Attention
from anymask.parts.mixing import own_tokens, top_attention
from anymask.recipe import RecipeError, find


def built(changes=None, count=6):
    torch.manual_seed(0)
    model = find("mixedae").but(changes or {}).build(example_schema("image"), SMALL).eval()
    return model, model.hide(batch_of(example_schema("image"), count))


@pytest.mark.parametrize(("samples", "count"), [(2, 6), (3, 6), (2, 5), (4, 6)])
def test_every_place_shows_one_sample_and_each_asks_for_the_rest(samples, count):
    _, step = built({"mask.samples": samples}, count)
    mask, n = step.mask, step.tokens.shape[1]
    rows = -(-count // samples)
    assert mask.keep.shape == (rows, n) and torch.equal(mask.keep[0], torch.arange(n))
    index, ok = own_tokens(mask)
    for b in range(count):
        row = mask.via[b]
        shown = {place for place in range(n) if mask.keep_of[row, place] == b}
        asked = set(mask.ask[b][mask.ask_ok[b]].tolist())
        assert shown == set(index[b][ok[b]].tolist())
        assert not shown & asked and shown | asked == set(range(n))
        assert abs(len(shown) - n / samples) <= 1


def test_a_samples_decoder_reads_its_own_codes_only():
    model, step = built()
    step = model.predict(step)
    codes = step.latent.x.clone()
    other = step.mask.keep_of[0] == 1  # the places of the second sample, in the row of the first two
    codes[0, other] += 1.0
    changed = model.decoder(step._replace(latent=step.latent._replace(x=codes)), model)["pixels"]
    assert torch.equal(changed[0], step.pred["pixels"][0]) and not torch.allclose(changed[1], step.pred["pixels"][1])


def test_attention_reads_the_highest_scores():
    torch.manual_seed(0)
    attention, x = Attention(12, 3), torch.randn(2, 8, 12)
    found = top_attention(attention, x, 0.25)  # two of eight keys
    q, k, v = attention.qkv(x).view(2, 8, 3, 3, 4).permute(2, 0, 3, 1, 4)
    out = torch.zeros(2, 8, 3, 4)
    for b in range(2):
        for h in range(3):
            for i in range(8):
                score = (k[b, h] @ q[b, h, i]) / 2
                best = score.argsort(descending=True)[:2]
                out[b, i, h] = score[best].softmax(0) @ v[b, h, best]
    torch.testing.assert_close(found, attention.proj(out.flatten(2)))
    torch.testing.assert_close(top_attention(attention, x, 1.0), attention(x))
    ok = torch.arange(8).expand(2, -1) < 5
    junk = torch.where(ok[..., None], x, 100.0)
    found, same = (top_attention(attention, each, 0.5, ok)[:, :5] for each in (junk, x))
    torch.testing.assert_close(found, same)


def test_a_whole_sample_is_encoded_as_by_any_vit():
    model, _ = built()
    batch = batch_of(example_schema("image"), 3)
    plain = find("mae").build(example_schema("image"), SMALL).eval()
    plain.load_state_dict({n: v for n, v in model.state_dict().items() if n in plain.state_dict()}, strict=False)
    torch.testing.assert_close(model.embed(batch).x, plain.embed(batch).x)


def test_the_contrastive_loss_by_hand():
    model, step = built()
    (extra,) = model.extras
    z = torch.nn.functional.normalize(torch.randn(1, 4, 5), dim=-1)
    mask = Mask(torch.ones(1, 4, dtype=torch.bool), keep_of=torch.tensor([[0, 1, 0, 0]]))
    latent = Latent(z, step.tokens.pos[:, :4])
    found = extra(step._replace(mask=mask, latent=latent), model)["homologous"]
    similar, total = (z[0] @ z[0].T / 0.25).exp(), 0.0
    for i, mates in {0: (2, 3), 1: (), 2: (0, 3), 3: (0, 2)}.items():
        rest = sum(similar[i, j] for j in range(4) if j != i)
        total += sum(-torch.log(similar[i, j] / rest) for j in mates) / max(1, len(mates))
    torch.testing.assert_close(found, 0.1 * total / 4)


def test_what_cannot_be_mixed_is_refused():
    for wrong, words in [({"mask.samples": 1}, "from 2 on"), ({"encoder.top": 0.0}, "share of the tokens")]:
        with pytest.raises(RecipeError, match=words):
            built(wrong)
    with pytest.raises(RecipeError, match="two samples or more"):
        built(count=1)
