"""The makers of missing cells: rates, and what the removal depends on."""

import numpy as np
import pytest

from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.missing import MECHANISMS, make_missing, mar, mcar, mnar


@pytest.fixture(scope="module")
def table():
    """(4000, 6): correlated columns of different scales."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 6)) @ rng.standard_normal((6, 6))
    return x * np.array([1, 10, 0.1, 5, 1, 100]) + np.array([0, 3, -7, 50, 0, 1e4])


def shift(values, missing):
    """How far the mean of the removed values lies from that of the others, in standard errors."""
    gone, stay = values[missing], values[~missing]
    return (gone.mean() - stay.mean()) / (values.std() * np.sqrt(1 / len(gone) + 1 / len(stay)))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
def test_the_rate_is_met_and_the_seed_decides(table, mechanism, rate):
    missing = make_missing(table, mechanism=mechanism, rate=rate, seed=3)
    assert missing.dtype == bool and missing.shape == table.shape
    assert missing.mean() == pytest.approx(rate, abs=0.012)  # 3.7 standard errors of 24,000 draws at 0.5
    assert (missing == make_missing(table, mechanism=mechanism, rate=rate, seed=3)).all()
    assert (missing != make_missing(table, mechanism=mechanism, rate=rate, seed=4)).any()


def test_mcar_is_the_documented_draw_and_does_not_read_the_values(table):
    missing = mcar(table, rate=0.3, seed=7)
    drawn = np.random.RandomState(7).rand(*table.shape) < 0.3
    emptied = drawn.all(1)
    assert 0 < emptied.sum() < 12  # 2.9 rows of 4,000 are expected to lose all six
    assert (missing == drawn)[~emptied].all() and (missing[emptied].sum(1) == 5).all()
    assert (missing == mcar(table[::-1] ** 3, rate=0.3, seed=7)).all()
    assert max(abs(shift(table[:, i], missing[:, j])) for i in range(6) for j in range(6)) < 4


def test_mar_depends_on_the_columns_that_stay_and_on_nothing_else(table):
    missing = mar(table, rate=0.3, seed=1)
    whole = ~missing.any(0)
    assert whole.sum() == 2  # 0.3 of 6
    others = np.flatnonzero(~whole)
    assert max(abs(shift(table[:, i], missing[:, j])) for i in np.flatnonzero(whole) for j in others) > 10
    changed = table.copy()
    changed[:, others] = np.random.default_rng(5).standard_normal((len(table), len(others)))
    assert (mar(changed, rate=0.3, seed=1) == missing).all()  # no row loses all, as two columns stay
    changed = table.copy()
    changed[:, whole] = changed[::-1, whole]
    assert (mar(changed, rate=0.3, seed=1) != missing).any()


def test_mnar_depends_on_the_own_value_only(table):
    missing = mnar(table, rate=0.3, seed=1)
    own = [shift(table[:, j], missing[:, j]) for j in range(6)]
    assert min(abs(s) for s in own) > 10
    assert {np.sign(s) for s in own} == {-1.0, 1.0}  # large values in some columns, small ones in others
    assert missing.mean(0) == pytest.approx(np.full(6, 0.3), abs=0.03)
    changed = table.copy()
    changed[:, 1:] = changed[::-1, 1:]
    # 3 rows of 4,000 are expected to lose all six, in which one cell is given back
    assert (mnar(changed, rate=0.3, seed=1)[:, 0] != missing[:, 0]).sum() < 12


def test_mar_leaves_fewer_columns_whole_where_the_rate_needs_them(table):
    missing = mar(table, rate=0.7, seed=0)
    assert (~missing.any(0)).sum() == 1
    assert missing.mean() == pytest.approx(0.7, abs=0.012)
    with pytest.raises(EvaluateError, match=r"a rate up to 0\.75"):
        mar(table, rate=0.85)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_row_and_no_column_loses_everything(mechanism):
    rate = 0.45 if mechanism == "mar" else 0.8
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal((12, 3))
        missing = make_missing(x, mechanism=mechanism, rate=rate, seed=seed)
        assert not missing.all(1).any() and not missing.all(0).any()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_cells_missing_already_are_not_removed_again(table, mechanism):
    x = np.where(np.random.default_rng(1).random(table.shape) < 0.2, np.nan, table)
    x[0, 1:], x[:, 5] = np.nan, np.nan  # a row with one value, a column with none
    missing = make_missing(x, mechanism=mechanism, rate=0.3, seed=2)
    there = ~np.isnan(x)
    assert not (missing & ~there).any()
    assert missing[there].mean() == pytest.approx(0.3, abs=0.02)
    assert (there & ~missing)[there.any(1)].any(1).all()


def test_columns_without_spread_are_removed_at_the_rate(table):
    x = np.column_stack([table[:, :2], np.full(len(table), 3.0)])
    assert mnar(x, rate=0.3, seed=0)[:, 2].mean() == pytest.approx(0.3, abs=0.03)


def test_errors_name_the_mend(table):
    with pytest.raises(EvaluateError, match="mcar, mar, mnar"):
        make_missing(table, mechanism="mnra")
    with pytest.raises(EvaluateError, match="above 0"):
        mcar(table, rate=0)
    with pytest.raises(EvaluateError, match="two rows or more"):
        mnar(table[0])
    with pytest.raises(EvaluateError, match="holds no value"):
        mcar(np.full((3, 2), np.nan))
