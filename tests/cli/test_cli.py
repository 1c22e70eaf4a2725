"""The command line as a user meets it: words, output, exit codes and errors."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anymask.cli import main


def call(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of small pictures: bright left or bright right."""
    place = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(40):
        name = "left" if i % 2 else "right"
        pixels = rng.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        pixels[:, : 8 if i % 2 else None][:, -8:] += 120
        (place / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / name / f"{i}.png")
    return place


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    call("pretrain", folder, "--epochs", 2, "--batch-size", 8, "--out", out, "--quiet", "--probe-labels", "none")
    return out


def test_help_is_quick():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        words = [sys.executable, "-m", "anymask.cli", "--help"]
        out = subprocess.run(words, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        assert "pretrain" in out.stdout
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "anymask.cli", "--help"], capture_output=True, text=True, check=True
    ).stderr
    assert "torch" not in loaded and "numpy" not in loaded, min(times)  # what would make it slow on any machine


def test_recipes_show_diff():
    listed = json.loads(call("recipes", "--json"))
    assert {"mae", "simmim", "crossmae", "maskfeat", "gmml"} <= {row[0] for row in listed["rows"]}
    shown = call("show", "mae")
    assert "mask.ratio" in shown and "0.75" in shown and "arXiv:2111.06377" in shown
    rows = json.loads(call("diff", "simmim", "mae", "--json"))["rows"]
    assert ["loss", "l1", "mse"] in rows
    assert "no difference" in call("diff", "mae", "mae")


def test_run_is_used(run, folder, tmp_path):
    assert call("show", run)
    out = tmp_path / "z.npy"
    call("embed", run, folder, "-o", out)
    assert np.load(out).shape == (40, 96)
    call("embed", run, folder, "-o", tmp_path / "z.parquet", "--pool", "cls")
    table = json.loads(call("evaluate", run, folder, "--labels", "1,all", "--draws", 2, "--json"))
    assert [row[0] for row in table["rows"]][::2] == ["raw input", "untrained encoder", "pre-trained encoder"]
    call("reconstruct", run, folder, "-o", tmp_path / "picture.png", "-n", 3)
    assert Image.open(tmp_path / "picture.png").width > 48
    for kind in ("safetensors", "timm", "hf"):
        assert "wrote" in call("export", run, "--to", kind, "-o", tmp_path / f"out-{kind}")


def test_finetune_then_predict(run, folder, tmp_path):
    place = tmp_path / "classifier"
    call("finetune", run, folder, "--epochs", 8, "--batch-size", 8, "--out", place)
    call("predict", place, folder, "-o", tmp_path / "p.csv")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert len(lines) == 41 and "left" in lines[0]
    assert json.loads(call("predict", place, folder, "--json"))["columns"]


def test_describe(folder):
    text = call("describe", folder)
    for word in ("40", "16", "left", "mae", "nano", "memory", "time"):
        assert word in text


def test_own_recipe(folder, tmp_path):
    file = tmp_path / "my_own.py"
    call("new", "my-own", "--parent", "simmim", "--out", file)
    assert "exists" in call("new", "my-own", "--out", file, code=2)
    assert call("check", file).count("passed") >= 10  # the whole contract, on a file nobody has touched
    out = tmp_path / "run"
    words = ("pretrain", folder, "--epochs", 1, "--batch-size", 8, "--quiet", "--probe-labels", "none")
    call(*words, "--recipe", file, "--out", out)
    fresh = subprocess.run(
        [sys.executable, "-m", "anymask.cli", "show", str(out)], capture_output=True, text=True
    )  # the file's parts are anymask's own, so the run opens without the file
    assert fresh.returncode == 0, fresh.stderr
    assert "mask.ratio" in call("diff", file, "simmim")


def test_set(folder, tmp_path):
    words = ("pretrain", folder, "--epochs", 1, "--batch-size", 8, "--quiet", "--probe-labels", "none")
    out = tmp_path / "run"
    call(*words, "--set", "mask.ratio=0.5", "--set", "loss=l1", "--out", out)
    rows = json.loads(call("diff", out, "mae", "--json"))["rows"]
    assert rows == [["mask.ratio", "0.5", "0.75"], ["loss", "l1", "mse"]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pretrain", "FOLDER", "--recipe", "mea"), "did you mean 'mae'"),
        (("pretrain", "FOLDER", "--set", "mask.ratoi=0.5"), "did you mean 'ratio'"),
        (("pretrain", "FOLDER", "--set", "mask.ratio"), "mask.ratio=0.8"),
        (("pretrain", "FOLDER", "--set", "mask.ratio=1.5"), "above 0 and below 1"),
        (("pretrain", "FOLDER", "--set", "tokenizer.patch=5"), "patches that fit"),
        (("pretrain", "FOLDER", "--size", "tinny"), "tiny"),
        (("pretrain", "FOLDER", "--batch-size", "4000"), "--batch-size"),
        (("pretrain", "FOLDER", "--batch-size", "many"), "auto"),
        (("pretrain", "FOLDER", "--probe-labels", "some"), "1,5,10"),
        (("pretrain", "nowhere"), "does not exist"),
        (("pretrain", "EMPTY"), "0 files that anything here reads"),
        (("pretrain", "ONE"), "at least 2"),
        (("pretrain", "FOLDER", "--out", "RUN"), "--resume"),
        (("pretrain", "FOLDER", "--resume"), "--out"),
        (("embed", "FOLDER", "FOLDER", "-o", "z.npy"), "no run"),
        (("embed", "RUN", "GREY", "-o", "z.npy"), "channel"),
        (("export", "RUN", "--to", "onyx"), "timm"),
        (("evaluate", "RUN", "NOLABELS", "--task", "classify"), "labels"),
        (("show", "mea"), "did you mean 'mae'"),
        (("new", "1x"), "begin with a letter"),
    ],
)
def test_errors_name_the_mend(words, says, folder, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "empty").mkdir()
    for name, count, shape in (("one", 1, (16, 16, 3)), ("grey", 4, (16, 16)), ("nolabels", 8, (16, 16, 3))):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    places = {"FOLDER": folder, "RUN": run} | {n.upper(): tmp_path / n for n in ("empty", "one", "grey", "nolabels")}
    before = set(tmp_path.rglob("*"))
    output = call(*(places.get(word, word) for word in words), code=2)
    assert says in output and "Traceback" not in output
    assert set(tmp_path.rglob("*")) == before  # nothing was begun


def jpg(place, rng):
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(place / f"{i}.jpg")


def tiff16(place, rng):
    for i in range(12):
        Image.fromarray(rng.integers(0, 60000, (32, 32), dtype=np.uint16)).save(place / f"{i}.tif")


def five_channels(place, rng):
    for i in range(12):
        np.save(place / f"{i}.npy", rng.normal(size=(5, 32, 32)).astype(np.float32))


def mixed_sizes(place, rng):
    for i in range(12):
        shape = (int(rng.integers(24, 60)), int(rng.integers(24, 60)), 3)
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(place / f"{i}.png")


def odd_size(place, rng):
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (37, 29, 3), dtype=np.uint8)).save(place / f"{i}.png")


@pytest.mark.parametrize("make", [jpg, tiff16, five_channels, mixed_sizes, odd_size])
def test_other_images(make, tmp_path):
    """The same command on other data: trained, embedded, drawn, and described."""
    place = tmp_path / "images"
    place.mkdir()
    make(place, np.random.default_rng(0))
    out = tmp_path / "run"
    text = call("pretrain", place, "--size", "nano", "--epochs", 1, "--batch-size", 4, "--out", out)
    assert "no labels" not in text and "3 steps" in text
    call("embed", out, place, "-o", tmp_path / "z.npy")
    features = np.load(tmp_path / "z.npy")
    assert features.shape == (12, 96) and np.isfinite(features).all()
    call("reconstruct", out, place, "-o", tmp_path / "p.png")
    call("pretrain", place, "--out", out, "--resume")  # says that it is finished


def test_a_bad_file_is_named(tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    jpg(place, np.random.default_rng(0))
    (place / "broken.jpg").write_bytes((place / "0.jpg").read_bytes()[:100])
    words = ("pretrain", place, "--size", "nano", "--epochs", 1, "--batch-size", 4, "--quiet")
    assert "broken.jpg" in call(*words, "--strict", "--out", tmp_path / "a", code=2)
    assert "broken.jpg" in call("describe", place, "--size", "nano")
    call(*words, "--out", tmp_path / "b")


def test_a_labelled_table_from_training_to_new_rows(tmp_path):
    """The label column is named once; new rows come without it, and with a column more."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    x = rng.normal(size=(60, 3)) + 4 * y[:, None]

    def write(name, rows, *, label, more=False):
        heads = ["a", "b", "c", *(["kind"] if label else []), *(["extra"] if more else [])]
        lines = [",".join(heads)]
        for values, kind in zip(x[rows], y[rows]):
            cells = [f"{v:.3f}" for v in values] + (["yes" if kind else "no"] if label else []) + ["7"] * more
            cells[0] = "?" if rng.random() < 0.2 else cells[0]
            lines.append(",".join(cells))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    known, new = write("known.csv", slice(0, 45), label=True), write("new.csv", slice(45, 60), label=False, more=True)
    out = tmp_path / "run"
    call("pretrain", known, "--label", "kind", "--na", "?", "--epochs", 2, "--size", "nano", "--out", out, "--quiet")
    text = call("evaluate", out, known, "--labels", "5", "--draws", 2)
    assert "pre-trained encoder" in text
    (kept,) = (out / "evaluations").iterdir()
    assert kept.name == "classify on known.csv.json" and json.loads(kept.read_text())["rows"][0][0] == "raw input"
    call("embed", out, new, "-o", tmp_path / "z.npy")
    features = np.load(tmp_path / "z.npy")
    assert features.shape == (15, 96) and np.isfinite(features).all()
    call("finetune", out, known, "--epochs", 2, "--out", tmp_path / "classifier")
    call("predict", tmp_path / "classifier", new, "-o", tmp_path / "p.csv")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0].startswith("id,predicted,p no,p yes") and len(lines) == 16
