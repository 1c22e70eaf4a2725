"""Videos of two classes, some too short, through everything that takes a run: training, features, tasks, the report."""

import numpy as np
import pytest
from train_tools import run
from video_tools import write

from anymask.claims.videos import ClipFolds, runs_of
from anymask.data import infer_schema, open_source
from anymask.data.kinds.video import clipped
from anymask.evaluation import embed, evaluate, finetune
from anymask.evaluation.folds import svm_folds
from anymask.reports import report


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bright bar that moves to the right or to the left; every eighth video has 5 frames."""
    root = tmp_path_factory.mktemp("data")
    for n in range(24):
        frames = np.full((5 if n % 8 == 7 else 10, 24, 32, 3), 40, dtype=np.uint8)
        for t, frame in enumerate(frames):
            left = (n + 3 * t * (1 if n % 2 else -1)) % 28
            frame[:, left : left + 4] = 200
        write(root / ("left", "right")[n % 2] / f"{n:02}.mkv", frames, codec="ffv1", pixels="bgr0", rate=8)
    source = open_source(root, window=8)
    return source, run(tmp_path_factory.mktemp("run") / "r", source, changes={"tokenizer.patch": (2, 8, 8)})


def test_training_and_features(made):
    source, trained = made
    assert trained.recipe.slug == "mae-st" and trained.schema.fields["video"].shape == (3, 8, 24, 32)
    assert "nan" not in (trained.folder / "metrics.csv").read_text().lower()
    z = embed(trained, source)
    assert z.shape == (24, 32) and np.isfinite(z).all()
    whole = [n for n in range(24) if source[n]["video"].count > 5][:2]
    assert np.allclose(embed(trained, source.subset(whole)), z[whole], atol=1e-5)  # no short video in the batch


@pytest.mark.parametrize("task", ["classify", "reconstruct"])
def test_tasks(made, task):
    source, trained = made
    options = {"classify": {"labels": (2,), "draws": 2}, "reconstruct": {"ratios": [0.9], "draws": 2}}
    table = evaluate(trained, source, task=task, **options.get(task, {}))
    figures = [getattr(cell, "mean", cell) for row in table.rows for cell in row]
    assert all(np.isfinite(figure) for figure in figures if isinstance(figure, float))
    if task == "reconstruct":
        assert {row[0] for row in table.rows} >= {"mean of the place", "nearest visible token", "pre-trained model"}


def test_fine_tuning_and_report(made, tmp_path):
    source, trained = made
    folder = finetune(trained, source, epochs=1, out=tmp_path / "c", progress=False)
    assert (folder / "classifier.safetensors").is_file()
    page = report([trained.folder], source, out=tmp_path / "r.html", samples=24).read_text()
    assert "frames from left to right" in page and "clips" in page


def test_claims_measure_small_clips(made):
    source, _ = made
    metric = ClipFolds(frames=4, side=16, folds=2, repeats=2, neighbours=3)
    train, test = metric.parts(source, np.arange(24))
    schema = infer_schema(train)
    assert schema.fields["video"].shape == (3, 4, 16, 16) and train.labels.tolist() == source.labels.tolist()
    assert clipped(source, frames=6, side=16)[0]["video"].count == 10
    right = metric._right(np.random.default_rng(0).normal(size=(24, 3)) + 9.0 * test.labels[:, None], test)
    assert right.shape == (24,) and right.mean() > 95
    context = metric.context(train, test, schema)
    assert 0 <= context["raw input"] <= 100


def test_neighbours_stay_together():
    labels = np.array([0] * 7 + [1] * 5)
    groups = runs_of(labels, 3)
    assert len(set(groups.tolist())) == 5 and [int((groups == g).sum()) for g in np.unique(groups)] == [3, 3, 1, 3, 2]
    assert all(len(set(labels[groups == g].tolist())) == 1 for g in np.unique(groups))
    labels, groups = np.arange(60) % 2, np.arange(60) // 2 // 3 * 2 + np.arange(60) % 2
    # features that tell a group, not a class: of no use if no group is on both sides
    x = np.random.default_rng(0).normal(size=(60, 8))[groups] + 0.01 * np.random.default_rng(1).normal(size=(60, 8))
    loose, _ = svm_folds(x, labels, folds=5)
    strict, fold = svm_folds(x, labels, folds=5, groups=groups)
    assert all(len(set(fold[groups == g].tolist())) == 1 for g in np.unique(groups))
    assert loose.mean() > 0.9 > 0.75 > strict.mean()
