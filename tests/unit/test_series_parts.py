"""Parts of time series against brute force: patches, gaps, masks by channel, views, encoders, contrast."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anymask import keyed
from anymask.contract import check_recipe
from anymask.contract.data import SMALL, example_schema
from anymask.data import infer_schema, open_source
from anymask.engine import Seen, Step
from anymask.evaluation import embed
from anymask.parts.losses import observed_mse
from anymask.parts.series import ChannelPatches, contrast, even_score, folded, hierarchical, same_channel
from anymask.recipe import RecipeError, find


def schema_of(x):
    return infer_schema(open_source(x, kind="series"))


def sample_of(x):
    return {"series": torch.as_tensor(x).float(), "key": keyed.keys(0, 0, torch.arange(len(x)))}


def tokenizer(x, **options):
    return ChannelPatches(SimpleNamespace(schema=schema_of(x)), **options)


def test_patches_are_of_one_channel_and_keep_gaps():
    x = np.random.default_rng(0).normal(3, 2, (4, 2, 11))
    x[0, 1, 2], x[1, 0, 4:8] = np.nan, np.nan
    part = tokenizer(x, patch=4, instance=False)
    tokens = part(sample_of(x))
    assert tokens.grid == (2, 3) and part.streams == {"series": 4} and tokens.x["series"].shape == (4, 6, 4)
    field = schema_of(x).fields["series"]
    for b in range(4):
        for n in range(6):
            c, place = divmod(n, 3)
            true = np.full(4, np.nan)
            piece = x[b, c, 4 * place : 4 * place + 4]
            true[: len(piece)] = (piece - field.mean[c]) / field.std[c]
            np.testing.assert_allclose(tokens.x["series"][b, n], true, atol=1e-5)
            assert tokens.valid[b, n] == np.isfinite(true).any()
            assert tokens.pos[0, n].tolist() == [c + 0.5, 4 * place + 2.0]
    back = part.values(tokens.x["series"])
    np.testing.assert_allclose(back[..., :11] * part.std + part.mean, x, atol=1e-4)
    assert tokenizer(x[:2, :1, :8], patch=4)(sample_of(x[2:, :1, :8])).valid is not None  # that field has a gap
    whole = np.random.default_rng(1).normal(size=(3, 1, 8))
    assert tokenizer(whole, patch=4)(sample_of(whole)).valid is None


def test_instances_are_scaled_by_what_is_there():
    x = np.random.default_rng(0).normal(3, 2, (3, 2, 12))
    x[0, 0, 3:7] = np.nan
    part = tokenizer(x, patch=4)
    scaled, mean, spread = part.scaled(torch.as_tensor(x))
    np.testing.assert_allclose(np.nanmean(scaled, 2), 0, atol=1e-5)
    np.testing.assert_allclose(np.nanstd(scaled, 2), 1, atol=1e-4)
    np.testing.assert_allclose((scaled * spread + mean) * part.std + part.mean, x, atol=1e-4)
    longer = np.concatenate([x, np.full((3, 2, 8), np.nan)], 2)  # padding moves nothing
    torch.testing.assert_close(part.scaled(torch.as_tensor(longer))[0][..., :12], scaled, equal_nan=True)
    with pytest.raises(RecipeError, match="patches of at most 6"):
        tokenizer(x, patch=12)


def test_loss_is_over_what_is_there():
    pred = torch.tensor([[[1.0, 2, 3], [1, 1, 1]]], requires_grad=True)
    goal = torch.tensor([[[0.0, torch.nan, 1], [torch.nan] * 3]])
    loss = observed_mse(pred, goal)
    assert loss.tolist() == [[2.5, 0.0]]
    loss.sum().backward()
    assert pred.grad.tolist() == [[[1.0, 0, 2], [0, 0, 0]]]


def test_missing_values_never_reach_a_prediction():
    x = np.random.default_rng(0).normal(size=(4, 2, 24))
    x[:, 1, 5:14] = np.nan
    model = find("patchtst").but({"tokenizer.patch": 4}).build(schema_of(x), SMALL).eval()
    step = model(sample_of(x))
    assert torch.isfinite(step.loss) and torch.isfinite(step.pred["patch"]).all()
    goal = step.goal["patch"]
    ok = torch.ones(goal.shape[:2], dtype=torch.bool) if step.mask.ask_ok is None else step.mask.ask_ok
    errors = [(p - g)[~g.isnan()].square().mean() for p, g in zip(step.pred["patch"][ok], goal[ok])]
    assert step.loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)
    assert not step.mask.visible[:, 8].any()  # moments 8 to 11 of variable 1: nothing there


def hidden_by(slug, x, changes=None):
    model = find(slug).but({"tokenizer.patch": 4, **(changes or {})}).build(schema_of(x), SMALL)
    return model, model.hide(sample_of(x))


def test_each_channel_hides_the_same_share():
    x = np.random.default_rng(0).normal(size=(5, 3, 80))
    _, step = hidden_by("patchtst", x)
    assert (step.mask.visible.unflatten(1, (3, 20)).sum(2) == 12).all()
    x[:, 0, :40] = np.nan
    _, step = hidden_by("patchtst", x)
    visible = step.mask.visible.unflatten(1, (3, 20)).sum(2)
    assert (visible[:, 0] == 6).all() and (visible[:, 1:] == 12).all()
    assert len({tuple(row.tolist()) for row in step.mask.visible}) == 5
    with pytest.raises(RecipeError, match="on a grid"):
        even_score(step._replace(tokens=step.tokens._replace(grid=None)))


@pytest.mark.parametrize("gaps", [False, True])
def test_views_are_complementary(gaps):
    x = np.random.default_rng(0).normal(size=(3, 2, 36))
    if gaps:
        x[1, 0, 8:20] = np.nan
    for itself in (True, False):
        _, step = hidden_by("pits", x, {"mask.itself": itself})
        first, second = step.mask.visible.chunk(2)
        valid = torch.ones_like(first) if step.tokens.valid is None else step.tokens.valid
        assert torch.equal(first ^ second, valid) and not (first & second).any()
        asked = step.mask.ask_ok.chunk(2)
        assert torch.equal(asked[0], first if itself else second) and torch.equal(asked[1], second if itself else first)


def test_autoencoding_of_single_patches():
    """PITS: the prediction of a patch that is seen is the MLP of it alone, whatever the view."""
    x = np.random.default_rng(0).normal(size=(3, 2, 36))
    model, step = hidden_by("pits", x)
    with torch.no_grad():
        out = model.eval().learn(step)
        h = torch.relu(step.tokens.x["series"] @ model.stem.embed["series"].weight.T + model.stem.embed["series"].bias)
        true = model.decoder.heads.heads["patch"](model.encoder.layer(h))
    ok = step.mask.ask_ok
    torch.testing.assert_close(out.pred["patch"][ok], true.repeat(2, 1, 1)[ok], atol=1e-5, rtol=1e-4)
    assert ok.sum() == true.shape[0] * true.shape[1]  # each patch once


# Encoders.


def test_channels_as_rows_are_attention_within_channels():
    schema = example_schema("series")
    model = find("patchtst").build(schema, SMALL).eval()
    x = torch.randn(3, 24, 32)
    pos = model.tokenizer.tokens(torch.zeros(1, 2, 48)).pos
    ok = torch.rand(3, 24, generator=torch.Generator().manual_seed(0)) < 0.8
    for real in (None, ok):
        seen = Seen(x, pos, real)
        tokens = SimpleNamespace(grid=(2, 12))
        fast = model.encoder(SimpleNamespace(seen=seen, tokens=tokens, mask=SimpleNamespace(keep=None)), model)
        slow = model.encoder.encode(seen)
        keep = torch.ones_like(ok) if real is None else real
        torch.testing.assert_close(fast.x[keep], slow.x[keep], atol=1e-5, rtol=1e-4)
    assert same_channel(seen)[0, 0].tolist() == [True] * 12 + [False] * 12
    assert folded(seen, 2).x.shape == (6, 12, 32)


@pytest.mark.parametrize("slug", ["patchtst", "patchtsmixer", "pits"])
def test_a_channel_does_not_see_another(slug):
    x = np.random.default_rng(0).normal(size=(2, 3, 48))
    model = find(slug).build(schema_of(x), SMALL).eval()
    other = x.copy()
    other[:, 2] = np.random.default_rng(1).normal(size=(2, 48))
    before, after = (model.embed(sample_of(v)).x.unflatten(1, (3, -1)) for v in (x, other))
    assert torch.equal(before[:, :2], after[:, :2]) and not torch.allclose(before[:, 2], after[:, 2])


def test_shorter_series_are_as_when_padded():
    x = np.random.default_rng(0).normal(size=(2, 1, 48))
    model = find("patchtsmixer").build(schema_of(x), SMALL).eval()
    short = sample_of(x[..., :32])
    padded = sample_of(np.concatenate([x[..., :32], np.full((2, 1, 16), np.nan)], 2))
    a, b = model.embed(short), model.embed(padded)
    torch.testing.assert_close(a.x, b.x[:, : a.x.shape[1]])
    torch.testing.assert_close(a.mean(), b.mean())
    with pytest.raises(ValueError, match="no longer than in training"):
        model.embed(sample_of(np.concatenate([x, x], 2)))


def test_embeddings_of_several_lengths_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    series = [rng.normal(size=(2, n)) for n in (48, 31, 40, 12)]
    source = open_source(series, kind="series")
    for slug in ("patchtst", "patchtsmixer", "pits"):
        model = find(slug).but({"tokenizer.patch": 4}).build(infer_schema(source), SMALL).eval()
        np.testing.assert_allclose(embed(model, source), embed(model, source, batch_size=1), atol=1e-5)


# Contrast.


def literal(a, b):
    """Temporal contrast of two views (N, D), written out."""
    z = np.concatenate([a, b])
    n, total = len(a), 0.0
    for i in range(2 * n):
        others = [z[i] @ z[j] for j in range(2 * n) if j != i]
        total += np.log(np.exp(others).sum()) - z[i] @ z[(i + n) % (2 * n)]
    return total / (2 * n)


def test_contrast_against_loops():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 5, 4)) * 0.5
    found = contrast(torch.tensor(a), torch.tensor(b)).item()
    assert found == pytest.approx(np.mean([literal(x, y) for x, y in zip(a, b)]))
    levels, x, y = [], a, b
    while x.shape[1] > 1:
        levels.append(0.5 * np.mean([literal(p, q) for p, q in zip(x, y)]))
        half = x.shape[1] // 2
        x, y = (v[:, : 2 * half].reshape(3, half, 2, 4).max(2) for v in (x, y))
    assert hierarchical(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(sum(levels) / (len(levels) + 1))


def test_patches_that_are_not_there_do_not_count_in_the_contrast():
    a, b = torch.randn(2, 2, 6, 4, dtype=torch.float64)
    ok = torch.tensor([[True] * 4 + [False] * 2] * 2)
    torch.testing.assert_close(contrast(a, b, ok), contrast(a[:, :4], b[:, :4]))
    before = hierarchical(a, b, ok)
    a[:, 4:] += 100
    torch.testing.assert_close(hierarchical(a, b, ok), before)
    assert torch.isfinite(hierarchical(a, b, torch.zeros(2, 6, dtype=torch.bool)))


@pytest.mark.parametrize("slug", ["patchtst", "patchtsmixer", "pits"])
def test_without_scaling_of_instances_nothing_hidden_leaks(slug):
    lines = check_recipe(find(slug).but({"tokenizer.instance": False}), items=("no leak", "reach"))
    assert lines == ["no leak: passed", "reach: passed"]


def test_a_step_is_the_same_for_any_batch():
    x = np.random.default_rng(0).normal(size=(4, 2, 48))
    model = find("patchtst").build(schema_of(x), SMALL).eval()
    sample = sample_of(x)
    alone = {name: value[2:3] for name, value in sample.items()}
    whole, one = model.hide(sample), model.hide(alone)
    assert isinstance(whole, Step) and torch.equal(whole.mask.visible[2:3], one.mask.visible)
