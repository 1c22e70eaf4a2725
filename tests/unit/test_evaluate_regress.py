"""Task regress, and its regressions against scikit-learn."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.preprocessing import StandardScaler
from task_tools import made

from anymask.data import DataError
from anymask.evaluation import EvaluateError, evaluate
from anymask.evaluation.regression import ALPHAS, boosting, knn_regression, ridge


@pytest.fixture(scope="module")
def numbers():
    """Images 8 x 8 whose brightness in the left half is the target, with noise of spread 1 in it."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (150, 8, 8)).astype(np.uint8)
    return x, x[:, :, :4].mean((1, 2)) + rng.normal(0, 1, 150)


@pytest.fixture(scope="module")
def run(numbers, tmp_path_factory):
    return made(numbers, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 10)) * np.linspace(0.1, 10, 10) + 3
    y = 4 * x[:, 0] - x[:, 5] + 2 + rng.normal(0, 0.1, 300)
    return x[:200], y[:200], x[200:], y[200:]


def test_a_linear_target_is_found(parts):
    assert ridge(*parts).r2 > 0.999 and ridge(*parts).rmse == pytest.approx(0.1, rel=0.15)
    assert ridge(*parts).r2 > knn_regression(*parts).r2 > 0.5
    assert boosting(*parts).r2 > 0.8


def test_ridge_and_measures_are_those_of_scikit_learn(parts):
    x, y, test_x, test_y = parts
    found = ridge(x[:50], y[:50], test_x, test_y, reference=x)
    scaler = StandardScaler().fit(x)
    theirs = RidgeCV(alphas=ALPHAS).fit(scaler.transform(x[:50]), y[:50])
    said = theirs.predict(scaler.transform(test_x))
    assert np.allclose(found.predicted, said) and found.chosen == {"alpha": theirs.alpha_}
    assert found.r2 == pytest.approx(r2_score(test_y, said))
    assert found.rmse == pytest.approx(root_mean_squared_error(test_y, said))
    assert found.mae == pytest.approx(mean_absolute_error(test_y, said))
    assert found.spearman == pytest.approx(spearmanr(test_y, said).statistic)
    ties = ridge(np.round(x[:50]), y[:50], np.round(test_x), np.round(test_y), reference=np.round(x))
    assert ties.spearman == pytest.approx(spearmanr(np.round(test_y), ties.predicted).statistic)


def test_settings_are_chosen_without_the_test_part(parts):
    x, y, test_x, test_y = parts
    for method in (ridge, knn_regression):
        assert method(x, y, test_x, test_y[::-1]).chosen == method(x, y, test_x, test_y).chosen


def test_the_task_is_chosen_by_continuous_targets(run, numbers):
    table = evaluate(run, numbers, draws=2, samples=(50, "all"))
    assert table.columns == ("features", "method", "training samples", "R2", "RMSE", "MAE", "Spearman")
    assert len(table.rows) == 2 * (3 + 2 + 2)
    raw = table.cell("R2", features="raw input", method="ridge", **{"training samples": "all"})
    few = table.cell("R2", features="raw input", method="ridge", **{"training samples": "50"})
    assert 0.5 < raw.mean <= 1 and few.mean < raw.mean and few.low < few.mean < few.high and raw.low is None
    assert any(row[:2] == ("raw input", "gradient boosting") for row in table.rows)
    untrained = [row[2:] for row in table.rows if row[0] == "untrained encoder"]
    assert untrained == [row[2:] for row in table.rows if row[0] == "pre-trained encoder"]  # weights of the start
    assert any("a fifth of the data" in note for note in table.notes)


def test_samples_without_a_target_are_left_out(run, numbers):
    x, y = numbers
    gaps = np.where(np.arange(150) % 3 == 0, np.nan, y)
    table = evaluate(run, (x, gaps), test=(x, gaps), samples=(10,), draws=1)
    assert "100 test samples" in table.title


def test_bad_input(run, numbers, parts):
    x, _ = numbers
    with pytest.raises(DataError, match="no numbers to predict"):
        evaluate(run, x, task="regress")
    with pytest.raises(DataError, match="are equal"):
        evaluate(run, (x, np.full(150, 0.5)), task="regress", test=numbers)
    with pytest.raises(DataError, match="ask for 120 or fewer"):
        evaluate(run, numbers, samples=(500,))
    with pytest.raises(DataError, match="ask for 5 or more"):
        evaluate(run, numbers, samples=(2,))
    train_x, train_y, test_x, test_y = parts
    for method in (ridge, knn_regression, boosting):
        with pytest.raises(EvaluateError, match=r"training features are not finite \(first: row 3"):
            method(np.where(np.arange(200)[:, None] == 3, np.nan, train_x), train_y, test_x, test_y)
        with pytest.raises(EvaluateError, match="one target a row"):
            method(train_x, train_y[:-1], test_x, test_y)
        with pytest.raises(EvaluateError, match="same run, pool and layer"):
            method(train_x, train_y, test_x[:, :4], test_y)
