"""Labelled series of several lengths, with gaps, through everything that takes a run: training, tasks, fine-tuning."""

import numpy as np
import pytest
import torch
from train_tools import run

from anymask.data import open_source
from anymask.evaluation import embed, evaluate, finetune, predict


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Slow and fast waves of 20 to 32 moments in two variables."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    series = []
    for n, label in enumerate(labels):
        t = np.arange(20 + n % 13)
        x = np.sin(t * (0.3 + 0.5 * label) + rng.uniform(0, 6, (2, 1))) + 0.1 * rng.normal(size=(2, len(t)))
        x[n % 2, 3 : 3 + n % 8] = np.nan
        series.append(x)
    source = open_source((series, labels), kind="series")
    trained = run(tmp_path_factory.mktemp("run") / "r", source, recipe="patchtst", changes={"tokenizer.patch": 4})
    return source, trained


def test_training_and_features(made):
    source, trained = made
    rows = (trained.folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == 7 and "nan" not in rows[-1].lower()
    z = embed(trained, source)
    assert z.shape == (48, 32) and np.isfinite(z).all()


@pytest.mark.parametrize("task", ["classify", "reconstruct", "health"])
def test_tasks(made, task):
    source, trained = made
    table = evaluate(trained, source, task=task, **({"labels": (2, "all")} if task == "classify" else {}))
    figures = [getattr(cell, "mean", cell) for row in table.rows for cell in row]
    assert all(np.isfinite(figure) for figure in figures if isinstance(figure, float))
    if task == "reconstruct":
        names = {row[0] for row in table.rows}
        assert names >= {"nearest visible token", "best linear prediction", "pre-trained model"}
        assert any("units of the tokenizer" in note for note in table.notes)


def test_fine_tuning(made, tmp_path):
    source, trained = made
    folder = finetune(trained, source, epochs=6, lr=3e-3, out=tmp_path / "c", progress=False)
    table = predict(folder, source)
    assert len(table.rows) == 48 and torch.isfinite(torch.tensor([float(row[-1]) for row in table.rows])).all()
