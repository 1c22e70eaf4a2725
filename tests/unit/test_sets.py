"""Token sets: what is a token of which channel, how sets are hidden, decoded, and rebuilt from one another."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anymask import keyed
from anymask.contract.data import batch_of, example_schema
from anymask.data.kind import kind_of
from anymask.engine import Step
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.masked import content
from anymask.evaluation.wholly import check_sets, rebuilt
from anymask.parts.losses import mse, with_spectrum
from anymask.parts.masks import Random
from anymask.parts.sets import SamePlaces, Sets, SharedOut
from anymask.recipe import RecipeError, find
from anymask.sizes import Size

SMALL = Size(32, 2, 2, 32, 1, 2)


def made(slug, kind, seed=0):
    schema = example_schema(kind)
    torch.manual_seed(seed)
    return find(slug).build(schema, SMALL).eval(), batch_of(schema)


def sets(groups=None, channels=4, space=(8, 12)):
    field = SimpleNamespace(name="image", kind="image", shape=(channels, *space), mean=(1.0,) * channels,
                            std=(2.0,) * channels, columns=())  # fmt: skip
    return Sets(SimpleNamespace(schema=SimpleNamespace(fields={"image": field})), patch=4, groups=groups)


def test_every_channel_lies_in_its_own_set_and_comes_back():
    tokenizer = sets([[2, 0], [1], [3]])
    values = torch.randn(2, 4, 8, 12)
    tokens = tokenizer({"image": values})
    assert list(tokens.x) == ["channel 2 channel 0", "channel 1", "channel 3"]
    assert [x.shape for x in tokens.x.values()] == [(2, 6, 32), (2, 6, 16), (2, 6, 16)]
    assert tokens.kind.tolist() == [0] * 6 + [1] * 6 + [2] * 6 and tokens.valid is None
    standard = (values - 1) / 2
    assert torch.allclose(tokens.x["channel 1"][0, 0], standard[0, 1, :4, :4].flatten())
    from anymask.reports.renderer import joined

    assert torch.allclose(tokenizer.whole(joined(tokens.x)), standard)
    assert tokens.pos[0, :6].tolist() == tokens.pos[0, 6:12].tolist()


def test_sets_name_each_channel_once():
    with pytest.raises(RecipeError, match="each once"):
        sets([[0, 1], [1, 2, 3]])


def test_a_missing_channel_is_a_set_that_is_not_valid():
    model, batch = made("bm-mae", "volume")
    tokens = model.tokenizer(batch)
    half = tokens.shape[1] // 2
    assert not tokens.valid[1, half:].any() and tokens.valid[1, :half].all()  # every second case lacks its last scan
    assert not any(x.isnan().any() for x in tokens.x.values())
    # What stands in the place of a scan that is not there reaches nothing.
    other = {**batch, "volume": batch["volume"].clone()}
    latent = model.embed(batch)
    assert latent.ok is not None and not latent.ok[1, half:].any()
    other["volume"][1, 1] = torch.nan
    assert torch.equal(model.embed(other).mean(), latent.mean())


def test_permuting_channels_with_their_names_changes_nothing():
    schema = example_schema("satellite")
    field = schema.fields["satellite"]
    for slug in ("ca-mae", "satmae"):
        torch.manual_seed(0)
        model = find(slug).build(schema, SMALL).eval()
        batch = batch_of(schema)
        column = SimpleNamespace(kind=kind_of("satellite"), told=SimpleNamespace(bands=field.columns[::-1]))
        shuffled = [x.numpy()[::-1] for x in batch["satellite"]]
        column.read = lambda row, x=shuffled: x[row]
        aligned = kind_of("satellite").align(column, field)
        again = np.stack([aligned.read(row).read() for row in range(len(shuffled))])
        np.testing.assert_array_equal(again, batch["satellite"].numpy())
        with torch.no_grad():
            assert torch.equal(model.embed({**batch, "satellite": torch.from_numpy(again)}).x, model.embed(batch).x)


def test_the_shared_embedding_knows_a_channel_by_its_content_only():
    """Channels in another order, without their names: the same codes in another order."""
    model, batch = made("ca-mae", "satellite")
    order = [3, 1, 0, 2, 4]
    plain = {**batch, "satellite": batch["satellite"].nan_to_num(100.0)}
    mean, std = model.tokenizer.mean[order], model.tokenizer.std[order]
    with torch.no_grad():
        before = model.embed(plain)
        moved = {**plain, "satellite": plain["satellite"][:, order]}
        model.tokenizer.mean, model.tokenizer.std = mean, std
        after = model.embed(moved)
    n = before.x.shape[1] // 5
    index = torch.cat([torch.arange(n) + n * channel for channel in order])
    assert torch.allclose(before.x[:, index], after.x, atol=1e-5)
    assert torch.allclose(before.mean(), after.mean(), atol=1e-5)


@pytest.mark.parametrize("kept", [[0], [1, 3], [0, 2, 4]])
def test_any_subset_of_channels_is_embedded_as_if_there_were_no_others(kept):
    model, batch = made("ca-mae", "satellite")
    values = batch["satellite"].nan_to_num(100.0)
    lacking = torch.full_like(values, torch.nan)
    lacking[:, kept] = values[:, kept]
    with torch.no_grad():
        whole = model.embed({**batch, "satellite": lacking})
        step = Step(batch, model.tokenizer({**batch, "satellite": values}), aux={})
        kind = torch.isin(step.tokens.kind, torch.tensor(kept))
        from anymask.engine import split

        mask = split((~kind).float().expand(4, -1), int(kind.sum()), ask=0.0)
        only = model.encoder(model.corruption(step._replace(mask=mask), model) and step._replace(
            mask=mask, seen=model.stem(step._replace(mask=mask))), model)  # fmt: skip
    assert torch.allclose(whole.mean(), only.mean(), atol=1e-5)


# Masks.


def tokens_of(b=64, sets_=3, n=16, valid=None):
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij"), -1).reshape(-1, 2) + 0.5
    from anymask.engine import Tokens

    return Tokens({"x": torch.zeros(b, sets_ * n, 1)}, grid.repeat(sets_, 1)[None], valid,
                  torch.arange(sets_).repeat_interleave(n))  # fmt: skip


def visible(part, tokens, **options):
    tokenizer = SimpleNamespace(grid=(4, 4), pitch=(1.0, 1.0), kinds=int(tokens.kind.max()) + 1)
    model = SimpleNamespace(tokenizer=tokenizer, corruption=SimpleNamespace(keep=0.0))
    step = Step({"key": keyed.keys(0, 0, torch.arange(tokens.shape[0]))}, tokens)
    return part(model, **options)(step, model)


def test_shared_out_draws_how_much_each_set_shows():
    tokens = tokens_of(512)
    shown = visible(SharedOut, tokens, ratio=0.75).visible.unflatten(1, (3, 16)).sum(2)  # B sets
    assert (shown.sum(1) == 12).all()
    # Of a Dirichlet distribution of ones over three: a set has less than one of 12 in about 1 - (1 - 1/24)^2 = 8 %.
    assert 0.04 < (shown == 0).float().mean() < 0.14 and shown.float().mean(0).sub(4).abs().max() < 0.5
    even = visible(Random, tokens, ratio=0.75).visible.unflatten(1, (3, 16)).sum(2)
    assert (even == 0).float().mean() < 0.02 and shown.float().std() > 1.5 * even.float().std()


def test_shared_out_gives_nothing_to_a_missing_set():
    valid = torch.ones(32, 48, dtype=torch.bool)
    valid[::2, 16:32] = False
    mask = visible(SharedOut, tokens_of(32, valid=valid), ratio=0.75)
    assert not (mask.visible & ~valid).any()
    assert (mask.visible.sum(1) == torch.where(torch.arange(32) % 2 == 0, 8, 12)).all()


def test_same_places_hides_the_same_in_all_sets():
    shown = visible(SamePlaces, tokens_of(), ratio=0.75).visible.unflatten(1, (3, 16))
    assert (shown == shown[:, :1]).all() and (shown[:, 0].sum(1) == 4).all()
    assert len({tuple(row.tolist()) for row in shown[:, 0]}) > 20
    valid = torch.ones(8, 48, dtype=torch.bool)
    valid[:, 16:32] = False
    part = visible(SamePlaces, tokens_of(8, valid=valid), ratio=0.75).visible.unflatten(1, (3, 16))
    assert not part[:, 1].any() and (part[:, 0] == part[:, 2]).all() and (part[:, 0].sum(1) == 4).all()


# Losses.


def test_the_spectrum_is_that_of_numpy():
    pred, goal = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    amplitude = lambda x: np.abs(np.fft.fft2(x.numpy().reshape(2, 3, 4, 4))).reshape(2, 3, 16)
    gap = np.abs(amplitude(pred) - amplitude(goal)).mean(-1)
    wanted = 0.7 * mse(pred, goal).numpy() + 0.3 * gap
    np.testing.assert_allclose(with_spectrum(pred, goal, share=0.3).numpy(), wanted, rtol=1e-5)
    assert torch.equal(with_spectrum(pred, goal, share=0.0), mse(pred, goal))
    with pytest.raises(ValueError, match="no square"):
        with_spectrum(torch.randn(1, 1, 15), torch.randn(1, 1, 15))


# Whole sets.


@pytest.mark.parametrize(("slug", "kind"), [("bm-mae", "volume"), ("satmae", "satellite"), ("ca-mae", "satellite")])
def test_a_set_is_rebuilt_without_being_seen(slug, kind):
    model, batch = made(slug, kind)
    name = next(iter(model.schema.fields))
    assert len(check_sets(model)) == model.tokenizer.kinds
    for number, group in enumerate(model.tokenizer.members[:2]):
        pred, truth, there = rebuilt(model, batch, number)
        assert pred.shape == truth.shape == there.shape and there.any()
        other = {**batch, name: batch[name].clone()}
        other[name][:, group] = torch.where(other[name][:, group].isnan(), torch.nan, other[name][:, group] * 0.5)
        again, *_ = rebuilt(model, other, number)
        assert torch.equal(torch.where(there, pred, 0.0), torch.where(there, again, 0.0))
        others = [c for c in range(model.tokenizer.channels) if c not in group]
        other = {**batch, name: batch[name].clone()}
        other[name][:, others] = torch.where(other[name][:, others].isnan(), torch.nan, other[name][:, others] * 0.5)
        again, *_ = rebuilt(model, other, number)
        assert not torch.equal(torch.where(there, pred, 0.0), torch.where(there, again, 0.0))


def test_content_of_sets_of_several_widths_is_put_in_its_place():
    model, batch = made("satmae", "satellite")
    from anymask.reports.renderer import joined

    step = model.hide(batch)
    step = model.predict(step)
    step = step._replace(goal=model.target(step, model))
    # Goals in the place of predictions give back the content.
    perfect = step._replace(pred=step.goal)
    x = joined(step.tokens.x)
    assert torch.equal(content(model, perfect).isnan(), x.isnan())
    assert torch.equal(content(model, perfect).nan_to_num(), x.nan_to_num())


def test_one_set_only_is_told():
    schema = example_schema("volume")
    field = schema.fields["volume"]
    one = replace(field, shape=(1, *field.shape[1:]), mean=field.mean[:1], std=field.std[:1], columns=("t1",),
                  gaps=(0.0,), more={**field.more, "scaling": ["percentiles"]})  # fmt: skip
    model = find("bm-mae").build(replace(schema, fields={"volume": one}), SMALL)
    with pytest.raises(EvaluateError, match="several sets"):
        check_sets(model)
