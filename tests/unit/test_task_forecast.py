"""Task `forecast`: figures by hand, classical forecasts, what is hidden, tables and images."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from task_tools import Classes, Words, digits, made

from anymask.data import DataError, open_source
from anymask.evaluation import EvaluateError, evaluate
from anymask.evaluation.masked import batches
from anymask.evaluation.tasks.forecast import ALPHAS, _hidden, classical
from anymask.parts.losses import cross_entropy
from anymask.recipe import P


@pytest.fixture(scope="module")
def waves():
    """A table whose columns are steps: waves of period 4 with a trend."""
    rng = np.random.default_rng(0)
    t = np.arange(16)
    height, phase, slope = (rng.normal(size=(160, 1)) for _ in range(3))
    return height * np.sin(np.pi / 2 * t + 3 * phase) + 0.1 * slope * t + 0.05 * rng.normal(size=(160, 16))


def test_classical_forecasts():
    past = np.arange(12.0).reshape(2, 6, 1)
    train = np.random.default_rng(0).normal(size=(30, 11, 1))
    found = classical(train, past, season=3)
    assert found["last value"][..., 0].tolist() == [[5] * 5, [11] * 5]
    assert found["seasonal"][0, :, 0].tolist() == [3, 4, 5, 3, 4]
    theirs = RidgeCV(ALPHAS).fit(train[:, :6, 0], train[:, 6:, 0]).predict(past[..., 0])
    assert np.allclose(found["linear"][..., 0], theirs)
    assert np.allclose(found["mean of the place"][1], train[:, 6:].mean(0))


def test_figures_by_hand(waves, tmp_path):
    run = made(waves, tmp_path, "remasker")
    table = evaluate(run, waves[:120], test=waves[120:], task="forecast", horizon=5, season=4)
    assert [row[0] for row in table.rows] == [
        "last value", "seasonal", "mean of the place", "linear", "untrained model", "pre-trained model",
    ]  # fmt: skip
    field = run.schema.fields["table"]
    low, high = np.array(field.lows), np.array(field.highs)
    x = ((waves - low) / (high - low))[120:]
    last = x[:, 10:11] - x[:, 11:]
    assert table.cell("MSE", forecast="last value").mean == pytest.approx((last**2).mean(), rel=1e-4)
    assert table.cell("MAE", forecast="last value").mean == pytest.approx(np.abs(last).mean(), rel=1e-4)
    model = run.model()
    (step,) = _hidden(model, batches(model, run.schema, open_source(waves[120:]), fixed=True), 0, 5)
    assert (step.mask.visible == (torch.arange(16) < 11)).all()
    with torch.no_grad():
        guess = model.predict(step).pred["cells"][..., 0].numpy()
    order = step.mask.ask.numpy()
    gap = guess - np.take_along_axis(x, order, 1)
    assert table.cell("MSE", forecast="pre-trained model").mean == pytest.approx((gap**2).mean(), rel=1e-4)
    assert table.cell("MSE", forecast="linear").mean < table.cell("MSE", forecast="last value").mean


def test_the_lower_half_of_images(tmp_path):
    run, some = made("digits", tmp_path), digits(150)
    table = evaluate(run, some, test=digits(50, seed=1), task="forecast", horizon=2)
    assert any("4 steps of past, 4 of future" in note for note in table.notes)
    images = np.stack([sample["image"][0] for sample in digits(50, seed=1)])
    field = run.schema.fields["image"]
    gap = (images[:, 3:4] - images[:, 4:]) / field.std[0]
    assert table.cell("MSE", forecast="last value").mean == pytest.approx((gap**2).mean(), rel=1e-4)
    right = evaluate(run, some, test=digits(50, seed=1), task="forecast", horizon=1, axis=1)
    gap = (images[:, :, 5:6] - images[:, :, 6:]) / field.std[0]
    assert right.cell("MAE", forecast="last value").mean == pytest.approx(np.abs(gap).mean(), rel=1e-4)


def test_errors_name_the_mend(waves, tmp_path):
    run = made(waves, tmp_path / "run", "remasker")
    with pytest.raises(EvaluateError, match="horizon of 1 to 15"):
        evaluate(run, waves, task="forecast", horizon=16)
    with pytest.raises(EvaluateError, match="axis= as 0 to 0, not 1"):
        evaluate(run, waves, task="forecast", axis=1)
    with pytest.raises(EvaluateError, match="season of 1 to 12"):
        evaluate(run, waves, task="forecast", season=13)
    holed = waves.copy()
    holed[::3, 1] = np.nan
    with pytest.raises(DataError, match="without missing values"):
        evaluate(run, holed, task="forecast")
    words = {"mask.unit": 1, "tokenizer": P(Words), "loss": cross_entropy}
    with pytest.raises(EvaluateError, match="real numbers on a grid"):
        evaluate(made("digits", tmp_path / "w", "simmim", {**words, "target": P(Classes)}), digits(20), task="forecast")
