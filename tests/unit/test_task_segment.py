"""Task `segment`: mean IoU by hand, the head against scikit-learn, pixels, tokens, other sizes."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score
from task_tools import digits, made

from anymask.data import DataError, open_source
from anymask.evaluation import EvaluateError, evaluate
from anymask.evaluation.metrics import confusion, mean_iou
from anymask.evaluation.tasks import segment

REAL = Path(os.environ.get("ANYMASK_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(segment, "STEPS", 40)
    monkeypatch.setattr(segment, "RATE", 3e-2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made("digits", tmp_path_factory.mktemp("run"))


def ink(source):
    """Foreground of the digits, by pixel."""
    return (np.stack([source[i]["image"][0] for i in range(len(source))]) > 7).astype(int)


def test_mean_iou():
    truth = torch.tensor([0, 0, 1, 1, 1, -1, 3])
    guess = torch.tensor([0, 1, 1, 1, 0, 2, 3])
    # class 0: 1 of 3, class 1: 2 of 4, class 2 occurs only where nothing counts, class 3: 1 of 1
    assert mean_iou(confusion(truth, guess, 4)).item() == pytest.approx((1 / 3 + 2 / 4 + 1) / 3)
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    both = mean_iou(confusion(torch.from_numpy(a), torch.from_numpy(b), 5)).item()
    assert both == pytest.approx(jaccard_score(a, b, average="macro"))


def test_pixels_of_digits(run):
    some = digits(150)
    table = evaluate(run, some, task="segment", targets=ink(some))
    names = ["majority class", "raw tokens", "untrained encoder", "pre-trained encoder"]
    assert [row[0] for row in table.rows] == names
    share = 100 * (1 - ink(some).mean())
    assert table.cell("accuracy", features="majority class").mean == pytest.approx(share, abs=3)
    assert table.cell("mean IoU", features="majority class").mean == pytest.approx(share / 2, abs=2)
    raw = table.cell("mean IoU", features="raw tokens")
    assert raw.low < raw.mean < raw.high and raw.mean > 65
    assert table.rows[2][1:] == table.rows[3][1:]  # the weights are those of the start


def test_tokens_are_measured_as_by_scikit_learn(run):
    some = digits(100)
    patches = ink(some).reshape(100, 4, 2, 4, 2).sum((2, 4)).reshape(100, 16)  # how many pixels of a patch have ink
    train, test = (np.arange(100) < 70), (np.arange(100) >= 70)
    fit, asked = some.subset(np.flatnonzero(train)), some.subset(np.flatnonzero(test))
    table = evaluate(run, fit, task="segment", targets=patches[train], test=asked, test_targets=patches[test])
    cell = table.cell("accuracy", features="raw tokens")
    parts = [segment._part(run, s, y, None, 64, False) for s, y in ((fit, patches[train]), (asked, patches[test]))]
    decay = table.cell("weight decay", features="raw tokens")
    head = segment._train(parts[0], parts[0], 5, decay, 0)
    guess = head.logits(segment._standardised(parts[1].x, parts[0].x), parts[1]).argmax(1).numpy()
    assert cell.mean == pytest.approx(100 * accuracy_score(patches[test].ravel(), guess.ravel()))
    iou = table.cell("mean IoU", features="raw tokens").mean
    assert iou == pytest.approx(100 * jaccard_score(patches[test].ravel(), guess.ravel(), average="macro"))


def test_what_does_not_count_changes_nothing(run):
    some = digits(60)
    y = ink(some)
    void = np.where(np.arange(8) < 2, -1, y)  # two columns of pixels
    other = np.where(np.arange(8) < 2, -7, y)
    a, b = (evaluate(run, some, task="segment", targets=t).rows for t in (void, other))
    assert a == b != evaluate(run, some, task="segment", targets=y).rows


def test_images_that_are_no_whole_patches(tmp_path):
    rng = np.random.default_rng(0)
    y = np.repeat(np.repeat(rng.integers(0, 2, (40, 3, 3)), 4, 1), 4, 2)[:, :11, :9]
    x = (y * 100 + rng.integers(0, 50, y.shape)).astype(np.uint8)
    run = made(x, tmp_path)
    table = evaluate(run, x, task="segment", targets=y)
    best, least = (table.cell("mean IoU", features=name).mean for name in ("raw tokens", "majority class"))
    assert best > least + 20


def test_errors_name_the_mend(run, tmp_path):
    some = digits(30)
    y = ink(some)
    with pytest.raises(EvaluateError, match=r"targets=FILE\.npy"):
        evaluate(run, some, task="segment")
    with pytest.raises(EvaluateError, match="test_targets"):
        evaluate(run, some, task="segment", targets=y, test=some)
    with pytest.raises(DataError, match="one class"):
        evaluate(run, some, task="segment", targets=np.zeros_like(y))
    with pytest.raises(DataError, match="one for each of the 30 samples"):
        evaluate(run, some, task="segment", targets=y[:20])
    with pytest.raises(DataError, match="targets are for 6 x 8 pixels"):
        evaluate(run, some, task="segment", targets=y[:, :6])
    with pytest.raises(DataError, match="makes 16"):
        evaluate(run, some, task="segment", targets=y.reshape(30, 64))
    with pytest.raises(DataError, match=r"no \.npy file"):
        evaluate(run, some, task="segment", targets=tmp_path / "none.npy")


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL / "eolearn_patch").is_dir(), reason="no real data here")
def test_land_cover(tmp_path):
    scenes = np.load(REAL / "eolearn_patch" / "reference_scenes_s2_13band.npy")[:, :100]  # dates 100 100 13
    cover = np.load(REAL / "eolearn_patch" / "ndvi_series.npz")["lulc"].reshape(101, 100)[:100].astype(int)
    tiles = lambda a: a.reshape(5, 20, 5, 20, a.shape[-1]).swapaxes(1, 2).reshape(-1, 20, 20, a.shape[-1])
    x = np.concatenate([tiles(scene) for scene in scenes]).transpose(0, 3, 1, 2).astype(np.float32)
    y = np.concatenate([tiles(cover[..., None])[..., 0]] * len(scenes))
    source = open_source(x, group=np.arange(len(x)) % 25)  # one place at several dates stays on one side
    table = evaluate(made(source, tmp_path), source, task="segment", targets=y)
    assert any("split by group" in note for note in table.notes)
    assert all(0 <= row[2].low <= row[2].mean <= row[2].high <= 100 for row in table.rows)
    assert table.cell("accuracy", features="majority class").mean > 50  # forest; 25 places are too few to beat it
