"""Task `anomaly`: scores and figures against scikit-learn, complementary masks, who counts as an anomaly."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score
from task_tools import Classes, Words, digits, made, sample_of

from anymask.data import DataError, SchemaError
from anymask.evaluation import EvaluateError, evaluate, outliers
from anymask.evaluation.masked import complementary, errors
from anymask.evaluation.tasks.anomaly import reconstruction
from anymask.parts.losses import cross_entropy
from anymask.recipe import P


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made("digits", tmp_path_factory.mktemp("run"))


def test_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.random(200) < 0.2
    scores = np.round(rng.normal(size=200) + y, 1)  # with ties
    assert outliers.auroc(scores, y).mean == pytest.approx(100 * roc_auc_score(y, scores))
    assert outliers.average_precision(scores, y).mean == pytest.approx(100 * average_precision_score(y, scores))


def test_the_interval_of_auroc_is_as_wide_as_the_spread_over_data_sets():
    rng = np.random.default_rng(0)
    y = np.arange(150) < 30
    found = [outliers.auroc(rng.normal(size=150) + y, y) for _ in range(300)]
    spread = np.std([f.mean for f in found])
    assert np.mean([(f.high - f.low) / 3.92 for f in found]) == pytest.approx(spread, rel=0.1)


def test_scores_by_their_definitions():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(80, 6)) * np.arange(1, 7) + 3, rng.normal(size=(20, 6)) * 4
    scale = train.std(0)
    a, b = (train - train.mean(0)) / scale, (test - train.mean(0)) / scale
    near = np.sort(np.linalg.norm(b[:, None] - a[None], axis=2), 1)[:, :3].mean(1)
    assert np.allclose(outliers.neighbours(train, test, k=3), near)
    gap = b - a.mean(0)
    inverse = np.linalg.inv(LedoitWolf().fit(a).covariance_)
    assert np.allclose(outliers.mahalanobis(train, test), np.einsum("nd,de,ne->n", gap, inverse, gap))
    model = PCA(2).fit(train)
    left = test - model.inverse_transform(model.transform(test))
    assert np.allclose(outliers.pca_error(train, test, components=2), (left**2).sum(1))
    wide = np.concatenate([train, np.full((80, 1), 7.0)], 1)  # a column without spread says nothing
    assert np.allclose(
        outliers.neighbours(wide, np.concatenate([test, np.full((20, 1), 9.0)], 1), k=3), near, atol=1e-6
    )


@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("gaps", [False, True])
def test_complementary_masks_hide_every_token(run, tmp_path, ratio, gaps):
    model = made("digits", tmp_path, "simmim", {"mask.unit": 1, "tokenizer": P(Words), "loss": cross_entropy,
                                               "target": P(Classes)}).model()  # fmt: skip
    valid = (torch.arange(64) < torch.tensor([[64], [40], [11]])) if gaps else None
    sample = sample_of(torch.rand(3, 1, 8, 8) * 16, **({"valid": valid} if gaps else {}))
    steps = list(complementary(model, sample, masks=3, seed=0, ratio=ratio))
    assert len(steps) >= 3
    hidden = torch.stack([~s.mask.visible for s in steps])
    real = torch.ones(3, 64, dtype=torch.bool) if valid is None else valid
    assert (hidden.any(0) | ~real).all()
    shares = (hidden & real).sum(2) / real.sum(1)
    assert (shares - ratio).abs().max() <= 1 / 11 + 1e-3
    found = errors(model, sample, masks=3, ratio=ratio)
    assert torch.equal(found.asked > 0, real) and torch.equal(found.error.isfinite(), real)


def test_the_error_of_a_token_is_the_mean_over_the_masks_that_hide_it(run):
    model, sample = run.model(), sample_of(torch.rand(2, 1, 8, 8) * 16)
    total, count = torch.zeros(2, 16), torch.zeros(2, 16)
    with torch.no_grad():
        for step in complementary(model, sample, masks=5, seed=3):
            pred, truth = model.predict(step).pred["pixels"], step.tokens.x["image"]
            for b in range(2):
                for place, n in enumerate(step.mask.ask[b].tolist()):
                    total[b, n] += (pred[b, place] - truth[b, n]).square().mean()
                    count[b, n] += 1
    found = errors(model, sample, masks=5, seed=3)
    assert torch.equal(found.asked, count) and torch.allclose(found.error, total / count, atol=1e-6)


def test_scores_do_not_depend_on_the_batch(run):
    some = digits(30)
    assert np.allclose(reconstruction(run, some, batch_size=30), reconstruction(run, some, batch_size=7), atol=1e-5)
    assert not np.allclose(reconstruction(run, some), reconstruction(run, some, seed=1), atol=1e-5)


def test_the_table(run):
    table = evaluate(run, digits(300), task="anomaly", anomaly=[0], test=digits(200, seed=1), masks=2)
    assert [row[0] for row in table.rows].count("raw input") == 5 and len(table.rows) == 11
    assert any("pre-trained on anomalies as well (0)" in note for note in table.notes)
    near = table.cell("AUROC", features="raw input", score="nearest neighbours")
    assert near.low < near.mean < near.high and near.mean > 80  # zeros are easily told from other digits
    assert table.rows[5][2:] == table.rows[8][2:]  # the weights are those of the start
    other = evaluate(run, digits(300), task="anomaly", normal=list(range(1, 10)), test=digits(200, seed=1), masks=2)
    assert other.rows == table.rows
    wide = evaluate(run, digits(300), task="anomaly", anomaly="0", test=digits(200, seed=1), masks=2, pool="tokens")
    assert wide.rows[:6] == table.rows[:6] and wide.rows[7] != table.rows[7]


def test_another_source_as_anomalies(run):
    noise = (np.random.default_rng(0).random((40, 8, 8)) * 16).astype(np.float32)
    table = evaluate(run, digits(200), task="anomaly", test=digits(100, seed=1), out=noise, masks=2)
    assert table.cell("AUROC", features="raw input", score="PCA reconstruction").mean > 95
    assert "40 of 140 test samples are anomalies" in table.notes[-1]


def test_errors_name_the_mend(run):
    some = digits(100)
    for wrong in ({}, {"normal": 1, "anomaly": 2}):
        with pytest.raises(EvaluateError, match="anomaly=3"):
            evaluate(run, some, task="anomaly", **wrong)
    with pytest.raises(DataError, match="no class '11'; there is: 0, 1, 2"):
        evaluate(run, some, task="anomaly", anomaly=11)
    with pytest.raises(DataError, match="no labels to tell anomalies by"):
        evaluate(run, np.zeros((20, 8, 8), np.float32) + np.arange(8, dtype=np.float32), task="anomaly", anomaly=1)
    with pytest.raises(DataError, match="no anomaly under normal="):
        evaluate(run, some, task="anomaly", normal=list(range(10)))
    with pytest.raises(SchemaError, match="channels"):
        evaluate(run, some, task="anomaly", out=np.zeros((20, 3, 8, 8), np.float32) + np.arange(8, dtype=np.float32))
    with pytest.raises(EvaluateError, match=r"hiding 0\.99 of 16 tokens"):
        evaluate(run, some, task="anomaly", anomaly=1, ratio=0.99)


def test_tables_with_gaps(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(120, 5)).cumsum(1)
    rows[::7, 2] = np.nan
    far = rng.normal(size=(30, 5)) * 8
    run = made(rows, tmp_path, "remasker")
    table = evaluate(run, rows[:80], task="anomaly", test=rows[80:], out=far, masks=2)
    assert table.cell("AUROC", features="raw input", score="isolation forest").mean > 95
    assert len(table.rows) == 11
