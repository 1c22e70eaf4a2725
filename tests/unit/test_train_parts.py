"""The pieces of training: state, plan, metrics, health, pictures, weights, precision, schedule."""

import csv
import dataclasses
import json
import math
import shutil
import subprocess
import sys
import types
from collections import namedtuple

import numpy as np
import pytest
import torch
from train_tools import SIZE, images, run

from anymask.contract.data import example_schema
from anymask.data import DataError, infer_schema, open_source
from anymask.parts.losses import binary
from anymask.recipe import P, RecipeError, find
from anymask.reports.images import Images
from anymask.reports.renderer import contents
from anymask.run import save_tensors
from anymask.table import Table
from anymask.train import (
    StateError,
    TrainError,
    folder,
    measure,
    metrics,
    picture,
    pictures,
    plan,
    planning,
    precision,
    probe,
    reconstruct,
    state,
    watch,
)
from anymask.train.weights import load_weights


def model_of(data=None, recipe="mae", **changes):
    source = open_source(images() if data is None else data)
    schema = infer_schema(source)
    made = find(recipe).but(changes).build(schema, SIZE)
    return made, measure.first_batch(source, planning.cropped(schema, made), 16)


# state


def test_state_round_trip(tmp_path):
    tree = {
        "a": {3: torch.arange(3), "x": (1, [None, True, "text"], 0.1)},
        "b": [torch.tensor(2.5), float("nan"), -math.inf],
        "c": torch.ones(2, 3, dtype=torch.bfloat16).T,
    }
    tree["tied"] = tree["c"]
    state.write_state(tmp_path / "s", tree, step=7)
    assert state.same_state(state.read_state(tmp_path / "s"), tree)
    assert state.step_of(tmp_path / "s") == 7 and state.step_of(tmp_path / "none") == 0
    assert not state.same_state(tree, {**tree, "c": tree["c"] + 1})


def test_state_errors(tmp_path):
    with pytest.raises(StateError, match=r"holds a set at 'callbacks\.mine\.1'"):
        state.write_state(tmp_path / "s", {"callbacks": {"mine": [0, {1}]}}, step=0)
    (tmp_path / "s").write_bytes(b"x" * 100)
    with pytest.raises(StateError, match="cannot be read"):
        state.read_state(tmp_path / "s")


# plan


def test_plan_and_its_rows():
    made = plan(images(), size=SIZE, steps=10, accumulate=2, batch_size=8, trial=True)
    assert (made.batch, made.micro_steps, made.epochs) == (16, 20, 4.0)
    assert made.lr == pytest.approx(2.4e-3 * math.sqrt(16 / 4096 * 768 / 32))
    rows = dict(made.rows())
    assert rows["learning rate"].startswith("7.3e-04 = 2.4e-03 for batch 4096, scaled with the square root of batch 16")
    assert rows["batch"] == "16 (8 samples x 2 accumulated)" and "expected time" in rows
    assert made.memory > 16 * made.parameters


@pytest.mark.parametrize("count, batch", [(2, 2), (50, 32), (1999, 64), (2000, 128)])
def test_automatic_batch_and_size(count, batch):
    made = plan(images(count), epochs=1)
    assert (made.batch_size, made.size_name) == (batch, "nano")


def test_automatic_batch_fits_the_memory(monkeypatch):
    need = plan(images(200), size=SIZE, epochs=1).memory
    monkeypatch.setattr(measure, "memory_available", lambda: need)
    assert plan(images(200), size=SIZE, epochs=1).batch_size == 32  # a fifth of the memory stays free
    monkeypatch.setattr(measure, "memory_available", lambda: 2**20)
    assert "lower --batch-size" in plan(images(200), size=SIZE, epochs=1, batch_size=64).notes[0]


def test_default_epochs():
    of = lambda kind, n: planning.default_epochs(dataclasses.replace(example_schema(kind), count=n))
    assert [of("image", n) for n in (10, 50_000, 10**7)] == [120, 8, 1]
    assert [of("table", n) for n in (10, 5_000, 10**7)] == [600, 200, 1]


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(batch_size=41), TrainError, "41 is larger than the set of 40 samples; lower --batch-size to 40"),
        (dict(batch_size="big"), TrainError, "batch_size is 'auto' or a number"),
        (dict(changes={"tokenizer.patch": 3}), RecipeError, "patches that fit: 2, 4"),
        (dict(changes={"masks.ratio": 3}), RecipeError, "did you mean 'mask'"),
        (dict(size="giant"), RecipeError, "there is: pico, micro"),
        (dict(recipe="mea"), RecipeError, "did you mean 'mae'"),
        (dict(epochs=1, steps=1), TrainError, "not both"),
        (dict(epochs=0), TrainError, "above 0"),
        (dict(accumulate=0), TrainError, "accumulate counts from 1"),
        (dict(precision="fp16"), TrainError, "use --precision bf16"),
        (dict(precision="int8"), TrainError, "auto, bf16 or fp32"),
        (dict(streaming=True, epochs=1), TrainError, "no known length"),
    ],
)
def test_plan_refuses(options, error, message):
    with pytest.raises(error, match=message):
        plan(images(), **{"size": SIZE, **options})


def test_plan_refuses_one_sample():
    with pytest.raises(DataError, match="at least 2"):
        plan(images(1))


def test_plan_refuses_a_folder_in_use(tmp_path):
    done = run(tmp_path / "a", steps=1)
    with pytest.raises(TrainError, match="--resume, replace it with --overwrite"):
        run(done.folder, steps=1)
    (done.folder / "notes.txt").write_text("mine")
    again = run(done.folder, steps=2, overwrite=True)
    assert again.settings["steps"] == 2 and (done.folder / "notes.txt").read_text() == "mine"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(TrainError, match="not empty and holds no run"):
            run(tmp_path / "b", overwrite=overwrite)


def test_plan_refuses_a_full_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(TrainError, match="on another disk with --out"):
        plan(images(), size=SIZE, out=tmp_path / "deep" / "down")


def test_plan_refuses_loggers(tmp_path):
    with pytest.raises(TrainError, match="no logger 'tensorbord'; there is: comet, csv"):
        run(tmp_path / "a", loggers=("tensorbord",))
    assert not (tmp_path / "a").exists()


def test_default_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(folder.default_folder("mae", "My Photos.parquet")) == "runs/mae-my-photos-1"
    assert str(folder.default_folder("mae", "cifar10/train")) == "runs/mae-cifar10-train-1"
    (tmp_path / "runs" / "mae-my-photos-1").mkdir(parents=True)
    assert str(folder.default_folder("mae", "My Photos.parquet")) == "runs/mae-my-photos-2"


def test_planning_and_training_leave_the_global_generator_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(tmp_path / "a", steps=2)
    assert torch.equal(before, torch.get_rng_state())


def test_lightning_is_imported_late():
    code = "import anymask.train as t, sys; t.plan, t.pretrain, t.picture; assert 'lightning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_precision_of_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for has, width, want in [(True, 96, "bf16"), (True, 64, "fp32"), (False, 192, "fp32")]:
        monkeypatch.setattr(precision, "multiplies_bf16", lambda has=has: has)
        assert precision.choose("auto", width)[0] == want
    assert precision.choose("bf16", 32)[0] == "bf16"


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx512f", False),
    ],
)
def test_which_processors_multiply_bf16_faster(monkeypatch, vendor, flags, fast):
    text = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} rdseed\nbugs\t\t: amx_bf16\n"
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(precision.Path, "read_text", lambda path: text)
    assert precision.multiplies_bf16() is fast


# metrics


def test_metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    file = metrics.Metrics(path, step=0)
    for step in (1, 2, 3):
        file.append({"step": step, "loss": 0.1 * step})
    with path.open("a") as cut:
        cut.write("4,0.")
    file = metrics.Metrics(path, step=2)
    file.append({"step": 3, "loss": 0.5, "aux": 1.0})
    assert list(csv.reader(path.open())) == [
        ["step", "loss", "aux"],
        ["1", "0.1", ""],
        ["2", "0.2", ""],
        ["3", "0.5", "1"],
    ]


def test_what_a_run_records(tmp_path):
    made = run(tmp_path / "a", steps=4, accumulate=2, loggers=("csv",))
    rows = metrics.read(made.folder / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and rows[-1]["epoch"] == pytest.approx(4 * 16 / 40)
    assert {"loss", "error/pixels", "lr", "grad_norm", "samples_per_second", "waiting"} <= set(rows[0])
    assert all(row["loss"] == pytest.approx(row["error/pixels"]) for row in rows)
    assert list(made.folder.glob("lightning_logs/**/metrics.csv"))
    assert sorted(p.name for p in (made.folder / "pictures").iterdir())[-1] == "step_0000004.png"


# health


def test_collapse_is_seen():
    start = watch.Features(0.5, 8.0)
    assert watch.collapse(start, watch.Features(0.3, 5.0), 0.5) is None
    assert "collapsed" in watch.collapse(start, watch.Features(0.01, 5.0), 0.5)
    assert "collapsed" in watch.collapse(start, watch.Features(0.3, 1.5), 0.5)
    assert watch.collapse(watch.Features(math.nan, math.nan), watch.Features(math.nan, math.nan), 0.5) is None


def test_collapse_of_a_model_is_said_once():
    model, batch = model_of()
    health = watch.Watch()
    assert not health.check(model, batch, 0.0)
    with torch.no_grad():
        model.encoder.norm.weight.zero_()
        model.encoder.norm.bias.fill_(1.0)
    assert ["collapsed" in text for text in health.check(model, batch, 0.2)] == [True]
    again = watch.Watch()
    again.load_state_dict(health.state_dict())
    assert not again.check(model, batch, 0.21)


def test_reconstruction_no_better_than_a_constant():
    noise = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    model, batch = model_of(noise)
    with torch.no_grad(), watch.evaluating(model):
        bad = watch.compare(model, model(batch))
    assert watch.reconstruction(bad, 0.1) is None  # too early to say
    assert "no better than one constant" in watch.reconstruction(bad, 0.5)
    assert watch.reconstruction(watch.Errors(0.5 * bad.constant, bad.constant), 0.5) is None


def test_constants_for_classes_and_absolute_errors():
    goal = torch.tensor([[0, 0, 0, 1]])
    entropy = lambda pred, goal: torch.nn.functional.cross_entropy(pred.transpose(1, 2), goal, reduction="none")
    best = watch._constant(entropy, torch.zeros(1, 4, 2), goal, torch.ones(1, 4, dtype=torch.bool))
    assert best == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-4)
    replaced = goal[..., None].float()
    best = watch._constant(binary, torch.zeros(1, 4, 1), replaced, torch.ones(1, 4, dtype=torch.bool))
    assert best == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=1e-4)  # of a logit
    absolute = lambda pred, goal: (pred - goal).abs().mean(-1)
    x = torch.tensor([0.0, 0.0, 0.0, 9.0]).view(1, 4, 1)
    assert watch._constant(absolute, x, x, torch.ones(1, 4, dtype=torch.bool)) == pytest.approx(9 / 4)


def test_a_mask_that_is_too_easy():
    ramp = np.linspace(0, 255, 8)[None, None, None] * np.ones((64, 1, 8, 8))  # all images are the same
    model, batch = model_of(ramp.astype(np.uint8), **{"target.normalise": False, "mask.ratio": 0.2})
    assert not watch.Watch().check(model, batch, 0.05)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        model(batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert ["mask is too easy" in text for text in watch.Watch().check(model, batch, 0.05)] == [True]
    assert not watch.Watch().check(model, batch, 0.5)  # after half of the run it is no wonder


def test_waiting_for_data():
    assert watch.starving(1.0, 2.0) is None and watch.starving(2.0, 10.0) is None
    assert "40% of the time" in watch.starving(4.0, 10.0) and "--workers" in watch.starving(4.0, 10.0)
    health = watch.Watch()
    assert health.waiting(4.0, 10.0) and not health.waiting(4.0, 10.0)


def test_watching_leaves_the_model_as_it_was():
    model, _ = model_of()
    model.train()
    model.decoder.eval()
    before = torch.get_rng_state()
    with watch.evaluating(model):
        assert not model.training
        torch.rand(3)
    assert model.training and not model.decoder.training
    assert torch.equal(before, torch.get_rng_state())


# pictures


@pytest.mark.parametrize("recipe, channels", [("mae", 1), ("simmim", 3), ("maskfeat", 1), ("crossmae", 5), ("gmml", 2)])
def test_pictures(recipe, channels):
    changes = {"mask.unit": 1} if recipe == "simmim" else {"target.cells": 1} if recipe == "maskfeat" else {}
    model, batch = model_of(images(channels=channels), recipe, **changes)
    image = picture(model, batch)
    panels = 2 if recipe == "maskfeat" else 3
    assert image.size[0] >= panels * pictures.SIDE and image.size[1] > 16 * pictures.SIDE


def test_a_picture_shows_what_it_says():
    model, batch = model_of(**{"target.normalise": False})
    with watch.evaluating(model):
        step = model(batch)
        content, shown, (predicted, known) = contents(model, step)
    assert torch.equal(shown, step.mask.visible) and torch.equal(known, ~step.mask.visible)
    index = step.mask.ask[0]
    assert torch.equal(predicted[0, index], step.pred["pixels"][0])
    raw = Images(model).pixels(content)
    torch.testing.assert_close(raw, batch["image"].float(), atol=1e-3, rtol=0)
    hidden = Images(model).masked(content, shown)
    assert hidden.isnan().float().mean() == pytest.approx((~shown).float().mean())


def test_captions():
    model, batch = model_of(images(channels=5), "crossmae")
    step = model(batch)
    _, shown, made = contents(model, step)
    lines = " ".join(pictures._caption(model, shown, 5, made))
    assert "borrows the mean" in lines and "channels 1 to 3 of 5" in lines and "not asked for" in lines


def test_reconstruct(tmp_path):
    data = images(side=20)
    made = run(tmp_path / "a", data, steps=1, image_size=(18, 20))
    assert reconstruct(made, data, tmp_path / "sub" / "picture.png", n=3).is_file()


# weights


def test_weights_from_a_run(tmp_path):
    first = run(tmp_path / "a", steps=2)
    second = run(tmp_path / "b", steps=1, recipe="simmim", changes={"mask.unit": 1}, init=first.folder)
    assert second.settings["init"] == str(first.folder)
    words = load_weights(second.build(), first.folder / "encoder.safetensors")
    assert "(stem, encoder)" in words and "fresh: corruption, decoder" in words
    model = second.build()
    load_weights(model, first.folder)
    assert torch.equal(model.encoder.norm.weight, first.model().encoder.norm.weight)


def test_weights_that_do_not_fit(tmp_path):
    first = run(tmp_path / "a", steps=1)
    with pytest.raises(TrainError, match="take the same --size"):
        run(tmp_path / "b", steps=1, size="nano", init=first.folder)
    assert not (tmp_path / "b").exists()
    save_tensors(tmp_path / "other.safetensors", {"layer.weight": torch.ones(2)})
    with pytest.raises(TrainError, match="holds no weight of this model"):
        run(tmp_path / "b", steps=1, init=tmp_path / "other.safetensors")
    with pytest.raises(TrainError, match="is not there"):
        run(tmp_path / "b", steps=1, init=tmp_path / "nowhere")


# data


def test_training_size_is_whole_patches(tmp_path):
    made = plan(images(20, side=100)[:, :, :97, :97], size=SIZE, steps=1)
    assert made.trained_at == (1, 96, 96) and made.schema.fields["image"].shape == (1, 97, 97)


def test_streams_train_by_steps(tmp_path):
    made = run(tmp_path / "a", steps=3, streaming=True)
    rows = metrics.read(made.folder / "metrics.csv")
    assert len(rows) == 3 and "epoch" not in rows[0]
    assert plan(images(), size=SIZE, streaming=True).steps == math.ceil(400_000 / 128)


def test_small_images_are_not_augmented():
    recipe = find("mae").but(augment=P(dict))
    small, large = (infer_schema(open_source(images(8, side=side))) for side in (8, 32))
    assert planning.augmentation(recipe, small) is None and planning.augmentation(recipe, large) == {}
    assert "not cropped" in planning._augment_notes(recipe, small)[0]


def test_probe_reports_duplicates(tmp_path, monkeypatch):
    asked, made_up = {}, Table(("features",), [("raw input",)])
    fake = types.SimpleNamespace(evaluate=lambda run, source, **options: asked.update(options) or made_up)
    monkeypatch.setitem(sys.modules, "anymask.evaluation", fake)
    x, y = images(), np.arange(40) % 2
    made = run(tmp_path / "a", (x, y), steps=1, probe_labels=(1, "all"))
    assert asked == {"labels": (1, "all"), "test": None, "lenient": True}
    said = []
    assert probe(made, open_source((x, y)), test=(x[:10], y[:10]), say=said.append) is made_up
    assert json.loads((made.folder / "evaluation.json").read_text())["rows"] == [["raw input"]]
    assert "100.0% of the test samples" in said[0]


def test_everything_is_exported():
    import anymask.train

    assert all(getattr(anymask.train, name) for name in anymask.train.__all__)
