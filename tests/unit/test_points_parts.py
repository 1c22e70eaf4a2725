"""Farthest points, neighbours and chamfer distance against brute force and SciPy; groups, and point-mae's stages."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from anymask import keyed
from anymask.data import infer_schema, open_source
from anymask.parts.corruptions import Replace
from anymask.parts.losses import chamfer
from anymask.parts.points import Packing, farthest, nearest
from anymask.recipe import P, RecipeError, Size, find

SIZE = Size(24, 2, 2, 16, 2, 2)


def clouds(n=6, points=80, seed=0, fewer=True):
    """(n, points, 3), the odd ones with NaN behind a part of their points."""
    x = np.random.default_rng(seed).normal(size=(n, points, 3)).astype(np.float32)
    if fewer:
        x[1::2, points * 2 // 3 :] = np.nan
    return x


def sample(array):
    index = torch.arange(len(array))
    return {"points": torch.as_tensor(array), "index": index, "key": keyed.keys(0, 0, index)}


def model_of(array, **changes):
    torch.manual_seed(0)
    return find("point-mae").but(changes).build(infer_schema(open_source(array)), SIZE)


def test_farthest_points_are_those_of_brute_force():
    x = torch.from_numpy(clouds())
    real = ~x.isnan().any(2)
    first = torch.tensor([0, 5, 7, 3, 79, 1])
    found = farthest(x.nan_to_num(), 12, valid=real, first=first)
    for row, cloud in enumerate(x):
        taken = [int(first[row])]
        points = cloud[real[row]].double()
        while len(taken) < 12:
            gaps = torch.cdist(points, points[taken]).min(1).values
            taken.append(int(gaps.argmax()))
        assert found[row].tolist() == taken


def test_neighbours_are_those_of_a_tree():
    x = torch.from_numpy(clouds())
    real = ~x.isnan().any(2)
    centre = torch.from_numpy(clouds(points=9, seed=1, fewer=False))
    found = nearest(centre, x.nan_to_num(), 11, valid=real)
    for row, cloud in enumerate(x):
        _, expected = cKDTree(cloud[real[row]].numpy()).query(centre[row].numpy(), 11)
        np.testing.assert_array_equal(found[row].numpy(), expected)


def test_a_cloud_of_fewer_points_than_neighbours_repeats_its_nearest():
    x = torch.from_numpy(clouds(2, 20, fewer=False))
    real = torch.arange(20) < torch.tensor([[20], [5]])
    found = nearest(x[:, :2], x, 8, valid=real)
    assert sorted(set(found[1, 0].tolist())) == [0, 1, 2, 3, 4] and found[1, 0, 5:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("n, m", [(7, 7), (5, 12)])
def test_chamfer_is_that_of_a_tree(n, m):
    rng = np.random.default_rng(0)
    p, g = rng.normal(size=(2, 3, n, 3)), rng.normal(size=(2, 3, m, 3))
    g[0, 1, 4:] = np.nan
    p[1, 0, 3:] = np.nan
    found = chamfer(torch.tensor(p).flatten(2), torch.tensor(g).flatten(2))
    for q in range(2):
        for i in range(3):
            mine, real = (x[q, i][~np.isnan(x[q, i]).any(1)] for x in (p, g))
            there, back = cKDTree(real).query(mine)[0], cKDTree(mine).query(real)[0]
            assert found[q, i].item() == pytest.approx((there**2).mean() + (back**2).mean(), rel=1e-9)


def test_chamfer_does_not_see_the_order_and_its_gradient_is_that_of_differences():
    torch.manual_seed(0)
    p, g = torch.randn(1, 2, 15, dtype=torch.float64, requires_grad=True), torch.randn(1, 2, 15, dtype=torch.float64)
    other = g.unflatten(2, (5, 3))[:, :, torch.randperm(5)].flatten(2)
    assert torch.allclose(chamfer(p, g), chamfer(p, other))
    assert chamfer(g, other).abs().max() == 0
    assert torch.autograd.gradcheck(lambda x: chamfer(x, g), (p,))


def test_a_token_without_points_has_a_finite_distance_and_gradient():
    p = torch.randn(1, 1, 6, requires_grad=True)
    error = chamfer(p, torch.full((1, 1, 9), torch.nan))
    error.sum().backward()
    assert torch.isfinite(error).all() and torch.isfinite(p.grad).all()


def test_groups_hold_the_neighbours_of_their_centre():
    array = clouds(4, 96)
    model = model_of(array, **{"tokenizer.groups": 10, "tokenizer.neighbours": 6}).eval()
    made = open_source(array)
    batch = sample(np.stack([made[i]["points"] for i in range(4)]))
    tokens = model.tokenizer(batch)
    assert tokens.x["points"].shape == (4, 10, 21) and tokens.pos.shape == (4, 10, 3) and tokens.valid is None
    beside = model.tokenizer.raw(tokens.x["points"]) - tokens.pos[:, :, None]  # B G K 3
    assert beside[:, :, 0].abs().max() < 1e-6  # the centre itself is the nearest
    for row in range(4):
        points = batch["points"][row]
        points = points[~points.isnan().any(1)].numpy()
        gaps = cKDTree(points).query(tokens.pos[row].numpy(), 6)[0]
        np.testing.assert_allclose(beside[row].norm(dim=2).numpy(), gaps, atol=1e-5)
        assert gaps[:, 0].max() < 1e-6  # centres are points


def test_groups_are_the_same_in_evaluation_and_begin_anywhere_in_training():
    array = clouds(4, 96, fewer=False)
    model = model_of(array)
    batch = sample(array)
    again = {**batch, "key": keyed.keys(0, 1, batch["index"])}
    assert not torch.equal(model.tokenizer(batch).pos, model.tokenizer(again).pos)
    model.eval()
    assert torch.equal(model.tokenizer(batch).pos, model.tokenizer(again).pos)
    shuffled = {**batch, "points": batch["points"][:, torch.randperm(96)]}  # the order of points says nothing
    torch.testing.assert_close(model.tokenizer(batch).pos, model.tokenizer(shuffled).pos)
    torch.testing.assert_close(model.embed(batch).mean(), model.embed(shuffled).mean(), atol=1e-5, rtol=1e-4)


def test_groups_are_the_same_in_half_precision():
    array = clouds(4, 96, fewer=False)
    model = model_of(array)
    plain = model.tokenizer(sample(array))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.tokenizer(sample(array))
    assert torch.equal(plain.x["points"], half.x["points"]) and torch.equal(plain.pos, half.pos)


def test_groups_beyond_the_points_of_a_small_cloud_are_not_valid():
    array = clouds(2, 96, fewer=False)
    array[1, 20:] = np.nan
    model = model_of(array, **{"tokenizer.groups": 30}).eval()
    tokens = model.tokenizer(sample(array))
    assert tokens.valid.sum(1).tolist() == [30, 20]
    assert tokens.x["points"][1, 20:].abs().max() == 0
    step = model.hide(sample(array))
    assert step.mask.visible.sum(1).tolist() == [12, 8] and step.mask.ask_ok.sum(1).tolist() == [18, 12]
    assert torch.isfinite(model.learn(step).loss)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match="100 groups of 4 points do not fit clouds of 96"):
        model_of(clouds(2, 96), **{"tokenizer.groups": 100, "tokenizer.neighbours": 4})


def test_further_channels_are_standardised_and_not_predicted():
    array = np.concatenate([clouds(3, 64, fewer=False), 200 + 50 * np.random.default_rng(1).random((3, 64, 2))], 2)
    source = open_source(array.astype(np.float32), kind="points")
    torch.manual_seed(0)
    model = find("point-mae").build(infer_schema(source), SIZE)
    x = model.tokenizer({"points": torch.tensor(array), "key": torch.arange(3)}).x["points"]
    points, real = model.tokenizer.packing.unpack(x)
    assert real is None and points.shape[-1] == 5 and points[..., 3:].abs().max() < 4
    assert model.target.heads["points"].width == 3 * model.tokenizer.neighbours


def test_packing_says_which_points_are_real():
    packing = Packing(4, 5, axes=2, counted=True)
    x = torch.randn(2, 3, packing.width)
    x[..., -1] = torch.log1p(torch.tensor([[0.0, 1, 2], [4, 9, 3]]))
    points, real = packing.unpack(x)
    assert points.shape == (2, 3, 4, 5) and real.sum(-1).tolist() == [[1, 1, 2], [4, 4, 3]]
    assert (~packing.coordinates(x).isnan()).sum(-1).tolist() == [[3, 3, 6], [12, 12, 9]]
    back = packing.pack(torch.ones(2, 3, 12), torch.full((2, 1, 2), 7.0))
    assert back.shape == x.shape and packing.coordinates(back).min() == 1 and (packing.centre(back) == 7).all()
    assert back[..., -1] == pytest.approx(math.log(5))


def test_the_stem_does_not_see_points_that_are_not_there_nor_their_order():
    array = clouds(2, 64)
    model = model_of(array).eval()
    step = model.hide(sample(array))
    x = step.tokens.x["points"]
    points, _ = model.tokenizer.packing.unpack(x)
    other = torch.cat([points[:, :, torch.randperm(points.shape[2])].flatten(2), 0 * x[..., -3:]], 2)
    torch.testing.assert_close(model.stem.embed(x), model.stem.embed(other))


def test_positions_enter_before_every_block_of_encoder_and_decoder():
    model = model_of(clouds(2, 64)).eval()
    step = model.hide(sample(clouds(2, 64)))
    seen = model.corruption(step, model)
    x, place = seen.x, model.encoder.positions.layers(seen.pos)
    for block in model.encoder.blocks:
        x = block(x + place, seen.ok)
    torch.testing.assert_close(model.encoder.encode(seen).x, model.encoder.norm(x))
    # The decoder, of which only the asked tokens are computed at the end, against a whole one.
    step = model.predict(step)
    ask, keep = step.mask.ask, step.mask.keep
    at = lambda index: torch.stack([p[i] for p, i in zip(step.tokens.pos, index)])
    place = model.decoder.positions.layers(torch.cat([at(keep), at(ask)], 1))
    y = torch.cat([model.decoder.embed(step.latent.x), model.decoder.token.expand(*ask.shape, -1)], 1)
    for block in model.decoder.blocks:
        y = block(y + place)
    expected = model.decoder.heads(model.decoder.norm(y[:, keep.shape[1] :]))["points"]
    torch.testing.assert_close(step.pred["points"], expected)


def test_mask_tokens_may_enter_the_encoder_instead():
    model = model_of(clouds(3, 64), corruption=P(Replace))
    step = model(sample(clouds(3, 64)))
    step.loss.backward()
    assert step.mask.keep is None and model.corruption.token.grad.abs().sum() > 0
