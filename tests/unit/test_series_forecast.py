"""Forecasts of a record: which windows count, the head against scikit-learn, baselines by hand, fine-tuning, the
claim's metric; and series in reports."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import torch
from sklearn.linear_model import Ridge
from task_tools import made
from train_tools import run

from anymask.claims import ClaimError, Forecast
from anymask.data import open_source
from anymask.evaluation import EvaluateError, embed, evaluate
from anymask.evaluation.forecasting import (
    PENALTIES,
    board,
    encoded,
    finetuned,
    headed,
    measured,
    plain,
    repeated,
    ridge,
    season_of,
    sums,
    thinned,
)
from anymask.reports import Panel, renderer_of, report

WINDOW, HORIZON = 24, 6


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two variables with a day of 8 moments, a trend and noise; a few gaps."""
    rng, t = np.random.default_rng(0), np.arange(500)
    x = np.stack([np.sin(t * np.pi / 4), 2 * np.cos(t * np.pi / 4) + t / 100], 1) + 0.2 * rng.normal(size=(500, 2))
    x[[50, 51, 333, 470], [0, 1, 0, 1]] = np.nan
    index = pandas.date_range("2020-01-01", periods=500, freq="3h", name="date")
    file = tmp_path_factory.mktemp("data") / "r.csv"
    pandas.DataFrame(x, index=index, columns=["a", "b"]).to_csv(file)
    return file


@pytest.fixture(scope="module")
def record(path, tmp_path_factory):
    source = open_source(path, window=WINDOW)
    trained = made(source, tmp_path_factory.mktemp("run"), "pits", {"tokenizer.patch": 4})
    return source, trained


def test_every_window_whose_future_lies_in_a_part_counts(record):
    source, trained = record
    b = board(trained.model().eval(), source, HORIZON)
    assert b.starts("train")[[0, -1]].tolist() == [0, 300 - WINDOW - HORIZON]
    assert b.starts("test")[[0, -1]].tolist() == [400 - WINDOW, 500 - WINDOW - HORIZON]
    assert len(b.starts("test")) == 100 - HORIZON + 1
    ((past, future),) = b.batches(b.starts("test")[:5], 64)
    x = source.columns["series"].record.values
    np.testing.assert_array_equal(past[2], x[:, 402 - WINDOW : 402])
    mean, std = np.nanmean(x[:, :300], 1), np.nanstd(x[:, :300], 1)
    np.testing.assert_allclose(future[2].T, (x[:, 402 : 402 + HORIZON].T - mean) / std, rtol=1e-4, atol=1e-5)


def test_the_head_is_a_weighed_ridge_regression(record):
    source, trained = record
    model = trained.model().eval()
    b, encode = board(model, source, HORIZON), encoded(model)
    weight = ridge(encode, b, rows=400)
    rows, goals, weights = [], [], []
    for past, future in b.batches(thinned(b.starts("train"), 200), 16):
        h, mean, spread = encode(past)
        y = (future - mean) / spread
        ok = ~y.isnan().any(2)
        rows.append(torch.cat([h, torch.ones_like(h[..., :1])], 2)[ok])
        goals.append(y[ok])
        weights.append(spread[ok][:, 0].square())
    x, y, w = (torch.cat(v).double().numpy() for v in (rows, goals, weights))
    scale = (x[:, :-1] ** 2 * w[:, None]).sum(0).mean()
    fits = [Ridge(p * scale).fit(x[:, :-1], y, sample_weight=w) for p in PENALTIES]
    found = [np.concatenate([fit.coef_.T, fit.intercept_[None]]) for fit in fits]
    near = [np.abs(x @ one - x @ weight.double().numpy()).max() for one in found]
    assert min(near) < 1e-2
    check = sums(encode, b, thinned(b.starts("validation"), 66), 16)
    error = lambda v: (v * (check.gram @ v)).sum() - 2 * (v * check.cross).sum() + check.square
    errors = [float(error(torch.tensor(one))) for one in found]
    assert int(np.argmin(near)) == int(np.argmin(errors))


def test_baselines_by_hand(record):
    source, trained = record
    model = trained.model().eval()
    b = board(model, source, HORIZON)
    starts = b.starts("test")
    x = ((source.columns["series"].record.values.T - model.tokenizer.mean[:, 0].numpy()) /
         model.tokenizer.std[:, 0].numpy()).T  # fmt: skip
    filled = pandas.DataFrame(x.T).ffill().to_numpy().T
    for season in (1, 8):
        errors = measured(repeated(model, b, season), b, starts)
        gaps = [filled[:, [s + WINDOW - season + i % season for i in range(HORIZON)]]
                - x[:, s + WINDOW : s + WINDOW + HORIZON] for s in starts]  # fmt: skip
        np.testing.assert_allclose(errors.square, [np.nanmean(g**2) for g in gaps], rtol=1e-3)
        np.testing.assert_allclose(errors.absolute, [np.nanmean(np.abs(g)) for g in gaps], rtol=1e-3)
    assert season_of(3600.0 * 3, 24) == 8 and season_of(3600.0, 12) is None and season_of(86_400.0, 99) is None


def test_fine_tuning_begins_with_the_head_and_is_never_worse_on_validation(record):
    source, trained = record
    model = trained.model().eval()
    b, encode = board(model, source, HORIZON), encoded(model)
    weight = ridge(encode, b)
    before = measured(headed(encode, weight), b, b.starts("validation")).square.mean()
    tuned = finetuned(model, weight, b, epochs=2, lr=1e-3)
    after = measured(tuned, b, b.starts("validation")).square.mean()
    assert after < before + 1e-6
    unmoved = finetuned(model, weight, b, epochs=1, lr=1e-12)
    np.testing.assert_allclose(
        measured(unmoved, b, b.starts("test")).square, measured(headed(encode, weight), b, b.starts("test")).square,
        rtol=1e-3,
    )  # fmt: skip
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), trained.model().parameters()))


def test_the_task_prints_all_forecasts(record):
    source, trained = record
    table = evaluate(trained, source, task="forecast", horizon=HORIZON, epochs=1)
    assert [row[0] for row in table.rows] == [
        "last value", "season of 8", "linear", "untrained encoder, frozen", "untrained encoder, fine-tuned",
        "pre-trained encoder, frozen", "pre-trained encoder, fine-tuned",
    ]  # fmt: skip
    assert "95 test windows" in table.title
    errors = {row[0]: row[1].mean for row in table.rows}
    model = trained.model().eval()
    b = board(model, source, HORIZON)
    encode = plain(model)
    by_hand = measured(headed(encode, ridge(encode, b)), b, b.starts("test")).square.mean()
    assert errors["linear"] == pytest.approx(by_hand, rel=1e-4)
    assert errors["linear"] < 0.5 * errors["season of 8"] or errors["linear"] < errors["last value"]
    for options, message in ((dict(horizon=200), "do not fit the parts"), (dict(season=99), "season of 1 to 24"),
                             (dict(axis=1), "its own test part"), (dict(epochs=-1), "epochs counts")):  # fmt: skip
        with pytest.raises(EvaluateError, match=message):
            evaluate(trained, source, task="forecast", **{"horizon": HORIZON, **options})


def test_the_metric_of_a_claim(record):
    source, trained = record
    metric = Forecast(horizon=HORIZON)
    train, test = metric.parts(source, np.arange(0, 200, 2))
    scores = metric.scores(trained, train, test)
    assert len(scores) == 95 // HORIZON and (scores < 0).all()
    model = trained.model().eval()
    b, encode = board(model, source, HORIZON), encoded(model)
    error = measured(headed(encode, ridge(encode, b, rows=metric.rows)), b, b.starts("test")).square
    assert scores.mean() == pytest.approx(-100 * error.mean(), rel=0.02)
    pilot = metric.scores(trained, train, source.subset(np.arange(1, 200, 2)))
    assert not np.allclose(pilot[:5], scores[:5])  # measured on the validation part
    with pytest.raises(ClaimError, match="no record"):
        metric.parts(open_source(np.random.default_rng(0).normal(size=(9, 2, 24)), kind="series"), np.arange(5))


# In reports.


@pytest.fixture(scope="module")
def drawn(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return run(folder / "run", str(path), window=WINDOW, recipe="patchtst", changes={"tokenizer.patch": 4}, steps=6)


def test_lines_hidden_spans_and_predictions(drawn, path):
    model = drawn.model()
    x = torch.stack([torch.from_numpy(one["series"]) for one in open_source(path, window=WINDOW).fetch([40, 45])])
    tokens = model.tokenizer({"series": x})
    content = tokens.x["series"]
    shown, guess = torch.ones(2, 12, dtype=torch.bool), torch.zeros(2, 12, dtype=torch.bool)
    shown[:, 1], guess[:, 4] = False, True
    first, second = renderer_of(model).draw([Panel("original", content), Panel("filled", content + 0.1, shown & ~guess,
                                                                              predicted=guess)])  # fmt: skip
    assert first.svg.count("<path") == 4 and "missing" in first.alt and "hidden" not in first.alt
    assert second.svg.count('fill-opacity="0.45"') == 2  # patch 1 of each sample, not asked for
    assert second.svg.count('stroke="var(--c2)"') == 2 and second.svg.count("stroke-dasharray") == 2
    assert "2 patches predicted, off by 0.1 in the median" in second.alt
    assert ">a</text>" in first.svg and "of its own spread" in first.svg
    assert [ElementTree.fromstring(one.svg).get("role") for one in (first, second)] == ["img", "img"]
    assert not re.search(r"#[0-9a-f]{3,6}|nan", first.svg + second.svg)  # colours of the page's scheme only


def test_a_source_is_opened_again_as_the_run_opened_it(drawn, path):
    again = drawn.source(str(path))
    assert again.columns["series"].length == WINDOW and again.fingerprint() == drawn.schema.fingerprint
    assert drawn.source(again) is again and drawn.source(str(path), window=2 * WINDOW).columns["series"].length > WINDOW
    assert len(embed(drawn, str(path))) == len(again)  # windows of the run's length, though only the path is given


def test_a_page_of_series_is_whole(drawn, path, tmp_path):
    text = report(drawn, str(path), tmp_path / "r.html").read_text()
    assert "names no renderer" not in text and "patches predicted, off by" in text
    assert "each window borrows the mean and spread" in text
