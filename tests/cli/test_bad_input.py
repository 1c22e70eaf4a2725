# ruff: noqa: E501
"""Bad input to each command: the exact text of the error, one line, exit code 2, and nothing begun."""

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from anymask.cli import main
from anymask.evaluation.tasking import task_names

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from task_tools import made

NO_RUN = "empty is no run folder (it has no run.json); `anymask pretrain` makes one"
NOT_OURS = "other/run.json has no 'format', so it is not anymask's; `anymask pretrain` makes runs"
DAMAGED = (
    "damaged/run.json is damaged (Expecting ',' delimiter: line 1 column 13 (char 12)); restore it from a copy, or train "
    "again"
)
ONE_CLASS = (
    "all labelled samples of one.npz are of one class, which leaves nothing to tell apart; give data of two classes or "
    "more, or another label column (--label, label=)"
)
NO_LABELS = (
    "plain.npz has no labels, which this needs: put images into class folders, add a metadata.csv with a column label, "
    "or name the label column (--label, label=)"
)
NAN = (
    "sample 3 of nan.npz holds NaN or infinite values (first at channel, row, column (0, 2, 2)); replace them before "
    "training, as by numpy.nan_to_num(x), or remove the file"
)
COLOUR = (
    "'image' has 3 channels in rgb.npz; the model was trained on 1 (good.npz): open the data with channels=1 (1, 3 and 4 "
    "can be converted), or train on such data"
)
TABLE = (
    "table.csv has no part 'image' (it has: table); the model was trained with it on good.npz: give data of kind image"
)
MISSING = "zzzzzz/x.npz does not exist; {} holds no 'zzzzzz'"
NO_RECIPE = "no recipe 'mea'; did you mean 'mae'?; `anymask recipes` lists all, ./file.py loads your own"
NO_ANOMALY = (
    "say what is an anomaly, in one way: normal= labels that are normal, anomaly= labels that are not (--set anomaly=3), "
    "or out= another source (--set out=FOLDER)"
)
NO_TARGETS = (
    "segmentation needs targets, an integer array (N, H, W) of pixels or (N, K) of tokens (--set targets=FILE.npy), and "
    "test_targets with test="
)
FEW = "class '0' has 16 labelled training samples, fewer than 1000 labels a class; ask for 16 or fewer, or \"all\""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    rng = np.random.default_rng(0)
    x, y = (rng.random((40, 8, 8)) * 16).astype(np.float32), np.arange(40) % 2
    holed = x.copy()
    holed[3, 2, 2] = np.nan
    np.savez(folder / "good.npz", x=x, y=y)
    np.savez(folder / "one.npz", x=x, y=np.zeros(40, int))
    np.savez(folder / "plain.npz", x=x)
    np.savez(folder / "nan.npz", x=holed, y=y)
    np.savez(folder / "rgb.npz", x=rng.integers(0, 255, (40, 3, 8, 8), dtype=np.uint8), y=y)
    (folder / "table.csv").write_text("a,b\n" + "\n".join(f"{i},{i * i}" for i in range(40)))
    for name, text in (("empty", None), ("other", "{}"), ("damaged", '{"format": 1')):
        (folder / name).mkdir()
        if text is not None:
            (folder / name / "run.json").write_text(text)
    made(folder / "good.npz", folder / "run")
    return folder


def refuses(place, monkeypatch, words, says):
    monkeypatch.chdir(place)
    before = set(place.rglob("*"))
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 2, (words, result.output, result.exception)
    assert result.output == f"anymask: {says.format(place)}\n"
    assert set(place.rglob("*")) == before  # nothing was begun


@pytest.mark.parametrize("task", [t for t in task_names()])
@pytest.mark.parametrize(
    ("run", "source", "says"),
    [
        ("empty", "good.npz", NO_RUN),
        ("other", "good.npz", NOT_OURS),
        ("run", "nan.npz", NAN),
        ("run", "rgb.npz", COLOUR),
        ("run", "table.csv", TABLE),
        ("run", "zzzzzz/x.npz", MISSING),
    ],
)
def test_every_task_refuses(place, monkeypatch, task, run, source, says):
    refuses(place, monkeypatch, ("evaluate", run, source, "--task", task), says)


@pytest.mark.parametrize("task", [t for t in task_names()])
def test_every_task_checks_its_options(place, monkeypatch, task):
    words = ("evaluate", "run", "good.npz", "--task", task, "--set")
    refuses(place, monkeypatch, (*words, "batch_size=soon"), f"option 'batch_size' of task {task!r} is 'soon'; give int")
    monkeypatch.chdir(place)
    result = CliRunner().invoke(main, [*words, "zzzzzz=1"])
    assert result.exit_code == 2
    assert result.output.startswith(f"anymask: task {task!r} has no option 'zzzzzz'; it has: ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("good.npz", "--task", "clasify"), "no task 'clasify' (did you mean 'classify'?); there is: {tasks}"),
        (("good.npz", "--labels", "1000"), FEW),
        (("good.npz", "--set", "draw=3"), "task 'classify' has no option 'draw' (did you mean 'draws'?); it has: {classify}"),
        (("good.npz", "--pool", "median"), "no pooling 'median'; there is: mean, cls, sum, max, tokens, or give a function of a Latent"),
        (("one.npz", "--task", "classify"), ONE_CLASS),
        (("plain.npz", "--task", "classify"), NO_LABELS),
        (("one.npz", "--task", "retrieve"), ONE_CLASS),
        (("plain.npz", "--task", "retrieve"), NO_LABELS),
        (("good.npz", "--task", "retrieve", "--set", "recall=5"),
         "option 'recall' of task 'retrieve' is 5; give a list, as --set recall=[...]"),
        (("good.npz", "--task", "retrieve", "--set", "qrels=q.tsv"),
         "corpus= and qrels= go together: the documents, and which are relevant to which query"),
        (("good.npz", "--task", "anomaly"), NO_ANOMALY),
        (("good.npz", "--task", "anomaly", "--set", "anomaly=7"), "good.npz has no class '7'; there is: 0, 1"),
        (("plain.npz", "--task", "anomaly", "--set", "anomaly=1"),
         "plain.npz has no labels to tell anomalies by; name their column (--label), or give out="),
        (("good.npz", "--task", "anomaly", "--set", "out=rgb.npz"), COLOUR),
        (("good.npz", "--task", "reconstruct", "--set", "ratios=[2]"),
         "ratios are hidden shares above 0 and below 1, as [0.25, 0.75], not [2]"),
        (("good.npz", "--task", "segment"), NO_TARGETS),
        (("good.npz", "--task", "segment", "--set", "targets=none.npy"),
         "none.npy is no .npy file of targets; write an integer array with numpy.save"),
        (("good.npz", "--task", "health", "--set", "parts=20"),
         "good.npz has 40 samples, too few for 20 parts of 8; give 160 samples or more, or fewer parts (--set parts=5)"),
        (("good.npz", "--task", "impute"),
         "cells are imputed in tables, and run was trained on image; give a run of a table (anymask pretrain TABLE.csv)"),
    ],
)  # fmt: skip
def test_evaluate(place, monkeypatch, words, says):
    from inspect import signature

    from anymask.evaluation.tasking import task

    options = [o for o in signature(task("classify")).parameters if o not in ("run", "source")]
    says = says.replace("{tasks}", ", ".join(task_names())).replace("{classify}", ", ".join(options))
    refuses(place, monkeypatch, ("evaluate", "run", *words), says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("embed empty good.npz -o z.npy", NO_RUN),
        ("embed other good.npz -o z.npy", NOT_OURS),
        ("embed damaged good.npz -o z.npy", DAMAGED),
        ("embed run nan.npz -o z.npy", NAN),
        ("embed run rgb.npz -o z.npy", COLOUR),
        ("embed run table.csv -o z.npy", TABLE),
        ("embed run good.npz -o z.txt", "features are written to .npy or .parquet, not to z.txt"),
        ("finetune empty good.npz", NO_RUN),
        ("finetune run one.npz", ONE_CLASS),
        ("finetune run plain.npz", NO_LABELS),
        ("finetune run nan.npz", NAN),
        ("finetune run rgb.npz", COLOUR),
        ("finetune run good.npz --labels 1000",
         "class 0 has 20 labelled sample(s), fewer than 1000 a class; ask for 20 or fewer, or leave out the class"),
        ("predict empty good.npz", NO_RUN),
        ("predict run good.npz", "run holds no classifier (it has no classifier.json); `anymask finetune` makes one"),
        ("reconstruct empty good.npz -o p.png", NO_RUN),
        ("reconstruct run nan.npz -o p.png", NAN),
        ("reconstruct run rgb.npz -o p.png", COLOUR),
        ("reconstruct run table.csv -o p.png", TABLE),
        ("reconstruct run good.npz -o p.txt",
         "pictures of one sample or more are written to .png, not 8 to p.txt"),
        ("export empty --to timm", NO_RUN),
        ("export other --to timm", NOT_OURS),
        ("verify mea", NO_RECIPE),
        ("verify mae --seeds 0",
         "a claim needs at least two seeds, as the interval is over seeds; --seeds 5 is the default"),
        ("verify mae --data nowhere",
         "there is no nowhere/cifar10; --data (data=) or ANYMASK_DATA has to name the folder that holds cifar10/"),
        ("show mea", NO_RECIPE),
        ("show empty", NO_RUN),
        ("diff mae mea", NO_RECIPE),
        ("diff mae other", NOT_OURS),
    ],
)  # fmt: skip
def test_other_commands(place, monkeypatch, words, says):
    refuses(place, monkeypatch, words.split(), says)


def test_unknown_formats_and_options_are_named(place, monkeypatch):
    monkeypatch.chdir(place)
    for words, says in (
        (["export", "run", "--to", "onyx"], "anymask: no format 'onyx'; there is: safetensors, timm, hf"),
        (["recipes", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
        (["recipes", "extra"], "Got unexpected extra argument (extra)"),
        (["evaluate", "run", "good.npz", "--seed", "x"], "'x' is not a valid integer"),
        (["evaluate", "run", "good.npz", "--set", "seed=1"], "--set seed=1: give it as --seed 1"),
        (["evaluate", "run", "good.npz", "--set", "seed"], "--set 'seed' has no value"),
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2 and says in result.output and "Traceback" not in result.output
