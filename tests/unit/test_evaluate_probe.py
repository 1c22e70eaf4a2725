"""The probes against scikit-learn, and their rules."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from anymask.evaluation import EvaluateError, knn, linear_probe
from anymask.evaluation.probe import logistic_regression


@pytest.fixture(scope="module")
def parts():
    x, y = make_classification(600, 20, n_informative=8, n_classes=4, class_sep=0.7, random_state=0)
    x = (x * np.linspace(0.1, 10, 20) + 5).astype(np.float32)
    return x[:400], y[:400], x[400:], y[400:]


@pytest.mark.parametrize("strength", [1e-3, 0.1, 1.0])
def test_coefficients_are_those_of_scikit_learn(parts, strength):
    x, y = StandardScaler().fit_transform(parts[0]), parts[1]
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(x, y)
    weight, bias = logistic_regression(
        torch.from_numpy(x).float(), torch.from_numpy(y), [strength], tolerance=1e-4, steps=5000
    )
    assert np.abs(weight[0].T.numpy() - theirs.coef_).max() < 5e-3 * np.abs(theirs.coef_).max()
    # scikit-learn leaves the common part of the intercepts where it started
    assert np.allclose((bias[0] - bias[0].mean()).numpy(), theirs.intercept_ - theirs.intercept_.mean(), atol=5e-3)


def test_several_problems_at_once_are_the_same_as_one_by_one(parts):
    x, y = torch.from_numpy(parts[0]), torch.from_numpy(parts[1])
    inside = (torch.arange(len(x)) % 5 != 0).float()
    both, _ = logistic_regression(x, y, [0.1, 1.0], weight=inside.expand(2, -1), tolerance=1e-4, steps=5000)
    kept = inside.bool()
    one, _ = logistic_regression(x[kept], y[kept], [1.0], tolerance=1e-4, steps=5000)
    assert torch.allclose(both[1], one[0], atol=1e-2 * float(one.abs().max()))


def test_fewer_samples_than_features():
    x, y = load_digits(return_X_y=True)
    chosen = np.concatenate([np.flatnonzero(y == c)[:2] for c in range(10)])
    scaled = StandardScaler().fit(x).transform(x)
    theirs = LogisticRegression(C=0.1, tol=1e-8).fit(scaled[chosen], y[chosen]).predict(scaled)
    ours = linear_probe(x[chosen], y[chosen], x, y, reference=x)
    assert ours.chosen == 0.1
    assert (ours.predicted == theirs).mean() > 0.99


def test_the_strength_is_chosen_on_the_training_part(parts):
    found = linear_probe(*parts)
    scaler = StandardScaler().fit(parts[0])
    theirs = LogisticRegression(C=found.chosen, max_iter=1000).fit(scaler.transform(parts[0]), parts[1])
    assert found.accuracy == pytest.approx(theirs.score(scaler.transform(parts[2]), parts[3]), abs=0.01)
    assert found.correct.mean() == pytest.approx(found.accuracy)
    shuffled = linear_probe(*parts[:3], parts[3][::-1])
    assert shuffled.chosen == found.chosen


def test_neighbours_are_those_of_scikit_learn(parts):
    scaler = StandardScaler().fit(parts[0])
    train, test = scaler.transform(parts[0]), scaler.transform(parts[2])
    theirs = KNeighborsClassifier(1, metric="cosine").fit(train, parts[1]).score(test, parts[3])
    assert knn(*parts, neighbours=[1]).accuracy == pytest.approx(theirs, abs=0.006)
    assert knn(*parts).accuracy >= theirs


def test_one_label_a_class_has_one_neighbour(parts):
    first = np.array([np.flatnonzero(parts[1] == c)[0] for c in range(4)])
    found = knn(parts[0][first], parts[1][first], *parts[2:])
    assert found.chosen == 1
    assert set(found.predicted) <= {0, 1, 2, 3}


def test_labels_may_be_any_numbers(parts):
    x, y, test_x, test_y = parts
    assert linear_probe(x, y * 10 + 7, test_x, test_y * 10 + 7).accuracy == linear_probe(*parts).accuracy


def test_errors_name_the_mend(parts):
    x, y, test_x, test_y = parts
    with pytest.raises(EvaluateError, match="at least two classes"):
        linear_probe(x, np.zeros(len(x), int), test_x, test_y)
    with pytest.raises(EvaluateError, match="one label a row"):
        knn(x, y[:-1], test_x, test_y)
    with pytest.raises(EvaluateError, match="row 3"):
        linear_probe(np.where(np.arange(len(x))[:, None] == 3, np.nan, x), y, test_x, test_y)
    with pytest.raises(EvaluateError, match="same run, pool and layer"):
        linear_probe(x, y, test_x[:, :5], test_y)
