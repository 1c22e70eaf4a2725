"""What is done with runs on volumes and satellite scenes: embedding, filling in, drawing."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from task_tools import made
from test_satellite_open import scene
from test_volume_open import head, save

from anymask.claims import Contrast, RepeatedFolds
from anymask.data import infer_schema, open_source
from anymask.evaluation import embed, evaluate
from anymask.evaluation.infill import nearest, nearest_value
from anymask.reports.renderer import Panel, content_of, filled, renderer_of
from anymask.reports.satellites import composites
from anymask.train.measure import first_batch


def cases(folder):
    """Two heads with two contrasts, one of them without the second."""
    for name, seed, tone in (("p1/a", 0, 1), ("p1/b", 0, -1), ("p2/a", 1, 1), ("p2/b", 1, -1), ("p3/a", 2, 1)):
        x = head((20, 20, 20), seed)
        save(folder / f"{name}.nii", np.where(x > 0, 200 + tone * x, 0).astype(np.float32))
    return open_source(folder, window=16)


def land():
    return open_source([scene(5, 20, n).astype(np.float32) for n in range(6)], kind="satellite", window=16, stride=4)


@pytest.fixture(scope="module", params=["bm-mae", "satmae", "ca-mae", "volume mae", "satellite mae"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("x")
    volume = request.param in ("bm-mae", "volume mae")
    source = cases(folder / "data") if volume else land()
    recipe = request.param.rpartition(" ")[2]
    return made(source, folder / "run", recipe, {"target.normalise": False} if recipe == "mae" else None), source


def test_every_sample_is_embedded(run):
    found = embed(run[0], run[1])
    assert found.shape == (len(run[1]), 32) and np.isfinite(found).all()
    again = embed(run[0], run[1], batch_size=3)
    np.testing.assert_allclose(found, again, atol=1e-5)


def test_hidden_tokens_are_filled_in(run):
    table = evaluate(run[0], run[1], task="reconstruct", ratios=[0.5], draws=1, samples=6, batch_size=4)
    psnr = {row[0]: row[2].mean for row in table.rows if row[1].startswith("PSNR")}
    assert {"mean of the place", "nearest visible token", "untrained model", "pre-trained model"} <= set(psnr)
    assert all(np.isfinite(value) for value in psnr.values())
    three = len(run[0].model().tokenizer.sides) == 3 and run[0].recipe.slug == "mae"
    assert ("nearest visible voxel" in psnr) == three


def test_whole_sets_are_rebuilt(run):
    if run[0].recipe.slug == "mae":
        pytest.skip("one set only")
    table = evaluate(run[0], run[1], task="wholly", test=run[1], samples=40, batch_size=8)
    names = {row[0] for row in table.rows}
    assert names == set(run[0].model().tokenizer.streams)
    by = {(row[0], row[1]): row[2].mean for row in table.rows}
    if run[0].recipe.slug == "bm-mae":  # the contrasts are each other's negative: a line does nearly all
        assert by["b", "linear in the others"] < 0.7 * by["b", "mean of the set"]


def test_pictures_hatch_what_is_hidden(run):
    model = run[0].model()
    sample = first_batch(run[1], infer_schema(run[1]), 3)
    step = model.hide(sample)
    content, _ = content_of(model, step.tokens)
    shown = step.mask.visible
    panels = [Panel("original", content), Panel("seen", content, shown),
              Panel("made", filled(content, torch.zeros_like(content), ~shown), values=torch.rand(shown.shape))]
    drawings = renderer_of(model).draw(panels)
    original, seen, made_ = (np.asarray(Image.open(io.BytesIO(d.png))) for d in drawings)
    assert original.shape == seen.shape == made_.shape and original[..., 3].max() == 255
    changed = (original != seen).any(-1)
    assert 0.2 < changed.mean() < 1 and "hidden" in drawings[1].alt and "coloured" in drawings[2].alt


def test_composites_are_those_of_sentinel_2_where_bands_are_named():
    names = ["B01", "B02", "B03", "B04", "B08"]
    assert composites(names) == [[3, 2, 1], [4, 3, 2]]
    assert all(len(set(bands)) == 3 for bands in composites([f"band {n}" for n in range(13)]))


def test_the_nearest_visible_voxel_by_brute_force():
    values, shown = torch.randn(2, 1, 4, 3, 5), torch.rand(2, 4, 3, 5) > 0.6
    got = nearest_value(values, shown)
    place = torch.stack(torch.meshgrid(*[torch.arange(n) for n in (4, 3, 5)], indexing="ij"), -1).float()
    for b in range(2):
        known, at = values[b, 0][shown[b]], place[shown[b]]
        for point, value in zip(place.flatten(0, 2), got[b, 0].flatten()):
            gaps = (at - point).norm(dim=1)
            assert value in known[gaps <= gaps.min() + 1e-6]


def test_the_nearest_token_is_of_the_same_kind():
    x = torch.arange(6.0).view(1, 6, 1)
    pos = torch.tensor([[0.0], [1.0], [2.0]]).repeat(2, 1)[None]
    kinds = torch.tensor([[0, 0, 0, 1, 1, 1]])
    visible = torch.tensor([[True, False, True, False, False, True]])
    assert nearest(x, visible, pos, kinds)[0, :, 0].tolist() == [0, 0, 2, 5, 5, 5]


def test_a_contrast_is_rebuilt_in_a_part_of_the_head_that_was_not_trained_on(tmp_path):
    for name, tone in (("x_t1", 1), ("x_pd", -1), ("other", 1)):
        values = head((50, 50, 150))
        save(tmp_path / "v" / f"{name}.nii", np.where(values > 0, 200 + tone * values, 0).astype(np.float32))
    metric = Contrast(pair=("x_t1", "x_pd"))
    whole = open_source(tmp_path / "v")
    train, test = metric.parts(whole, np.arange(len(whole)))
    low = max(row["volume"].start[2] for row in (train[n] for n in range(len(train)))) + 48 + 12
    assert low <= min(row["volume"].start[2] for row in (test[n] for n in range(len(test))))
    run = made(train, tmp_path / "run", "bm-mae", {"tokenizer.patch": 16})
    scores = metric.scores(run, train, test)
    assert scores.shape == (len(test),) and np.isfinite(scores).all()
    assert metric.context(train, test, run.schema)["mean of the contrast"] > 0


def test_folds_are_drawn_anew_each_time(tmp_path):
    x = [scene(5, 16, n).astype(np.float32) + 600 * (n % 2) for n in range(24)]
    source = open_source(x, kind="satellite", window=16)
    source = type(source)(name="x", columns=source.columns, labels=np.arange(24) % 2)
    run = made(source, tmp_path / "run", "satmae")
    scores = RepeatedFolds(folds=3, repeats=2).scores(run, source, source)
    assert scores.shape == (24,) and scores.mean() > 80


def test_classes_of_pixels_are_probed_place_by_place(tmp_path):
    """Classes that one date of one band tells."""
    values = np.stack([scene(5, 48, n, dates=2) for n in range(2)]).astype(np.float32)  # N T H W C
    cells = np.kron(np.random.default_rng(0).integers(0, 2, (2, 12, 12)), np.ones((4, 4), int))
    values[:, 1, ..., 3] += 3000 * cells
    source = open_source(values, kind="satellite", window=16)
    place = [(int(i.split()[1]), *map(int, i.split(" at ")[1].split(","))) for i in source.ids]
    y = np.stack([cells[n, a : a + 16, b : b + 16] for n, a, b in place])
    run = made(source, tmp_path / "run", "satmae")
    table = evaluate(run, source, task="segment", targets=y)
    by = {row[0]: row[3].mean for row in table.rows}
    assert by["raw tokens"] > 85 > 70 > by["majority class"]
