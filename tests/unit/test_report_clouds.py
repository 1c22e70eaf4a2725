"""Point clouds and lidar windows as they are drawn, from training to report; and how well hidden groups are filled."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from train_tools import run

from anymask.claims import ClaimError, FewLabels, Rebuild
from anymask.data import few_label_draws, infer_schema, open_source
from anymask.engine import Step
from anymask.evaluation import embed, evaluate
from anymask.evaluation.masked import hide
from anymask.evaluation.probe import linear_probe
from anymask.reports import Panel, renderer_of, report
from anymask.reports.clouds import GAP, MADE, SIDE, THERE, _from_above
from anymask.train.measure import first_batch


def clouds(n=12, points=96):
    x = np.random.default_rng(0).normal(size=(n, points, 3))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    return (x * np.where(np.arange(n) % 2, 1, 0.2)[:, None, None] ** [0, 0, 1]).astype("f4"), np.arange(n) % 2


def sweeps(n=2):
    rng = np.random.default_rng(1)
    one = lambda: np.column_stack([rng.uniform(-32, 32, (4000, 2)), rng.normal(size=4000), rng.random(4000)])
    each = [one() for _ in range(n)]
    return open_source([sweep.astype("f4") for sweep in each], kind="lidar")


@pytest.fixture(scope="module")
def cloud_run(tmp_path_factory):
    data = clouds()
    return run(tmp_path_factory.mktemp("runs") / "points", data, steps=4), data


@pytest.fixture(scope="module")
def lidar_run(tmp_path_factory):
    source = sweeps().subset(range(20, 32))
    return run(tmp_path_factory.mktemp("runs") / "lidar", source, steps=3, batch_size=4), source


def panels(made, count=3):
    trained, data = made
    model = trained.model()
    sample = first_batch(open_source(data), trained.schema, count)
    step = Step(sample, model.tokenizer(sample), aux={})
    n = step.tokens.shape[1]
    step = hide(model, step, torch.rand(count, n, generator=torch.Generator().manual_seed(0)), 0.5)
    x = step.tokens.x[model.tokenizer.field]
    if step.tokens.valid is not None:
        x = torch.where(step.tokens.valid[..., None], x, torch.nan)
    real = torch.ones_like(step.mask.visible) if step.tokens.valid is None else step.tokens.valid
    shown = step.mask.visible
    return renderer_of(model), [Panel("original", x), Panel("seen", x, shown),
                                Panel("made", x, torch.ones_like(shown), predicted=~shown & real),
                                Panel("norm", x, values=torch.rand(x.shape[:2]))]  # fmt: skip


def pixels(drawing):
    return np.asarray(Image.open(io.BytesIO(drawing.png)).convert("RGBA")).astype(int)


@pytest.mark.parametrize("views, which", [(2, "cloud_run"), (1, "lidar_run")])
def test_what_is_there_hidden_and_predicted_look_different(views, which, request):
    renderer, each = panels(request.getfixturevalue(which))
    original, seen, made, norm = (renderer.draw([panel])[0] for panel in each)
    for drawing in (original, seen, made, norm):
        assert pixels(drawing).shape == (3 * views * (SIDE + GAP) - GAP, SIDE, 4)
        assert (pixels(drawing)[..., 3] == 0).any()  # on transparent ground
    tint = lambda drawing: pixels(drawing)[pixels(drawing)[..., 3] > 200][:, :3]
    blue, orange = (lambda x: (x[:, 2] > x[:, 0] + 30).mean()), (lambda x: (x[:, 0] > x[:, 2] + 30).mean())
    assert blue(tint(original)) > 0.9 and orange(tint(original)) == 0
    assert orange(tint(made)) > 0.1 and blue(tint(made)) > 0.1
    covered = [(pixels(drawing)[..., 3] > 200).sum() for drawing in (original, seen)]
    assert covered[1] < covered[0] and "hidden" in seen.alt and "predicted" in made.alt and "value" in norm.alt


def test_tones_show_on_light_and_on_dark_ground():
    def luminance(rgb):
        linear = [(v / 255 / 12.92) if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for tone in (THERE, MADE):
        for ground in ((255, 255, 255), (27, 31, 36)):
            low, high = sorted((luminance(tone), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) > 3  # WCAG 2.1, 1.4.11: graphics


def test_forward_is_up_and_left_is_left():
    at = _from_above(np.array([[5.0, 0.0], [0.0, 5.0]]), np.zeros(2), 10.0)
    assert at.tolist() == [[0.0, 0.5], [-0.5, 0.0]]


@pytest.mark.parametrize("which", ["cloud_run", "lidar_run"])
def test_reports_are_whole(which, request, tmp_path):
    trained, data = request.getfixturevalue(which)
    path = report([trained.folder], open_source(data), tmp_path / "r.html", samples=12)
    text = path.read_text()
    assert text.count("data:image/png") > 8 and "groups" in text + "groups" * (which == "lidar_run")
    assert "cannot be drawn" not in text and path.stat().st_size < 3e6


@pytest.mark.parametrize("which, measure", [("cloud_run", "chamfer distance x 1000"),
                                            ("lidar_run", "chamfer distance (square metres)")])  # fmt: skip
def test_hidden_groups_are_filled_and_measured_by_their_distance(which, measure, request):
    trained, data = request.getfixturevalue(which)
    table = evaluate(trained, open_source(data), task="reconstruct", ratios=(0.5,), draws=2, samples=6)
    names = [row[0] for row in table.rows]
    assert names == ["most typical token", "nearest visible token", "untrained model", "pre-trained model"]
    assert {row[1] for row in table.rows} == {measure} and all(row[2].mean > 0 for row in table.rows)


def test_features_of_clouds_and_windows(cloud_run, lidar_run):
    for trained, data in (cloud_run, lidar_run):
        source = open_source(data)
        whole = embed(trained, source)
        assert whole.shape == (len(source), trained.size.width) and np.isfinite(whole).all()
        np.testing.assert_allclose(embed(trained, source, batch_size=3), whole, atol=1e-4)


def test_few_labels_beside_voxels(cloud_run):
    trained, data = cloud_run
    table = evaluate(trained, open_source(data), labels=[2], draws=2)
    assert [row[0] for row in table.rows][::2] == ["raw input", "untrained encoder", "pre-trained encoder"]
    assert any("8 x 8 x 8 voxels" in note for note in table.notes)


def test_windows_without_points_are_embedded(lidar_run):
    trained, _ = lidar_run
    source = open_source([np.array([[1.0, 1, 0, 0]] * 5, dtype="f4"), np.array([[9.0, 9, 0, 0]] * 5, dtype="f4")],
                         kind="lidar")  # fmt: skip
    assert infer_schema(source).fields["lidar"].sizes[0] == (0,)
    z = embed(trained, source)
    assert np.isfinite(z).all() and (np.abs(z).sum(1) == 0).sum() > 40


def test_few_labels_are_how_often_a_sample_is_right():
    x, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 2
    x[:, 0] += 3 * y
    train = open_source((np.concatenate([x, np.zeros((30, 60 - 4))], 1).reshape(30, 20, 3), y)).subset(range(20))
    test = SimpleNamespace(labels=y[20:])
    metric = FewLabels(labels=3, draws=7)
    found = metric._correct(train, test, x[:20], x[20:])
    right = [linear_probe(x[:20][d], y[:20][d], x[20:], y[20:], reference=x[:20], seed=0).correct
             for d in few_label_draws(y[:20], 3, 7, 0)]  # fmt: skip
    np.testing.assert_allclose(found, 100 * np.mean(right, 0))
    assert "3 labels a class, 7 draws" in metric.words()


def test_rebuilding_is_measured_on_a_sweep_that_was_not_trained_on(lidar_run):
    trained, _ = lidar_run
    whole = sweeps()
    train, test = Rebuild().parts(whole, np.arange(0, len(whole), 2))
    assert set(train.groups) == {"sweep 0"} and set(test.groups) == {"sweep 1"} and len(test) == 49
    few = test.subset(range(22, 27))
    scores = Rebuild(ratio=0.5).scores(trained, train, few)
    assert scores.shape == (5,) and (scores < 0).all()
    np.testing.assert_allclose(Rebuild(ratio=0.5).scores(trained, train, few), scores)
    with pytest.raises(ClaimError, match="neither a test split nor groups"):
        Rebuild().parts(open_source(clouds()), np.arange(4))
