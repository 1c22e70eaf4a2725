"""Encoders saved and loaded with huggingface_hub: the same features, and a card that says what is recorded."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("huggingface_hub")

import anymask
from anymask.contract.data import batch_of, picture_schema
from anymask.interop import InteropError, hub
from anymask.interop.hub import PretrainedEncoder
from anymask.recipe import RecipeError, Size, find
from anymask.run import Run, RunError
from anymask.table import Figure, Table
from anymask.train.weights import load_weights

SIZE = Size(32, 2, 2, 32, 1, 2)
SETTINGS = {
    "seed": 1, "steps": 120, "epochs": 3.0, "batch_size": 64, "accumulate": 2, "devices": 1, "precision": "fp32",
    "lr": 1e-3, "source": "/home/somebody/secret/photos", "opening": {"label": "diagnosis"},
    "init": "/home/somebody/earlier", "threads": 1, "clip": 1.0, "compile": False,
}  # fmt: skip
TABLE = Table(
    ("features", "probe", "all labels"),
    [("raw input", "linear probe", Figure(31.25)), ("pre-trained encoder", "linear probe", Figure(47.83, 46.1, 49.56))],
    title="accuracy in % on 100 test samples of photos",
    notes=["the test part is a fifth of the data"],
)
EVIDENCE = {
    "recipe": "mae", "claim": "hidden tokens are left out", "verdict": "not shown", "note": "the comparator is better",
    "smallest_effect": 1.0, "effect": {"mean": -1.862, "low": -2.534, "high": -1.21}, "seeds": [0, 1, 2],
    "data": {"name": "cifar10"}, "command": "anymask verify mae --seeds 3", "date": "2026-11-21", "format": 1,
}  # fmt: skip


def made(folder, recipe="mae", schema=None, settings=SETTINGS):
    """A run with weights that no fresh model has."""
    schema = schema or replace(picture_schema(), source="photos", notes=("left out /home/somebody/secret/1.png",))
    run = Run(folder, find(recipe), SIZE, schema, settings=dict(settings), versions={"torch": torch.__version__})
    run.save()
    model = run.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    run.save_weights(model)
    return run


@pytest.fixture
def evidence(tmp_path):
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "mae.json").write_text(json.dumps(EVIDENCE))
    return folder


@pytest.fixture
def saved(tmp_path, evidence):
    """(run, folder it was saved to)."""
    run = made(tmp_path / "run")
    encoder = PretrainedEncoder(run, evaluations={"probe": TABLE}, evidence=evidence)
    encoder.save_pretrained(tmp_path / "saved")
    return run, tmp_path / "saved"


def images(count=5):
    return batch_of(picture_schema(), count)["image"]


@pytest.mark.parametrize("pool", ["mean", "cls", "tokens"])
def test_features_are_those_of_the_run_bit_for_bit(tmp_path, pool):
    run = made(tmp_path / "run")
    PretrainedEncoder(run.folder, pool=pool).save_pretrained(tmp_path / "saved")
    loaded = PretrainedEncoder.from_pretrained(tmp_path / "saved")
    x = images()
    expected = anymask.embed(run, x.numpy(), pool=pool)
    with torch.no_grad():
        assert np.array_equal(loaded(x).numpy(), expected)
        assert np.array_equal(loaded({"image": x}).numpy(), expected)
    assert not loaded.training and loaded.pool == pool
    assert np.array_equal(anymask.embed(tmp_path / "saved", x.numpy(), pool=pool), expected)


def test_it_learns_as_any_module_and_says_so(saved, tmp_path):
    encoder = PretrainedEncoder.from_pretrained(saved[1])
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(images()).square().mean().backward()
    optimiser.step()
    encoder.save_pretrained(tmp_path / "tuned")
    again = PretrainedEncoder.from_pretrained(tmp_path / "tuned")
    with torch.no_grad():
        assert torch.equal(again(images()), encoder(images()))
    said = "The weights were changed after these were measured"
    assert said in (tmp_path / "tuned" / "README.md").read_text()
    assert said not in (saved[1] / "README.md").read_text()


def test_training_goes_on_from_it(saved):
    run, folder = saved
    fresh = run.model(trained=False)
    load_weights(fresh, folder)
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), run.model().state_dict().values()))
    assert Run.open(folder).settings["began_with"] == "earlier"


def test_nothing_of_the_machine_is_saved(saved):
    for file in saved[1].rglob("*"):
        if file.suffix in (".json", ".md"):
            text = file.read_text()
            assert "somebody" not in text and "secret" not in text and "diagnosis" not in text, file


def test_card_has_the_recorded_figures(saved):
    folder = saved[1]
    text = (folder / "README.md").read_text()
    table = json.loads((folder / "evaluations" / "probe.json").read_text())
    assert table == TABLE.to_json()
    for row in table["rows"]:
        cells = [str(Figure(**cell)) if isinstance(cell, dict) else cell for cell in row]
        assert f"| {' | '.join(cells)} |" in text
    found = json.loads((folder / "evidence" / "mae.json").read_text())
    assert f"**{found['verdict']}** ({found['note']})" in text and found["command"] in text and found["claim"] in text
    numbers = re.search(r"(-[\d.]+) points of accuracy, 95 % interval (-[\d.]+) to (-[\d.]+), (\d+) seeds", text)
    effect = found["effect"]
    assert [float(n) for n in numbers.groups()] == [
        *(round(effect[name], 2) for name in ("mean", "low", "high")),
        len(found["seeds"]),
    ]
    for fact in ("Level 1 of 3", "arXiv:2111.06377", "| batch | 128 samples |", "| steps | 120 |", "own: width 32",
                 "photos", "library_name: anymask", "pipeline_tag: image-feature-extraction"):  # fmt: skip
        assert fact in text, fact


def test_level_is_that_of_the_evidence(tmp_path, evidence):
    run = made(tmp_path / "run")
    card = lambda: str(PretrainedEncoder(run, evidence=evidence).generate_model_card())
    (evidence / "mae.json").write_text(json.dumps({**EVIDENCE, "verdict": "shown"}))
    assert "Level 2 of 3" in card()
    (evidence / "parity.json").write_text(json.dumps({"recipes": {"mae": []}}))
    assert "Level 3 of 3" in card()
    (evidence / "mae.json").unlink()
    (evidence / "parity.json").unlink()
    assert "Level 1 of 3" in card() and "No evidence of `anymask verify mae` is at hand" in card()


def test_card_says_what_was_changed_of_the_recipe(tmp_path, saved):
    run = made(tmp_path / "other", find("mae").but({"mask.ratio": 0.6}))
    text = str(PretrainedEncoder(run).generate_model_card())
    assert "What differs from mae" in text and "| mask.ratio | 0.75 | 0.6 |" in text
    assert "What differs" not in (saved[1] / "README.md").read_text()


@pytest.mark.parametrize("shape, dtype", [((3, 24, 32), "uint8"), ((2, 30, 24), "uint16"), ((1, 24, 24), "float32")])
def test_the_lines_of_the_card_run(tmp_path, monkeypatch, shape, dtype):
    schema = picture_schema(shape)
    schema = replace(schema, fields={"image": replace(schema.fields["image"], dtype=dtype)})
    PretrainedEncoder(made(tmp_path / "run", schema=schema)).save_pretrained(tmp_path / "FOLDER")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "FOLDER" / "README.md").read_text(), re.S).group(1)
    space = {}
    exec(code, space)
    assert len(code.strip().splitlines()) == 5 and space["features"].shape == (4, 32)


def test_saving_again_replaces_the_card_and_keeps_what_is_known(saved, tmp_path, evidence):
    encoder = PretrainedEncoder.from_pretrained(saved[1])
    before = (saved[1] / "README.md").read_text()
    encoder.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == before
    (tmp_path / "again" / "README.md").write_text("old")
    encoder.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == before


def test_folders_that_hold_something_else_are_left(saved, tmp_path):
    run, folder = saved
    encoder = PretrainedEncoder(run)
    with pytest.raises(InteropError, match="is the run itself; save to another folder"):
        encoder.save_pretrained(run.folder)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text("mine")
    with pytest.raises(InteropError, match="not empty and holds no saved encoder"):
        encoder.save_pretrained(tmp_path / "project")
    assert (tmp_path / "project" / "config.json").read_text() == "mine"
    (folder / "state.safetensors").write_bytes(b"")
    with pytest.raises(InteropError, match="holds a training run that could go on"):
        encoder.save_pretrained(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(InteropError, match="is a file"):
        encoder.save_pretrained(tmp_path / "file")


def test_folders_that_are_no_encoder(saved, tmp_path):
    folder = saved[1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no run folder"):
        PretrainedEncoder.from_pretrained(tmp_path / "empty")
    for name in (tmp_path / "nowhere", "somebody/no-such-model"):
        with pytest.raises(InteropError, match=r"there is no folder .*, and no model of that name"):
            PretrainedEncoder.from_pretrained(name, local_files_only=True)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="has no weights"):
        PretrainedEncoder.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(weights)
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(RunError, match=r"was written in format 99, .* upgrade it"):
        PretrainedEncoder.from_pretrained(folder)


def test_records_that_are_none(tmp_path, evidence):
    run = made(tmp_path / "run")
    with pytest.raises(InteropError, match="no pooling 'median'; there is: mean, cls, sum, max, tokens"):
        PretrainedEncoder(run, pool="median")
    with pytest.raises(InteropError, match=r"evaluations\['probe'\] is no table .*'title'"):
        PretrainedEncoder(run, evaluations={"probe": {"accuracy": 99}})
    (evidence / "mae.json").write_text("{")
    with pytest.raises(InteropError, match=r"mae.json is no JSON"):
        PretrainedEncoder(run, evidence=evidence)
    (run.folder / "evaluations").mkdir()
    (run.folder / "evaluations" / "x.json").write_text("[]")
    with pytest.raises(InteropError, match=r"x.json is no table"):
        PretrainedEncoder(run)


def test_samples_that_do_not_fit(saved):
    encoder = PretrainedEncoder.from_pretrained(saved[1])
    with pytest.raises(InteropError, match=r"'image' is \(5, 1, 24, 32\); this encoder takes \(batch, 3, 24, 32\)"):
        encoder(images()[:, :1])
    with pytest.raises(InteropError, match="the sample has no 'image'"):
        encoder({"picture": images()})


MINE = """
from anymask.parts.encoders import ViT
from anymask.recipe import P, find, recipe


class Mine(ViT):
    pass


@recipe(parent=find("mae"), slug="mae")
def mine(r):
    \"\"\"As mae.\"\"\"
    return r.but(encoder=P(Mine))
"""


def test_a_recipe_of_a_file_has_to_be_named(tmp_path, monkeypatch):
    import sys

    file = tmp_path / "mine_hub.py"
    file.write_text(MINE)
    run = made(tmp_path / "run", find(str(file)))
    PretrainedEncoder(run).save_pretrained(tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text()
    assert 'anymask.find("path/to/mine_hub.py")' in text and "| encoder | ViT | Mine |" in text
    assert "Level 1 of 3" in text and not (tmp_path / "saved" / "evidence").exists()  # mae's is not its own
    assert not list((tmp_path / "saved").rglob("*.py"))
    monkeypatch.delitem(sys.modules, "anymask_user_mine_hub")
    with pytest.raises(RecipeError, match=r"from your own mine_hub.py; name that file"):
        PretrainedEncoder.from_pretrained(tmp_path / "saved")
    find(str(file))
    assert PretrainedEncoder.from_pretrained(tmp_path / "saved")(images()).shape == (5, 32)


def test_a_run_of_others_names_parts_alone(saved, tmp_path):
    """Nothing that it names is run or imported: no file as a parent, no function that writes as a part."""
    folder = saved[1]
    about = json.loads((folder / "run.json").read_text())
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    recipe = {**about["recipe"], "parent": str(evil)}
    (folder / "run.json").write_text(json.dumps({**about, "recipe": recipe}))
    with pytest.raises(RecipeError, match="has a file as its parent"):
        PretrainedEncoder.from_pretrained(folder)
    for address in ("anymask.recipe:find", "anymask.new:write", "os:system"):
        stages = {**about["recipe"]["stages"], "mask": {"part": address, "args": {"name": str(evil)}}}
        (folder / "run.json").write_text(json.dumps({**about, "recipe": {**about["recipe"], "stages": stages}}))
        with pytest.raises(RecipeError, match=address):
            PretrainedEncoder.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_a_name_on_the_hub_downloads_nothing_that_runs(saved, monkeypatch):
    """As a download would be: the hub's client gives a folder."""
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(saved[1])

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **_: str(saved[1] / "config.json"))
    encoder = PretrainedEncoder.from_pretrained("somebody/encoder", revision="v1")
    assert (asked["name"], asked["revision"]) == ("somebody/encoder", "v1")
    assert asked["allow_patterns"] == ["*.json", "*.safetensors", "README.md"]
    assert encoder(images()).shape == (5, 32)
