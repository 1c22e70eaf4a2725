"""Task `health`, and which task is taken by default."""

import numpy as np
import pytest
import torch
from task_tools import digits, made

from anymask.data import DataError, open_source
from anymask.evaluation import EvaluateError, evaluate
from anymask.evaluation.metrics import alignment, spectrum, uniformity
from anymask.evaluation.tasking import default_task
from anymask.evaluation.tasks.health import visible_features
from anymask.run import Run


def test_spectrum_of_features_with_a_known_one():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    u = np.linalg.qr(rng.normal(size=(40, 3)) - rng.normal(size=(40, 3)).mean(0))[0]
    u = np.linalg.qr(u - u.mean(0))[0]  # centred and orthogonal
    found = spectrum(torch.from_numpy(u @ np.diag([2.0, 1.0, 1.0]) @ axes[:3]))
    share = np.array([0.5, 0.25, 0.25])
    assert found.rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert found.axes == 3 and found.first == pytest.approx(4 / 6)
    assert spectrum(torch.ones(10, 4)) == (1.0, 0, 0.0)


def test_alignment_and_uniformity_by_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 5)), rng.normal(size=(12, 5))
    ua, ub = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    assert alignment(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(((ua - ub) ** 2).sum(1).mean())
    pairs = [np.exp(-2 * ((ua[i] - ua[j]) ** 2).sum()) for i in range(12) for j in range(i)]
    assert uniformity(torch.from_numpy(a)) == pytest.approx(np.log(np.mean(pairs)))
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0) and alignment(torch.ones(4, 3), torch.ones(4, 3)) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made("digits", tmp_path_factory.mktemp("run"))


def collapsed(run, folder):
    """The same run, whose encoder has become the same for every sample."""
    again = Run(folder, run.recipe, run.size, run.schema, run.settings)
    again.save()
    model = run.model()
    with torch.no_grad():
        model.encoder.norm.weight.mul_(1e-4)
    again.save_weights(model)
    return again


def test_the_table(run, tmp_path):
    table = evaluate(run, digits(), task="health", parts=4)
    assert table.columns == ("figure", "raw input", "untrained encoder", "pre-trained encoder")
    assert "4 random parts of 50 samples" in table.notes[0]
    same = [row[2] == row[3] for row in table.rows[:-1]]
    assert all(same)  # the weights are those of the start
    rank = table.cell("raw input", figure="effective rank")
    assert rank.low < rank.mean < rank.high and 25 < rank.mean < 50
    share = table.cell("raw input", figure="effective rank, % of width")
    assert share.mean == pytest.approx(100 * rank.mean / 64)
    assert table.cell("raw input", figure="alignment") is None
    assert 0 < table.cell("pre-trained encoder", figure="alignment").mean < 2
    assert table.rows[-1] == ("collapsed", None, None, "no")


def test_an_encoder_that_has_collapsed_is_called_so(run, tmp_path):
    again = collapsed(run, tmp_path)
    with torch.no_grad():
        model = again.model()
        model.encoder.norm.bias.fill_(1.0)
    again.save_weights(model)
    table = evaluate(again, digits(), task="health", parts=3)
    assert table.rows[-1][-1] == "yes"
    assert table.cell("pre-trained encoder", figure="uniformity").mean > -0.01


def test_two_views_are_of_visible_tokens_only(run):
    from task_tools import sample_of

    model = run.model()
    images = torch.rand(3, 1, 8, 8) * 16
    sample = sample_of(images)
    step = model.hide(sample)
    hidden = ~step.mask.visible  # 3 16, patches of 2 x 2
    pixels = hidden.view(3, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    other = {**sample, "image": torch.where(pixels, 16 - images, images)}
    assert torch.equal(visible_features(model, sample), visible_features(model, other))


@pytest.mark.parametrize("recipe", ["simmim", "gmml", "maskfeat", "crossmae"])
def test_every_recipe_has_views(recipe, tmp_path):
    table = evaluate(made("digits", tmp_path, recipe), digits(100), task="health", parts=2)
    assert all(cell.mean == cell.mean for cell in (row[3] for row in table.rows[:-1]))


def test_too_few_samples(run):
    with pytest.raises(DataError, match="20 samples, too few for 5 parts of 8; give 40"):
        evaluate(run, digits(20), task="health")
    with pytest.raises(DataError, match="parts=2"):
        evaluate(run, digits(20), task="health", samples=10)
    with pytest.raises(EvaluateError, match="samples=8 or more"):
        evaluate(run, digits(20), task="health", samples=3)


def test_what_is_measured_by_default(run):
    plain = open_source(np.random.default_rng(0).random((50, 8, 8), dtype=np.float32) * 16)
    assert default_task(plain) == "health" and default_task(digits()) == "classify"
    assert default_task(plain, {"labels": (1,)}) == "classify"  # whose error says that there are none
    assert evaluate(run, plain).columns[0] == "figure"
