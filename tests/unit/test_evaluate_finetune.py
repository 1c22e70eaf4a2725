"""Task finetune: arms of equal steps and equal compute, settings chosen on labelled samples, resuming, its curve."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from task_tools import digits, made
from torch import nn

from anymask.data import DataError, infer_schema, open_source
from anymask.evaluation import EvaluateError, evaluate, finetune, predict
from anymask.evaluation.augmenting import augmented, cropped, shifted
from anymask.evaluation.baselines import classify
from anymask.evaluation.compute import Costs, pretraining_flops, step_flops
from anymask.evaluation.journal import Journal
from anymask.evaluation.tasks import finetune as task
from anymask.evaluation.tuning import Check, Classifier, train_classifier, training_batches
from anymask.run import Run

FEW = dict(task="finetune", draws=2, epochs=1, batch_size=10, rates=(1e-3, 3e-3))


@pytest.fixture(scope="module")
def data():
    return digits(300)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    run = made(data, tmp_path_factory.mktemp("run"))
    run.settings.update(steps=20, batch_size=10)
    run.save()
    return Run.open(run.folder)


def counted(run, monkeypatch):
    """(arm is pre-trained, steps, samples) of every training."""
    seen = []

    def train(classifier, batches, *, steps, stop=None, valid=None, checks=(), **rest):
        batches = list(zip(range(steps), batches))
        seen.append((len(batches), stop, sorted({int(i) for _, b in batches for i in b["index"]}), rest["lr"]))
        classifier.eval()
        return [Check(step, 0.5, rest["lr"]) for step in checks] if valid is not None else []

    monkeypatch.setattr(task, "train_classifier", train)
    return seen


def test_operations_of_a_linear_model_are_those_counted_by_hand():
    first, second = nn.Linear(7, 5), nn.Linear(5, 3)
    batch = {"index": torch.arange(4), "x": torch.randn(4, 7)}
    found = step_flops(lambda b: second(first(b["x"])).sum(), batch)
    assert found == 2 * (7 * 5 + 5 * 3) + 2 * (7 * 5 + 5 * 3) + 2 * 5 * 3  # forward; weights; input of the second


def test_attention_is_counted_whatever_kernel_runs():
    q = torch.randn(2, 1, 16, 8, requires_grad=True)
    batch = {"index": torch.arange(2), "x": q}
    found = step_flops(lambda b: nn.functional.scaled_dot_product_attention(b["x"], b["x"], b["x"]).sum(), batch)
    assert found == 6 * 2 * 16 * 16 * 8  # two products forward, four backward


def test_pretraining_costs_its_steps(run, data):
    once = pretraining_flops(run, data)
    run = Run(run.folder, run.recipe, run.size, run.schema, {**run.settings, "steps": 40, "accumulate": 2})
    assert pretraining_flops(run, data) == pytest.approx(4 * once)
    run.settings.pop("steps")
    with pytest.raises(EvaluateError, match="leave out the arm 'compute'"):
        pretraining_flops(run, data)


def test_equal_compute_is_at_least_as_much_and_by_less_than_a_step():
    costs = Costs(pretraining=1000.0, tuned=3.0, whole=7.0)
    steps = costs.matching_steps(10, 4)
    spent = 1000 + 10 * 4 * 3
    assert spent <= steps * 4 * 7 < spent + 4 * 7


def test_arms_have_the_steps_claimed_and_the_same_samples(run, data, monkeypatch):
    seen = counted(run, monkeypatch)
    table = evaluate(run, data, labels=(2,), arms="pretrained,steps,compute", **FEW)
    assert [row[0] for row in table.rows] == [task.ARMS[a] for a in ("pretrained", "steps", "compute")]
    cost = task._costs(run, data, "mean", None, True)
    equal = cost.matching_steps(2, 10)
    assert [s for s, *_ in seen] == [2] * 8 + [equal] * 4 and equal > 2
    finals = [s for s in seen if s[1] is not None]
    assert len(finals) == 6 and all(len(chosen) == 20 for _, _, chosen, _ in finals)
    assert {rate for *_, rate in finals} == {1e-3}  # equal accuracy: the least loss


def test_settings_are_chosen_without_the_test_part(run, data, monkeypatch):
    parts = []
    monkeypatch.setattr(
        task, "fixed_batches", lambda source, schema: parts.append(source) or iter([{"label": torch.zeros(1)}])
    )
    monkeypatch.setattr(task, "measured", lambda *_: (0.0, 0.0))

    def train(classifier, batches, *, valid=None, checks=(), **rest):
        if valid is not None:
            next(iter(valid()))
        return [Check(step, 0.5, 1.0) for step in checks] if valid is not None else []

    monkeypatch.setattr(task, "train_classifier", train)
    evaluate(run, data.subset(range(200)), test=data.subset(range(200, 300)), labels=(4,), arms="pretrained", **FEW)
    *valid, test = parts
    assert len(test) == 100 and [len(part) for part in valid] == [20, 20]
    assert not {int(r) for part in valid for r in part.rows} & {int(r) for r in test.rows}


def test_an_early_stop_has_to_be_clearly_better():
    end = Check(40, 0.5, 1.0)
    assert task.stopping([Check(10, 0.55, 0.9), end], 100) == end
    assert task.stopping([Check(10, 0.7, 0.9), Check(20, 0.6, 0.9), end], 100).step == 10
    assert task.stopping([Check(10, 0.55, 0.9), end], 1000).step == 10


def test_partial_fine_tuning_leaves_frozen_blocks_as_they_were(run, data):
    for blocks, moved in ((0, ()), (1, ("encoder.blocks.1.", "encoder.norm."))):
        torch.manual_seed(0)
        classifier = Classifier(run.model(), classes=10, trainable_blocks=blocks)
        before = {n: t.clone() for n, t in classifier.state_dict().items()}
        batches = training_batches(data, run.schema, batch_size=10, steps=3, seed=0)
        train_classifier(classifier, batches, steps=3, lr=1e-2)
        for name, now in classifier.state_dict().items():
            same = torch.equal(now, before[name])
            if name.startswith(("norm.", "head.")):
                assert not same
            elif not name.startswith(tuple(f"model.{m}" for m in moved) or "none"):
                assert same, name
        assert blocks == 0 or any(
            not torch.equal(t, before[n]) for n, t in classifier.state_dict().items() if "encoder.blocks.1." in n
        )
    with pytest.raises(EvaluateError, match="2 blocks; give 0"):
        Classifier(run.model(), classes=2, trainable_blocks=-1)


def test_stopping_early_follows_the_same_schedule(run, data):
    def weights(steps, stop):
        torch.manual_seed(0)
        classifier = Classifier(run.model(), classes=10)
        batches = training_batches(data, run.schema, batch_size=10, steps=steps, seed=0)
        at = {}
        keep = lambda check: at.update({check.step: classifier.head.weight.detach().clone()})
        valid = lambda: training_batches(data, run.schema, batch_size=10, steps=1, seed=0)
        train_classifier(classifier, batches, steps=steps, stop=stop, lr=1e-2, valid=valid, checks=[4], on_check=keep)
        return classifier.head.weight.detach(), at[4]

    stopped, at = weights(8, 4)
    _, passed = weights(8, None)
    assert torch.equal(stopped, at) and torch.equal(stopped, passed)


def test_an_interrupted_call_goes_on(run, data, tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    options = dict(labels=(2, 3), arms="pretrained,classical", journal=path, **FEW)
    whole = evaluate(run, data, **options)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])  # killed while it wrote
    seen = counted(run, monkeypatch)
    monkeypatch.setattr(task, "measured", lambda *_: (0.25, 0.0))
    evaluate(run, data, **options)
    done = {json.loads(line)["name"] for line in lines[:5]}
    assert len(seen) == len([line for line in lines if "pretrained" in line]) - len(
        [name for name in done if "pretrained" in name]
    )
    monkeypatch.undo()
    path.write_text("".join(lines))
    monkeypatch.setattr(task, "train_classifier", lambda *a, **k: pytest.fail("done already"))
    again = evaluate(run, data, **options)
    assert again.rows == whole.rows
    alone = evaluate(run, data, **{**options, "arms": "pretrained"})  # arms may be measured by several calls
    assert alone.rows == whole.rows[:1]
    monkeypatch.undo()
    evaluate(run, data, **{**options, "layer_decay": 0.5})
    assert len(path.read_text().splitlines()) == 2 * len(lines)  # another setting is another measurement
    path.write_text("arm,labels\n")
    with pytest.raises(EvaluateError, match="no journal"):
        Journal(path, "")


def test_bad_input(run, data):
    x = np.stack([data[i]["image"] for i in range(60)])
    with pytest.raises(DataError, match="has no labels"):
        evaluate(run, x, **FEW)
    with pytest.raises(DataError, match="of one class"):
        evaluate(run, (x, np.zeros(60, int)), test=data, **FEW)
    with pytest.raises(DataError, match=r"ask for [0-9]+ or fewer"):
        evaluate(run, data, labels=(1000,), **FEW)
    with pytest.raises(EvaluateError, match="no arm 'scratch'"):
        evaluate(run, data, arms="scratch", **FEW)
    with pytest.raises(EvaluateError, match="one for each of the 2"):
        evaluate(run, data, labels=(1, 2), **{**FEW, "epochs": [1, 2, 3]})
    with pytest.raises(EvaluateError, match="no finite gradient"):
        classifier = Classifier(run.model(), classes=10)
        with torch.no_grad():
            classifier.head.weight.fill_(torch.nan)
        train_classifier(
            classifier, training_batches(data, run.schema, batch_size=4, steps=1, seed=0), steps=1, lr=1e-3
        )


def test_the_classical_method_learns_digits(data):
    x = np.stack([data[i]["image"].ravel() for i in range(300)]).astype(np.float32)
    said, chosen = classify(infer_schema(data), x[:200], data.labels[:200], x[200:])
    assert (said == data.labels[200:]).mean() > 0.85 and set(chosen) == {"svc__C"}
    first = np.array([np.flatnonzero(data.labels == c)[0] for c in range(10)])
    said, chosen = classify(infer_schema(data), x[first], data.labels[first], x)
    assert chosen == {} and (said == data.labels).mean() > 0.2


def test_whole_batches_are_augmented_by_their_keys():
    images = torch.arange(2 * 64, dtype=torch.uint8).view(2, 1, 8, 8)
    key = torch.tensor([3, 4])
    moved = shifted(images, key, 1)
    assert torch.equal(moved[1:], shifted(images[1:], key[1:], 1))  # whatever else is in the batch
    inner = images[0, 0, 2:6, 2:6].float()
    places = [(r, c) for r in range(1, 4) for c in range(1, 4) if torch.equal(moved[0, 0, r : r + 4, c : c + 4], inner)]
    assert len(places) == 1
    large = torch.rand(64, 3, 32, 32)
    flat = torch.full((4, 3, 32, 32), 7.0)
    assert torch.allclose(cropped(flat, torch.arange(4)), flat)
    ramp = torch.linspace(0, 1, 32).expand(64, 1, 32, 32)
    slope = cropped(ramp, torch.arange(64))[:, 0, 0, -1] - cropped(ramp, torch.arange(64))[:, 0, 0, 0]
    assert 16 < int((slope < 0).sum()) < 48  # about half are mirrored
    assert (slope.abs() < 1.001).all() and (slope.abs() > 0.6 * 0.75 * 0.9).all()
    assert cropped(large, torch.arange(64)).shape == large.shape


def test_tables_of_cells_are_not_augmented(tmp_path):
    from anymask.data import open_source

    rows = open_source((np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 2))
    batch = {"key": torch.arange(3), **{name: torch.randn(3, 4) for name in infer_schema(rows).fields}}
    assert all(augmented(batch, infer_schema(rows))[name] is batch[name] for name in batch)


def test_the_curve_and_its_page(run, data, tmp_path):
    place = Path(__file__).parents[2] / "benchmarks" / "few_labels.py"
    spec = importlib.util.spec_from_file_location("few_labels", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run.settings.update(accumulate=1, precision="fp32", seed=1)
    run.save()
    out = tmp_path / "curve.svg"
    words = [str(run.folder), "digits", "--labels", "2,3", "--seeds", "2", "--epochs", "1", "--rates", "1e-3"]
    module.main([*words, "--arms", "pretrained,classical", "-o", str(out), "--journal", str(tmp_path / "j.jsonl")])
    text = out.with_suffix(".md").read_text()
    assert "| pre-trained |" in text and "SVM on raw pixels" in text and "--epochs 1" in text and "curve.svg" in text
    first = out.read_bytes()
    assert b"<svg" in first
    module.main([*words, "--arms", "pretrained,classical", "-o", str(out), "--journal", str(tmp_path / "j.jsonl")])
    assert out.with_suffix(".md").read_text() == text and out.read_bytes() == first


def test_images_that_are_not_whole_patches(tmp_path):
    """Sides of 18 x 19 pixels and patches of 4 leave 16 x 16, in every task that takes images at one size."""
    rng = np.random.default_rng(0)
    y = np.arange(48) % 2
    x = (rng.integers(0, 90, (48, 18, 19)) + 100 * y[:, None, None]).astype(np.uint8)
    source = open_source((x, y))
    run = made(source, tmp_path / "run")
    run.settings.update(steps=20, batch_size=10)
    assert any(side % run.build().tokenizer.patch for side in run.schema.fields["image"].shape[1:])
    folder = finetune(run, source, epochs=2, out=tmp_path / "classifier", progress=False)
    assert len(predict(folder, x).rows) == 48
    assert len(evaluate(run, source, task="finetune", labels=(4,), draws=2, epochs=1, rates=(1e-3,)).rows) == 4
    probed = evaluate(run, source, labels=(4,), draws=1, probes=("attentive",))
    assert {row[1] for row in probed.rows} == {"attentive probe"}
