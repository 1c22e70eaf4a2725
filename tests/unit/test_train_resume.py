"""An interrupted run and an uninterrupted one are the same, bit for bit."""

import csv
import errno
import multiprocessing
import os
import signal
import time

import pytest
import safetensors.torch
import torch
from train_tools import AVERAGED, BROKEN, POISONED, QUIET, SIZE, STAGED, At, images, run

from anymask.data import DataError
from anymask.recipe import Size
from anymask.run import Run, RunError
from anymask.train import Interrupted, NonFiniteError, TrainError, pretrain, state
from anymask.train.state import read_state, same_state, step_of
from anymask.train.stop import workers_deaf

TIMES = ("samples_per_second", "waiting")


def rows(folder):
    found = list(csv.DictReader((folder / "metrics.csv").open()))
    return [{name: value for name, value in row.items() if name not in TIMES} for row in found]


def assert_same(a, b):
    for name in ("model.safetensors", "encoder.safetensors"):
        assert same_state(*(safetensors.torch.load_file(r / name) for r in (a, b))), name
    left, right = (read_state(r / "state.safetensors") for r in (a, b))
    assert same_state(left["optimizer_states"], right["optimizer_states"])
    assert rows(a) == rows(b)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_exact(tmp_path, precision, accumulate):
    options = dict(recipe=AVERAGED, precision=precision, accumulate=accumulate)
    whole = run(tmp_path / "whole", **options)
    for step, number, code in ((2, signal.SIGINT, 130), (4, signal.SIGTERM, 143)):
        resume = step > 2
        with pytest.raises(Interrupted, match=r"--resume --out") as stopped:
            again = dict(recipe=AVERAGED, resume=True, out=tmp_path / "cut") | QUIET
            logger = (At(step, number),)
            pretrain(images(), **again, loggers=logger) if resume else run(tmp_path / "cut", **options, loggers=logger)
        assert (stopped.value.step, stopped.value.code, stopped.value.saved) == (step, code, True)
        assert step_of(tmp_path / "cut" / "state.safetensors") == step
    cut = pretrain(images(), recipe=AVERAGED, resume=True, out=tmp_path / "cut", **QUIET)
    assert len(rows(cut.folder)) == 6
    assert_same(whole.folder, cut.folder)


def test_signal_handlers_are_restored(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(tmp_path / "a", loggers=(At(1),))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_loader_processes_do_not_hear_the_signals():
    with workers_deaf():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child.pid, number)
    child.join(0.2)
    alive = child.is_alive()
    child.kill()
    assert alive


def test_resume_before_the_first_save_begins_again(tmp_path):
    options = dict(steps=None, epochs=1.1)
    whole = run(tmp_path / "whole", **options)
    run(tmp_path / "cut", **options)
    for name in ("state", "model", "encoder"):
        (tmp_path / "cut" / f"{name}.safetensors").unlink()
    (tmp_path / "cut" / ".state.safetensors.123").write_bytes(b"half")
    assert_same(whole.folder, run(tmp_path / "cut", resume=True, **options).folder)  # the same command once more
    assert not list((tmp_path / "cut").glob(".state*"))


def test_workers_change_nothing(tmp_path):
    data = images(24, side=32)  # large enough for the recipe's augmentation
    a, b = run(tmp_path / "a", data, workers=0, steps=3), run(tmp_path / "b", data, workers=1, steps=3)
    assert_same(a.folder, b.folder)


def test_resume_of_a_finished_run(tmp_path, caplog):
    done = run(tmp_path / "a")
    before = (done.folder / "state.safetensors").read_bytes()
    with caplog.at_level("INFO", logger="anymask"):
        pretrain(images(), resume=True, out=done.folder, **QUIET)
    assert "is finished (6 steps)" in caplog.text
    assert (done.folder / "state.safetensors").read_bytes() == before


def test_resume_refuses_other_data_and_settings(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path / "a", loggers=(At(2),))
    again = dict(resume=True, out=tmp_path / "a") | QUIET
    with pytest.raises(TrainError, match=r"not what .* was begun with"):
        pretrain(images(seed=1), **again)
    with pytest.raises(DataError, match="3 channels"):
        pretrain(images(channels=3), **again)
    for wrong, message in [
        (dict(steps=9), "its own steps, 6, not 9"),
        (dict(recipe="simmim"), "a run of mae"),
        (dict(size=Size(16, 1, 2, 16, 1, 2)), "its own size"),
        (dict(changes={"mask.ratio": 0.5}), "its own recipe"),
    ]:
        with pytest.raises(TrainError, match=message):
            pretrain(images(), **again, **wrong)
    with pytest.raises(TrainError, match="--out"):
        pretrain(images(), resume=True, **QUIET)
    with pytest.raises(TrainError, match="give it again"):
        pretrain(**again)
    with pytest.raises(RunError, match="is no run folder"):
        pretrain(images(), resume=True, out=tmp_path / "none", **QUIET)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 4 of 6: the loss is not finite \(aux/poison\).*lower learning"):
        run(tmp_path / "a", recipe=POISONED, save_minutes=0)
    assert step_of(tmp_path / "a" / "state.safetensors") == 3
    weights = safetensors.torch.load_file(tmp_path / "a" / "model.safetensors")
    assert all(w.isfinite().all() for w in weights.values())


def test_nan_is_never_written(tmp_path):
    with pytest.raises(RunError, match="is not finite any more"):
        run(tmp_path / "a", recipe=BROKEN, save_minutes=0)
    assert step_of(tmp_path / "a" / "state.safetensors") == 3
    assert torch.isfinite(next(Run.open(tmp_path / "a").model().stem.parameters())).all()


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    whole = run(tmp_path / "whole")
    real, calls = state.save_tensors, []

    def full(path, *rest):
        calls.append(path)
        if 2 <= len(calls) <= 3:
            raise OSError(errno.ENOSPC, f"could not write {path} (No space left on device)")
        real(path, *rest)

    monkeypatch.setattr(state, "save_tensors", full)
    cut = run(tmp_path / "cut", save_minutes=0)
    assert "step 2 is not saved" in caplog.text and "No space left" in caplog.text
    assert_same(whole.folder, cut.folder)


def test_a_full_disk_at_the_end_is_an_error(tmp_path, monkeypatch):
    def full(path, *rest):
        raise OSError(errno.ENOSPC, f"could not write {path} (No space left on device)")

    with pytest.raises(Interrupted):
        run(tmp_path / "a", loggers=(At(2),))
    monkeypatch.setattr(state, "save_tensors", full)
    with pytest.raises(TrainError, match=r"training is done, but .*state.safetensors.*--resume"):
        pretrain(images(), resume=True, out=tmp_path / "a", **QUIET)
    assert step_of(tmp_path / "a" / "state.safetensors") == 2


def test_stages_are_runs_that_are_trained_once(tmp_path):
    made = run(tmp_path / "a", recipe=STAGED, steps=3)
    first = made.folder / "stages" / "averaged"
    assert step_of(first / "state.safetensors") == 3
    before = (first / "state.safetensors").stat().st_mtime_ns
    pretrain(images(), recipe=STAGED, resume=True, out=made.folder, **QUIET)
    assert (first / "state.safetensors").stat().st_mtime_ns == before
    assert made.model().earlier == {} and Run.open(first).size == SIZE


def test_compiled_steps_keep_the_names_of_the_weights(tmp_path, monkeypatch):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile(f, backend="eager"))
    a, b = run(tmp_path / "a", compile=True, steps=2), run(tmp_path / "b", steps=2)
    left, right = (safetensors.torch.load_file(r.folder / "model.safetensors") for r in (a, b))
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name])
