"""`anymask report` and `anymask compare` from a shell: what they write, and bad input as one line with its mend."""

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from train_tools import images
from train_tools import run as trained

from anymask.cli import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("report")
    np.save(place / "pictures.npy", images())
    np.save(place / "wide.npy", images(side=16, channels=3))
    np.save(place / "other.npy", np.zeros((40,), dtype=np.int64))
    np.savez(place / "alike.npz", image=images(), label=np.zeros(40, dtype=np.int64))
    trained(place / "run", str(place / "pictures.npy"))
    return place


def call(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_report_writes_a_page_of_the_data_of_the_run(made, tmp_path):
    code, text = call("report", made / "run", "-o", tmp_path / "r.html", "--samples", 40)
    assert code == 0 and f"wrote {tmp_path / 'r.html'}" in text
    assert "Over training" in (tmp_path / "r.html").read_text()


def test_compare_prints_a_column_for_each_run(made):
    code, text = call("compare", made / "run", made / "run")
    assert code == 0 and "loss at the end" in text and "no recorded evaluation" in text


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_folder_that_is_no_run(made, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    told(*call(command, made), "no run", "anymask pretrain")
    assert not (tmp_path / "report.html").exists()


def test_a_source_of_another_schema(made, tmp_path):
    told(*call("report", made / "run", "--source", made / "wide.npy", "-o", tmp_path / "r.html"), "channels")
    assert not (tmp_path / "r.html").exists()


def test_labels_of_one_class_are_said_in_the_page_and_the_rest_is_there(made, tmp_path):
    code, _ = call("report", made / "run", "--source", made / "alike.npz", "-o", tmp_path / "r.html", "--samples", 40)
    text = (tmp_path / "r.html").read_text()
    assert code == 0 and "could not be measured" in text and "Over training" in text


@pytest.mark.parametrize("given", [("--samples", 1), ("-o", ".")])
def test_options_out_of_range(made, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    told(*call("report", made / "run", *given), "samples is a number" if given[0] == "--samples" else "name a file")


def told(code, text, *words):
    """One line that begins with "error" and holds the words, and the exit code of bad input."""
    lines = [line for line in text.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1 and "Traceback" not in text, text
    assert all(word in text for word in words), text
