"""The scikit-learn estimators: their contract, and that they are what `pretrain`, `embed` and `impute` give."""

from __future__ import annotations

import pickle
import signal
import threading
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import anymask
from anymask.data import open_source
from anymask.evaluation import EvaluateError
from anymask.evaluation.imputing import impute
from anymask.recipe import RecipeError, Size
from anymask.sklearn import MaskedEncoder, MaskedImputer

SMALL = Size(width=16, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)


@parametrize_with_checks([MaskedEncoder(size=SMALL, epochs=1), MaskedImputer(size=SMALL, epochs=1)])
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


def dependent(rows: int, seed: int = 0, missing: float = 0.0, factors: int = 2) -> np.ndarray:
    """(rows, 6) of a few hidden factors."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, factors)) @ np.random.default_rng(9).normal(size=(factors, 6)) + 5.0
    x[rng.random(x.shape) < missing] = np.nan
    return x


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:400], y[:400]


@pytest.fixture(scope="module")
def table():
    return dependent(60, missing=0.1)


@pytest.fixture(scope="module")
def fitted(table):
    return MaskedEncoder(size=SMALL, epochs=2, random_state=0).fit(table)


# What they compute.


@pytest.mark.parametrize("size", ["nano", SMALL])
def test_features_of_images_are_those_of_pretrain_and_embed(digits, tmp_path, size):
    x = digits[0]
    made = MaskedEncoder(sample_shape=(8, 8), size=size, epochs=1, random_state=3, mask_ratio=0.6).fit_transform(x)
    images = x.reshape(-1, 8, 8).astype(np.float32)
    run = anymask.pretrain(
        images, size=size, epochs=1, seed=3, changes={"mask.ratio": 0.6}, out=tmp_path / "run", progress=False
    )
    np.testing.assert_array_equal(made, anymask.embed(run, images))
    assert made.dtype == np.float32


def test_features_of_rows_are_those_of_pretrain_and_embed(table, fitted, tmp_path):
    run = anymask.pretrain(table, size=SMALL, epochs=2, seed=0, out=tmp_path / "run", progress=False)
    np.testing.assert_array_equal(fitted.transform(table), anymask.embed(run, table))


def test_bytes_of_colour_images_stay_bytes(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (12, 3 * 8 * 12), dtype=np.uint8)
    encoder = MaskedEncoder(sample_shape=(3, 8, 12), size=SMALL, epochs=1, random_state=0).fit(x)
    images = x.reshape(-1, 3, 8, 12)
    run = anymask.pretrain(images, size=SMALL, epochs=1, seed=0, out=tmp_path / "run", progress=False)
    np.testing.assert_array_equal(encoder.transform(x), anymask.embed(run, images))
    with pytest.raises(ValueError, match="fit had uint8 images"):
        encoder.transform(x / 255)


def test_the_default_recipe_is_the_kinds_and_changes_reach_it(fitted, table):
    assert fitted.recipe_.slug == "remasker"
    encoder = MaskedEncoder(size=SMALL, epochs=1, mask_ratio=0.25, changes={"optimiser.lr": 1e-4}).fit(table)
    assert (encoder.recipe_.mask.args["ratio"], encoder.recipe_.optimiser.args["lr"]) == (0.25, 1e-4)


def test_each_pooling_gives_one_row_a_sample(digits):
    x = digits[0][:20]
    widths = {}
    for pool in ("mean", "cls", "tokens"):
        encoder = MaskedEncoder(sample_shape=(8, 8), size=SMALL, epochs=1, pool=pool, random_state=0).fit(x)
        widths[pool] = encoder.transform(x).shape[1]
        assert len(encoder.get_feature_names_out()) == widths[pool]
    assert widths == {"mean": 16, "cls": 16, "tokens": 16 * 16}


def test_imputer_is_impute_and_beats_the_mean_on_dependent_columns():
    whole, gaps = dependent(300, 1, factors=1), dependent(300, 1, missing=0.2, factors=1)
    train, new = slice(200), slice(200, 300)
    imputer = MaskedImputer(epochs=60, size=SMALL, changes={"optimiser.lr": 2e-2}, random_state=0)
    filled = imputer.fit(gaps[train]).transform(gaps[new])
    hidden = np.isnan(gaps[new])
    np.testing.assert_array_equal(filled[~hidden], whole[new][~hidden])
    means = SimpleImputer().fit(gaps[train]).transform(gaps[new])
    error = [np.sqrt(np.square(x - whole[new])[hidden].mean()) for x in (filled, means)]
    assert error[0] < 0.7 * error[1], error
    np.testing.assert_allclose(filled, impute(imputer.model_, open_source(gaps[new])), rtol=1e-6)


# pandas, pickle, pipelines.


def test_dataframes_keep_their_names(table):
    frame = pd.DataFrame(table, columns=list("abcdef"), index=np.arange(60) + 100)
    imputer = MaskedImputer(size=SMALL, epochs=1, random_state=0).set_output(transform="pandas")
    filled = imputer.fit_transform(frame)
    assert list(imputer.feature_names_in_) == list(filled.columns) == list("abcdef")
    assert filled.index.equals(frame.index)
    pd.testing.assert_frame_equal(filled.where(frame.notna()), frame)
    features = MaskedEncoder(size=SMALL, epochs=1).set_output(transform="pandas").fit_transform(frame)
    assert list(features.columns[:2]) == ["maskedencoder0", "maskedencoder1"]
    assert set(features.dtypes) == {np.dtype(np.float32)}
    with pytest.raises(ValueError, match="same order"):
        imputer.transform(frame[list("fedcba")])


def test_nullable_columns_count_as_missing(table):
    plain = pd.DataFrame(table, columns=list("abcdef"))
    np.testing.assert_array_equal(
        MaskedImputer(size=SMALL, epochs=1, random_state=0).fit_transform(plain.convert_dtypes()),
        MaskedImputer(size=SMALL, epochs=1, random_state=0).fit_transform(plain),
    )


def test_pickled_estimators_give_the_same_bits(table, fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(table), fitted.transform(table))
    imputer = MaskedImputer(size=SMALL, epochs=1).fit(table)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(imputer)).transform(table), imputer.transform(table))


def test_grid_search_over_the_mask_ratio_in_a_pipeline(digits):
    steps = [
        ("masked", MaskedEncoder(sample_shape=(8, 8), size=SMALL, epochs=2, random_state=0)),
        ("scale", StandardScaler()),
        ("classify", LogisticRegression(max_iter=200)),
    ]
    grid = {"masked__mask_ratio": [0.25, 0.5, 0.75]}
    search = GridSearchCV(Pipeline(steps), grid, cv=2, error_score="raise").fit(*digits)
    assert (search.cv_results_["rank_test_score"] > 0).all()
    assert search.best_score_ > 0.5
    best = search.best_estimator_["masked"]
    assert best.recipe_.mask.args["ratio"] == best.mask_ratio == search.best_params_["masked__mask_ratio"]


def test_a_search_in_threads_gives_what_one_after_another_gives(table):
    y = np.arange(60) % 2
    pipe = make_pipeline(MaskedEncoder(size=SMALL, epochs=1, random_state=0), LogisticRegression())
    grid = {"maskedencoder__changes": [None, {"mask.ratio": 0.2}, {"mask.ratio": 0.9}]}
    alone = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(table, y)
    with joblib.parallel_backend("threading", n_jobs=2):
        threads = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(table, y)
    np.testing.assert_array_equal(
        alone.best_estimator_[0].transform(table), threads.best_estimator_[0].transform(table)
    )
    np.testing.assert_array_equal(alone.cv_results_["mean_test_score"], threads.cv_results_["mean_test_score"])


def test_clone_keeps_the_options_and_nothing_else(fitted):
    copy = clone(fitted.set_params())
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "model_")


def test_seeds_repeat_and_None_does_not(table):
    make = lambda seed: MaskedEncoder(size=SMALL, epochs=1, random_state=seed).fit_transform(table)
    np.testing.assert_array_equal(make(5), make(np.int64(5)))
    np.testing.assert_array_equal(make(np.random.RandomState(2)), make(np.random.RandomState(2)))
    assert not np.array_equal(make(None), make(None))


def test_fit_leaves_nothing_on_disk_and_says_nothing(table, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    MaskedEncoder(size=SMALL, epochs=1).fit(table)
    assert list(Path(tmp_path).iterdir()) == []
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])
    MaskedEncoder(size=SMALL, epochs=1, verbose=True).fit(table)
    err = capfd.readouterr().err
    assert "loss" in err and "remasker" in err and "output" not in err


# Data at the edges.


def test_empty_columns_are_dropped_or_kept_as_by_simple_imputer(table):
    x = pd.DataFrame(table, columns=list("abcdef")).assign(c=np.nan)
    for keep in (False, True):
        ours, theirs = MaskedImputer(size=SMALL, epochs=1, keep_empty_features=keep), SimpleImputer(
            keep_empty_features=keep
        )
        filled, reference = ours.fit_transform(x), theirs.fit_transform(x)
        assert filled.shape == reference.shape and not np.isnan(filled).any()
        assert list(ours.get_feature_names_out()) == list(theirs.get_feature_names_out())
        if keep:
            np.testing.assert_array_equal(filled[:, 2], reference[:, 2])
    known = ours.transform(x.assign(c=1.5))
    np.testing.assert_array_equal(known[:, 2], 1.5)


def test_constant_columns_are_filled_with_their_constant(table):
    x = table.copy()
    x[:, 1] = np.where(np.isnan(x[:, 1]), np.nan, 7.0)
    filled = MaskedImputer(size=SMALL, epochs=1).fit_transform(x)
    np.testing.assert_array_equal(filled[:, 1], 7.0)
    assert np.isfinite(MaskedEncoder(size=SMALL, epochs=1).fit_transform(x)).all()


def test_complete_rows_pass_through_and_empty_rows_are_filled(table):
    imputer = MaskedImputer(size=SMALL, epochs=1, random_state=0).fit(table)
    whole = dependent(5, 3)
    np.testing.assert_array_equal(imputer.transform(whole), whole)
    assert np.isfinite(imputer.transform(np.full((1, 6), np.nan))).all()
    encoder = MaskedEncoder(size=SMALL, epochs=1).fit(whole)
    assert np.isfinite(encoder.transform(np.full((1, 6), np.nan))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, object])
def test_any_numbers_are_taken_and_observed_cells_keep_their_precision(dtype):
    x = np.round(dependent(20) * 10).astype(dtype)
    filled = MaskedImputer(size=SMALL, epochs=1).fit_transform(x)
    assert filled.dtype == (np.float32 if dtype is np.float32 else np.float64)
    np.testing.assert_array_equal(filled, x.astype(filled.dtype))
    assert MaskedEncoder(size=SMALL, epochs=1).fit_transform(x).dtype == np.float32


def test_one_row_can_be_transformed(table, fitted):
    np.testing.assert_allclose(fitted.transform(table[:1]), fitted.transform(table)[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [MaskedEncoder, MaskedImputer])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((1, 3)), "1 sample"),
        (np.zeros((10, 1)), r"1 feature\(s\)"),
        (np.zeros(10), "Reshape your data"),
        (np.full((5, 3), np.inf), "infinity"),
        (np.full((5, 3), np.nan), "are missing"),
        ([["a", "b"], ["c", "d"]], "could not convert string"),
    ],
)
def test_data_that_cannot_be_used_are_refused(make, x, words):
    with pytest.raises(ValueError, match=words):
        make(size=SMALL, epochs=1).fit(x)


def test_sparse_data_are_refused_in_scikit_learns_words(table):
    with pytest.raises(TypeError, match="Sparse data was passed"):
        MaskedEncoder(size=SMALL, epochs=1).fit(scipy.sparse.csr_matrix(np.nan_to_num(table)))


def test_another_number_of_features_is_refused(table, fitted):
    with pytest.raises(ValueError, match="X has 5 features, but MaskedEncoder is expecting 6"):
        fitted.transform(table[:, :5])


def test_images_with_gaps_are_refused(digits):
    x = digits[0].copy()
    x[3, 4] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        MaskedEncoder(sample_shape=(8, 8), size=SMALL).fit(x)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(sample_shape=(8, 9)), ValueError, "needs rows of 72 values, and X has 64 features"),
        (dict(sample_shape=(64,)), ValueError, "sample_shape is None"),
        (dict(recipe="remasker", sample_shape=(8, 8)), RecipeError, "recipes that fit"),
        (dict(recipe="mea"), RecipeError, "did you mean 'mae'"),
        (dict(mask_ratio=0.5, changes={"mask.ratio": 0.6}), ValueError, "not both"),
        (dict(random_state="x"), ValueError, "cannot be used to seed"),
        (dict(epochs=-1), ValueError, "above 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(digits, options, error, words):
    with pytest.raises(error, match=words):
        MaskedEncoder(**{"size": SMALL, **options}).fit(digits[0])


def test_an_imputer_needs_a_recipe_that_predicts_cells(table):
    with pytest.raises(EvaluateError, match="predicts the cells"):
        MaskedImputer(recipe="mae").fit(table)


def test_ctrl_c_ends_a_fit_with_KeyboardInterrupt(table):
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    before = signal.getsignal(signal.SIGINT)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        MaskedEncoder(size=SMALL, epochs=100_000).fit(table)
    assert signal.getsignal(signal.SIGINT) is before
