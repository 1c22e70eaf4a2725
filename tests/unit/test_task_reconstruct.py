"""Task `reconstruct`: figures by hand, classical fillings against references, Chamfer distance against a k-d tree."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from task_tools import Classes, Words, digits, made

from anymask import keyed
from anymask.evaluation import EvaluateError, evaluate
from anymask.evaluation.infill import Gaussian, interpolated, nearest
from anymask.evaluation.masked import batches
from anymask.evaluation.metrics import chamfer, psnr
from anymask.evaluation.tasks.reconstruct import hidden_at
from anymask.parts.losses import cross_entropy
from anymask.recipe import P


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made("digits", tmp_path_factory.mktemp("run"))


def test_chamfer_is_that_of_a_tree():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 50, 3)), rng.normal(size=(3, 37, 3))
    theirs = [(cKDTree(q).query(p)[0] ** 2).mean() + (cKDTree(p).query(q)[0] ** 2).mean() for p, q in zip(a, b)]
    for rows in (1024, 7):
        assert np.allclose(chamfer(torch.from_numpy(a), torch.from_numpy(b), rows=rows), theirs)
    assert chamfer(torch.from_numpy(a), torch.from_numpy(a)).max() == 0


def test_psnr():
    assert psnr(255.0**2 / 100, 255.0) == pytest.approx(20) and psnr(0.0, 1.0) == float("inf")


def test_the_best_linear_prediction_is_a_regression():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 5
    test = train[:20]
    visible = torch.tensor([True, False, True, True, False, True])
    fill = Gaussian(torch.from_numpy(train).view(-1, 6, 1))
    found = fill(torch.from_numpy(test).view(-1, 6, 1), visible.expand(20, -1))[..., 0].numpy()
    known = visible.numpy()
    design = np.c_[np.ones(4000), train[:, known]]
    weight = np.linalg.lstsq(design, train[:, ~known], rcond=None)[0]
    assert np.array_equal(found[:, known], test[:, known])
    assert np.allclose(found[:, ~known], np.c_[np.ones(20), test[:, known]] @ weight, atol=0.05)


def test_missing_training_values_do_not_count_in_the_mean():
    x = torch.tensor([[[1.0], [2.0]], [[3.0], [0.0]], [[5.0], [4.0]]])
    valid = torch.tensor([[True, True], [True, False], [True, True]])
    assert Gaussian(x, valid).mean.tolist() == [3.0, 3.0]


def test_nearest_and_interpolated():
    pos = torch.arange(5.0)[None, :, None]
    x = torch.tensor([10.0, 20, 30, 40, 50]).view(1, 5, 1)
    visible = torch.tensor([[True, False, False, False, True]])
    assert nearest(x, visible, pos).flatten().tolist() == [10, 10, 10, 50, 50]
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = torch.stack([2 * rows + columns, 3 - columns])[None]
    shown = torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    shown[:, [0, 0, -1, -1], [0, -1, 0, -1]] = True  # the corners: all else lies between
    assert torch.allclose(interpolated(plane, shown), plane, atol=1e-5)
    line = torch.zeros(1, 6, 7, dtype=torch.bool)
    line[:, 2] = True  # no triangle: the nearest of the line
    assert torch.equal(interpolated(plane, line), plane[:, :, 2:3].expand(-1, -1, 6, -1))


def test_figures_by_hand(run):
    some = digits(40)
    table = evaluate(run, some, test=some, task="reconstruct", ratios=(0.5,), draws=2)
    model, rmse = run.model(), []
    for draw in range(2):
        for sample in batches(model, run.schema, some):
            step = hidden_at(model, sample, 0.5, keyed.fold(keyed.fold(sample["key"], 0), draw))
            with torch.no_grad():
                pred = model.predict(step).pred["pixels"] * model.tokenizer.std
            truth = step.tokens.x["image"] * model.tokenizer.std
            gaps = [pred[b, m] - truth[b, n] for b in range(40) for m, n in enumerate(step.mask.ask[b].tolist())]
            assert len(gaps) == 40 * 8
            rmse.append(torch.stack(gaps).square().mean().sqrt().item())
    cell = next(row[2] for row in table.rows if row[:2] == ("pre-trained model", "RMSE"))
    assert cell.mean == pytest.approx(np.mean(rmse), rel=1e-5)
    decibels = next(row[2] for row in table.rows if row[:2] == ("pre-trained model", "PSNR (dB)"))
    span = run.schema.fields["image"].high - run.schema.fields["image"].low
    assert decibels.mean == pytest.approx(np.mean([20 * np.log10(span / r) for r in rmse]), rel=1e-5)


def test_the_order_of_methods_on_digits(run):
    table = evaluate(run, "digits", task="reconstruct", ratios=(0.5,), samples=100, draws=1)
    rmse = {row[0]: row[2].mean for row in table.rows if row[1] == "RMSE"}
    assert rmse["best linear prediction"] < rmse["mean of the place"] < rmse["nearest visible token"]
    assert rmse["pre-trained model"] == rmse["untrained model"]  # the weights are those of the start


def test_integers(tmp_path):
    changes = {"mask.unit": 1, "tokenizer": P(Words), "loss": cross_entropy, "target": P(Classes)}
    run = made("digits", tmp_path, "simmim", changes)
    some = digits(60)
    table = evaluate(run, some, test=some, task="reconstruct", ratios=(0.75,), draws=1)
    pixels = np.stack([some[i]["image"] for i in range(60)])
    counts = np.bincount(np.clip(pixels / 4, 0, 3).astype(int).ravel(), minlength=4)
    share = counts / counts.sum()
    entropy = next(row[2].mean for row in table.rows if row[:2] == ("frequency in training", "cross-entropy (nats)"))
    assert entropy == pytest.approx(-(share * np.log(share)).sum(), abs=0.05)
    perplexity = next(row[2].mean for row in table.rows if row[:2] == ("frequency in training", "perplexity"))
    assert perplexity == pytest.approx(np.exp(entropy))
    assert next(row[2].mean for row in table.rows if row[0] == "untrained model") == pytest.approx(np.log(4), abs=0.4)


def test_tables_with_gaps(tmp_path):
    rows = np.random.default_rng(0).normal(size=(150, 6)).cumsum(1)
    rows[::5, 2] = np.nan
    table = evaluate(made(rows, tmp_path, "remasker"), rows, task="reconstruct", ratios=(0.5,), draws=2)
    rmse = {row[0]: row[2].mean for row in table.rows}
    assert rmse["best linear prediction"] < rmse["mean of the place"]
    assert "linear interpolation" not in rmse and all(row[1] == "RMSE" for row in table.rows)
    assert any("units of the tokenizer" in note for note in table.notes)


def test_what_is_borrowed_is_said(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
    table = evaluate(made(images, tmp_path), images, task="reconstruct", ratios=(0.5,), draws=1, samples=5)
    assert any("borrows the mean and spread" in note for note in table.notes)


def test_errors_name_the_mend(run, tmp_path):
    with pytest.raises(EvaluateError, match="predicts hog, not the content"):
        evaluate(made("digits", tmp_path, "maskfeat"), digits(20), task="reconstruct")
    with pytest.raises(EvaluateError, match="above 0 and below 1"):
        evaluate(run, digits(20), task="reconstruct", ratios=(0.5, 1.0))
