"""history.npz: how much is kept, what a resumed run keeps, and tables with gaps."""

import numpy as np
import pytest
import torch
from train_tools import QUIET, At, images, run

from anymask.train import Interrupted, history, pretrain


def test_moments_are_few_with_both_ends_and_closer_at_the_start():
    for steps in (1, 5, 500, 10**6):
        found = history.moments(steps)
        assert found[0] == 0 and found[-1] == steps and len(found) <= history.MOMENTS
    assert (np.diff(history.moments(10**6), n=2) > 0).all()


def test_its_size_is_bounded_for_large_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "BYTES", 20_000)
    kept = history.read(run(tmp_path / "large", images(side=32), steps=20).folder / history.NAME)
    assert kept["predicted"].nbytes <= 20_000 and 1 <= len(kept["content"]) < history.SAMPLES
    assert len(kept["predicted"]) == len(kept["step"]) <= history.MOMENTS


@pytest.mark.parametrize("trained_on", [0, 10**3, 10**6, 10**9])
def test_samples_that_are_judged_are_bounded(trained_on):
    source = pretrain_source()
    count = len(history.fixed_batch(*source, trained_on=trained_on)["index"])
    assert history.ENOUGH <= count <= history.LABELLED
    assert trained_on or count == history.ENOUGH


def pretrain_source():
    from anymask.data import infer_schema, open_source

    source = open_source(images(600))
    return source, infer_schema(source)


def test_what_came_after_the_saved_step_is_dropped(tmp_path):
    whole = run(tmp_path / "whole", steps=20)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", steps=20, loggers=(At(6),))
    path = tmp_path / "cut" / history.NAME
    kept = history.read(path)
    ahead = {name: np.concatenate([v, v[-1:]]) if name in ("step", "rank", "spread", "predicted") else v
             for name, v in kept.items()}  # fmt: skip
    ahead["step"][-1] = 20  # as if the disk had kept more of the history than of the state
    np.savez(path, **ahead)
    pretrain(images(), resume=True, out=tmp_path / "cut", **QUIET)
    ours, theirs = history.read(path), history.read(whole.folder / history.NAME)
    assert ours["step"].tolist() == history.moments(20)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_missing_cells_stay_missing_and_are_never_counted_as_predicted(tmp_path):
    cells = np.random.default_rng(0).normal(size=(40, 6))
    cells[np.random.default_rng(1).random(cells.shape) < 0.3] = np.nan
    kept = history.read(run(tmp_path / "gaps", (cells, np.arange(40) % 2), steps=8).folder / history.NAME)
    missing = np.isnan(kept["content"][..., 0])
    assert missing.any() and not (missing & (kept["known"] | kept["visible"])).any()
    assert np.isfinite(kept["predicted"][:, kept["known"]]).all()
    assert np.isfinite(kept["rank"]).all() and np.isfinite(kept["neighbour"]).all()
    assert np.isfinite(kept["neighbour_raw"])


def test_the_model_is_the_same_with_and_without(tmp_path, monkeypatch):
    one = run(tmp_path / "one", steps=4).model()
    monkeypatch.setattr(history.History, "after", lambda *_: None)
    two = run(tmp_path / "two", steps=4).model()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_of_several_streams_the_tokenizers_own_is_kept():
    from anymask.engine import Mask, Step, Tokens
    from anymask.reports.renderer import contents

    class Two:
        streams, field = {"rgb": 3, "depth": 1}, "depth"

    class Model:
        tokenizer, target = Two(), object()

    x = {"rgb": torch.zeros(2, 4, 3), "depth": torch.ones(2, 5, 1)}
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[0, 8] = False
    visible = torch.arange(9).expand(2, 9) % 2 == 0
    step = Step({}, Tokens(x, torch.zeros(1, 9, 1), valid), Mask(visible), aux={})
    content, seen, predicted = contents(Model(), step)
    assert content.shape == (2, 5, 1) and content[0, 4].isnan() and content.isnan().sum() == 1
    assert torch.equal(seen, visible[:, 4:]) and predicted is None
