"""The task `impute` on a small table: its figures are those of the functions it is made of."""

import json

import numpy as np
import pytest

import anymask
from anymask.data import open_source
from anymask.evaluation import evaluate
from anymask.evaluation.classical import IMPUTERS, min_max, rmse, wasserstein
from anymask.evaluation.errors import EvaluateError
from anymask.evaluation.imputing import impute
from anymask.evaluation.missing import mcar
from anymask.recipe import Size


def rows(count, seed):
    """(count, 5) of two hidden factors in different units, and the sign of the first."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((count, 2))
    mixing = np.array([[1.0, -1, 0.5, 0, 1], [0, 1, 1, -1, 1]])
    x = hidden @ mixing + 0.05 * rng.standard_normal((count, 5))
    return x * [1, 10, 100, 0.1, 1] + [0, 5, 1000, 0, -3], (hidden[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return anymask.pretrain(
        rows(256, 0)[0], recipe="remasker", size=Size(16, 1, 2, 16, 1, 2), steps=60, batch_size=64, workers=0,
        out=tmp_path_factory.mktemp("impute") / "run", probe_labels=None, progress=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    return open_source(rows(256, 0)), open_source(rows(120, 1))


@pytest.fixture(scope="module")
def table(run, parts):
    return evaluate(run, parts[0], task="impute", test=parts[1], mechanisms="mcar,mar", rates=[0.2, 0.4], draws=2,
                    baselines=["mean", "iterative"])  # fmt: skip


def test_a_row_for_each_mechanism_rate_and_method(table):
    assert table.columns == ("mechanism", "rate", "method", "RMSE", "Wasserstein", "probe")
    methods = ["remasker (this run)", "mean", "iterative"]
    wanted = [(m, r, name) for m in ("mcar", "mar") for r in (0.2, 0.4) for name in methods]
    assert [tuple(row[:3]) for row in table.rows] == [*wanted, (None, None, "complete")]
    assert all(np.isfinite(row[3].mean) and row[4].mean > 0 for row in table.rows[:-1])
    json.dumps(table.to_json())


def test_figures_are_those_of_the_plain_functions(run, parts, table):
    known, truth = rows(256, 0)[0], rows(120, 1)[0]
    low, spread = min_max(known)
    errors = {"mean": [], "remasker (this run)": []}
    distances = []
    for seed in (0, 1):
        missing = mcar((truth - low) / spread, rate=0.2, seed=seed)
        incomplete = np.where(missing, np.nan, truth)
        fill = {"mean": IMPUTERS["mean"](incomplete, more=known), "remasker (this run)": impute(run, incomplete)}
        for name, filled in fill.items():
            errors[name].append(100 * rmse(truth / spread, filled / spread, missing))
        distances.append(100 * wasserstein(truth / spread, fill["mean"] / spread))
    for name, values in errors.items():
        figure = table.cell("RMSE", mechanism="mcar", rate=0.2, method=name)
        assert figure.mean == pytest.approx(np.mean(values), rel=1e-4)
        assert figure.low < figure.mean < figure.high
    found = table.cell("Wasserstein", mechanism="mcar", rate=0.2, method="mean")
    assert found.mean == pytest.approx(np.mean(distances), rel=1e-4)


def test_the_order_is_as_the_table_has_it_to_be(table):
    error = {name: table.cell("RMSE", mechanism="mcar", rate=0.2, method=name).mean for name in ("mean", "iterative")}
    assert error["iterative"] < 0.7 * error["mean"]
    probe = {name: table.cell("probe", method=name).mean for name in ("mean", "complete")}
    assert probe["complete"] > 95
    assert all(60 < row[5].mean <= 100 for row in table.rows)


def test_cells_missing_already_are_not_judged_and_need_no_labels(run):
    x = rows(120, 2)[0]
    x[:, 3] = np.nan
    x[::7, 0] = np.nan
    found = evaluate(run, rows(256, 0)[0], task="impute", test=x, mechanisms="mnar", draws=1, baselines="mean")
    assert len(found.columns) == 5 and len(found.rows) == 2
    assert all(np.isfinite(figure.mean) for row in found.rows for figure in row[3:])


def test_a_note_says_when_the_run_has_seen_the_removed_cells(run):
    x = rows(256, 0)[0]
    said = "with the very cells that are removed here"
    seen = evaluate(run, x, task="impute", mechanisms="mcar", draws=1, baselines="mean")
    assert any(said in note for note in seen.notes)
    fresh = evaluate(run, x, task="impute", test=rows(60, 3)[0], mechanisms="mcar", draws=1, baselines="mean")
    assert not any(said in note for note in fresh.notes)


def test_errors_name_the_mend(run, parts, tmp_path):
    with pytest.raises(EvaluateError, match="there are mcar, mar, mnar"):
        evaluate(run, parts[0], task="impute", mechanisms="mnra")
    with pytest.raises(EvaluateError, match="there are mean, knn, iterative, forest"):
        evaluate(run, parts[0], task="impute", baselines=["median"])
    with pytest.raises(EvaluateError, match=r"rate 1\.2"):
        evaluate(run, parts[0], task="impute", rates=1.2)
    with pytest.raises(EvaluateError, match="a draw at least"):
        evaluate(run, parts[0], task="impute", draws=0)
