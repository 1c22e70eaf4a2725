"""`evaluate`, `finetune` and `predict`."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from anymask.data import DataError, SchemaError, infer_schema, open_source
from anymask.evaluation import EvaluateError, evaluate, finetune, load_classifier, predict
from anymask.evaluation.inputs import raw_input
from anymask.evaluation.tuning import layer_groups
from anymask.recipe import SIZES, find
from anymask.run import Run, RunError
from anymask.table import Figure, Table, interval

SMALL = SIZES["nano"]._replace(width=32, depth=2, heads=2, decoder_width=32, decoder_depth=1, decoder_heads=2)


def made(source, folder):
    run = Run(folder, find("mae"), SMALL, infer_schema(source), {"seed": 1})
    run.save()
    run.save_weights(run.build())
    return run


@pytest.fixture(scope="module")
def bars():
    """Two classes: a bright left or right half."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = rng.normal(0, 20, (120, 8, 8)) + 100 + 60 * np.where(np.arange(8) < 4, 1, -1) * (2 * y - 1)[:, None, None]
    return np.clip(x, 0, 255).astype(np.uint8), np.where(y == 1, "left", "right")


@pytest.fixture(scope="module")
def run(bars, tmp_path_factory):
    return made(open_source(bars), tmp_path_factory.mktemp("run"))


def test_the_table_of_digits(tmp_path):
    digits = open_source("digits")
    table = evaluate(made(digits, tmp_path), digits, draws=3, labels=(1, 10, "all"))
    assert table.columns == ("features", "probe", "1 label a class", "10 labels a class", "all labels")
    assert [row[0] for row in table.rows] == [
        w for w in ("raw input", "untrained encoder", "pre-trained encoder") for _ in "ab"
    ]
    raw = table.cell("all labels", features="raw input", probe="linear probe")
    assert raw.mean == pytest.approx(98, abs=1.2) and raw.low is None
    few = table.cell("10 labels a class", features="raw input", probe="linear probe")
    assert few.low < 89 < few.high and 84 < few.mean < 94
    untrained, same = (row[2:] for row in table.rows[2::2])
    assert untrained == same  # the weights are those of the start
    assert "500 test samples" in table.title
    assert json.loads(json.dumps(table.to_json()))["rows"][0][4]["low"] is None


def test_a_part_is_held_back_where_there_is_no_test_split(run, bars):
    table = evaluate(run, bars, draws=2)
    assert any("a fifth of the data" in note for note in table.notes)
    assert any("pre-trained on the test part" in note for note in table.notes)
    assert table.cell("all labels", features="raw input", probe="linear probe").mean == 100


def test_too_few_labels(run, bars):
    x, y = bars
    few = x[:14], y[:14]
    table = evaluate(run, few, test=bars, draws=2)
    assert "10 labels a class" not in table.columns and any(
        "10 labels a class, which is left out" in n for n in table.notes
    )
    assert any("are in the training part as well" in note for note in table.notes)
    with pytest.raises(DataError, match="ask for 7 or fewer"):
        evaluate(run, few, test=bars, labels=(10,))


def test_groups_stay_together(run, bars):
    x, y = bars
    table = evaluate(run, open_source((x, y), group=np.arange(120) // 6), draws=2, labels=(5,))
    assert any("by group" in note for note in table.notes)


def test_errors_name_the_mend(run, bars, tmp_path):
    x, y = bars
    with pytest.raises(DataError, match=r"metadata\.csv"):
        evaluate(run, x, task="classify")
    with pytest.raises(DataError, match="one class"):
        evaluate(run, (x, np.zeros(len(x), int)), test=bars)
    with pytest.raises(DataError, match="same classes"):
        evaluate(run, bars, test=(x, np.where(y == "left", "cat", "dog")))
    with pytest.raises(DataError, match="class folders"):
        finetune(run, x, progress=False)
    with pytest.raises(RunError, match="anymask finetune"):
        predict(tmp_path, x)


def test_large_raw_input_is_averaged(bars):
    images = open_source(np.random.default_rng(0).integers(0, 255, (3, 96, 96), dtype=np.uint8))
    raw = raw_input(images, infer_schema(images))
    assert raw.shape == (3, 48 * 48)
    assert raw[1, 0] == pytest.approx(images[1]["image"][0, :2, :2].mean())


def test_finetune_and_predict(run, bars, tmp_path):
    folder = finetune(run, bars, epochs=8, batch_size=16, lr=3e-3, out=tmp_path / "classifier", progress=False)
    about = json.loads((folder / "classifier.json").read_text())
    assert about["names"] == ["left", "right"]
    assert about["scores"]["validation accuracy"] > 0.9 and about["scores"]["test accuracy"] is None
    assert about["scores"]["samples"] == 108
    table = predict(folder, bars, out=tmp_path / "p.parquet")
    assert table.columns == ("id", "predicted", "p left", "p right")
    accuracy = np.mean([row[1] == name for row, name in zip(table.rows, bars[1])])
    assert accuracy > 0.9 and f"accuracy {100 * accuracy:.1f} %" in table.notes[0]
    assert all(abs(row[2] + row[3] - 1) < 1e-5 for row in table.rows)
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 120
    assert predict(folder, bars[0], out=tmp_path / "p.csv").notes == []
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "id,predicted,p left,p right"
    with pytest.raises(SchemaError):
        predict(folder, np.zeros((3, 3, 8, 8), np.uint8))
    with pytest.raises(EvaluateError, match=r"\.csv or \.parquet"):
        predict(folder, bars, out=tmp_path / "p.txt")


def test_finetuning_is_repeatable_and_leaves_the_generator_alone(run, bars, tmp_path):
    before = torch.get_rng_state()
    folders = [finetune(run, bars, epochs=1, labels=4, out=tmp_path / name, progress=False) for name in "ab"]
    assert torch.equal(before, torch.get_rng_state())
    one, two = (load_classifier(folder)[0].weights() for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)
    scores = json.loads((folders[0] / "classifier.json").read_text())["scores"]
    assert scores["samples"] == 8 and scores["validation accuracy"] is None
    scratch = finetune(run, bars, epochs=1, labels=4, pretrained=False, out=tmp_path / "c", progress=False)
    assert json.loads((scratch / "classifier.json").read_text())["settings"]["pretrained"] is False


def test_rates_fall_towards_the_input(run):
    from anymask.evaluation import Classifier

    classifier = Classifier(run.model(), classes=2)
    groups = layer_groups(classifier, lr=1.0, weight_decay=0.1, decay=0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    encoder = classifier.model.encoder
    assert rate[id(classifier.head.weight)] == 1
    assert [rate[id(block.mlp.fc1.weight)] for block in encoder.blocks] == [0.25, 0.5]
    assert rate[id(next(classifier.model.stem.parameters()))] == 0.125
    assert len(rate) == sum(p.requires_grad for p in classifier.parameters())
    assert not any(p.requires_grad for p in classifier.model.decoder.parameters())


def test_tables():
    table = Table(("name", "value"), [("a", Figure(1.0, 0.5, 1.5)), ("long name", None)], notes=["so"])
    assert str(table).splitlines() == ["name       value", "a          1.0 (0.5 to 1.5)", "long name", "note: so"]
    assert table.to_csv() == "name,value\na,1.0\nlong name,\n"
    with pytest.raises(ValueError, match="2 columns"):
        Table(("a", "b"), [(1,)])
    found = interval(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2 and found.high - 2 == pytest.approx(4.3027 / np.sqrt(3), abs=1e-3)
