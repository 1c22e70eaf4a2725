"""Classical imputers and the measures of imputation, against plain formulas; ranks against Demsar 2006."""

import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer

from anymask.evaluation.classical import IMPUTERS, min_max, rmse, wasserstein
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.missing import mcar
from anymask.evaluation.ranks import critical_difference, ranks


@pytest.fixture(scope="module")
def table():
    """(150, 5) of rank two with noise, and a mask."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((150, 2)) @ rng.standard_normal((2, 5)) + 0.1 * rng.standard_normal((150, 5))
    return x, mcar(x, rate=0.25, seed=0)


@pytest.mark.parametrize("name", IMPUTERS)
@pytest.mark.parametrize("apart", [False, True])
def test_everything_is_filled_and_observed_cells_stay(table, name, apart):
    x, missing = table
    incomplete = np.where(missing, np.nan, x)
    incomplete[:, 4] = np.nan if not apart else incomplete[:, 4]  # a column without any value
    filled = IMPUTERS[name](incomplete, more=x[:100] if apart else None, seed=1)
    assert filled.shape == x.shape and np.isfinite(filled).all()
    there = ~np.isnan(incomplete)
    assert (filled[there] == x[there]).all()
    assert (filled == IMPUTERS[name](incomplete, more=x[:100] if apart else None, seed=1)).all()


def test_imputers_are_those_of_the_protocol(table):
    x, missing = table
    incomplete = np.where(missing, np.nan, x)
    assert IMPUTERS["mean"](incomplete)[missing] == pytest.approx(
        np.broadcast_to(np.nanmean(incomplete, 0), x.shape)[missing]
    )
    assert IMPUTERS["knn"](incomplete) == pytest.approx(KNNImputer(n_neighbors=5).fit_transform(incomplete))
    with pytest.warns(ConvergenceWarning):
        theirs = IterativeImputer(max_iter=10, random_state=0).fit_transform(incomplete)
    assert IMPUTERS["iterative"](incomplete, seed=0) == pytest.approx(theirs)


def test_imputers_learn_from_further_rows(table):
    x, missing = table
    few = np.where(missing, np.nan, x)[:12]
    for name, fill in IMPUTERS.items():
        alone, helped = (rmse(x[:12], fill(few, more=more), missing[:12]) for more in (None, x[12:]))
        assert helped < alone, name
    both = np.concatenate([few, x[12:]])
    assert IMPUTERS["mean"](few, more=x[12:])[missing[:12]] == pytest.approx(
        np.broadcast_to(np.nanmean(both, 0), few.shape)[missing[:12]]
    )


def test_what_uses_the_other_columns_beats_the_mean(table):
    x, missing = table
    error = {name: rmse(x, fill(np.where(missing, np.nan, x)), missing) for name, fill in IMPUTERS.items()}
    assert max(error[name] for name in ("knn", "iterative", "forest")) < 0.8 * error["mean"]


def test_rmse_counts_removed_cells_only():
    truth, filled = np.zeros((2, 2)), np.array([[3.0, 100.0], [4.0, 0.0]])
    missing = np.array([[True, False], [True, False]])
    assert rmse(truth, filled, missing) == pytest.approx(np.sqrt((9 + 16) / 2))
    with pytest.raises(EvaluateError, match="no cell was removed"):
        rmse(truth, filled, np.zeros((2, 2), bool))
    with pytest.raises(EvaluateError, match="alike"):
        rmse(truth, filled[:1], missing)


def test_wasserstein_is_the_distance_of_the_sorted_columns(table):
    x, missing = table
    filled = IMPUTERS["mean"](np.where(missing, np.nan, x))
    assert wasserstein(x, filled) == pytest.approx(np.abs(np.sort(x, 0) - np.sort(filled, 0)).mean())
    known = x.copy()
    known[:50, 0] = np.nan
    first = np.abs(np.sort(x[50:, 0]) - np.sort(filled[50:, 0])).mean()
    rest = np.abs(np.sort(x[:, 1:], 0) - np.sort(filled[:, 1:], 0)).mean(0)
    assert wasserstein(known, filled) == pytest.approx(np.mean([first, *rest]))


def test_min_max_ignores_missing_cells_and_columns_without_spread():
    low, spread = min_max(np.array([[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan]]))
    assert low.tolist() == [1, 5, 0] and spread.tolist() == [2, 1, 1]


@pytest.mark.parametrize("methods, q", [(3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_the_published_table(methods, q):
    assert critical_difference(methods, 14) == pytest.approx(q * np.sqrt(methods * (methods + 1) / (6 * 14)), rel=1e-3)


def test_the_published_example():
    """Demsar 2006, section 3.2.2: four variants on 14 data sets have a critical difference of 1.25."""
    assert round(critical_difference(4, 14), 2) == 1.25
    assert round(critical_difference(4, 14, alpha=0.10), 2) == 1.12


def test_ranks_ties_and_groups():
    scores = np.array([[0.1, 0.2, 0.2, 0.9]] * 10 + [[0.2, 0.1, 0.3, 0.9]] * 10)
    found = ranks(scores, ["a", "b", "c", "d"])
    # a 1 and 2, b 2.5 and 1, c 2.5 and 3, d 4
    assert dict(zip(found.names, found.average)) == {"a": 1.5, "b": 1.75, "c": 2.75, "d": 4.0}
    assert (found.statistic, found.p) == pytest.approx(tuple(stats.friedmanchisquare(*scores.T)))
    assert found.critical == pytest.approx(1.049, abs=1e-3)
    assert found.groups() == [(0, 1), (1, 2)]  # a-b, b-c; neither a-c (1.25) nor c-d (1.25)
    assert ranks(-scores, ["a", "b", "c", "d"], larger_is_better=True).average == found.average


def test_equal_methods_are_one_group():
    found = ranks(np.zeros((5, 3)), ["a", "b", "c"])
    assert found.p == 1 and found.groups() == [(0, 2)]


def test_ranks_need_every_score():
    with pytest.raises(EvaluateError, match="every method on every data set"):
        ranks(np.array([[1.0, 2.0, np.nan], [1, 2, 3]]), ["a", "b", "c"])
    with pytest.raises(EvaluateError, match="three methods"):
        ranks(np.zeros((4, 2)), ["a", "b"])
