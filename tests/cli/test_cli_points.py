"""Point clouds and lidar sweeps from the command line."""

import numpy as np
import pytest
from click.testing import CliRunner

from anymask.cli import main

SMALL = ("--size", "nano", "--epochs", "1", "--batch-size", "4", "--precision", "fp32", "--quiet")


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for n in range(8):
        (tmp_path / "clouds" / f"{n % 2}").mkdir(parents=True, exist_ok=True)
        np.savetxt(tmp_path / "clouds" / f"{n % 2}" / f"{n}.txt", rng.normal(size=(64, 3)) * [1, 1, n % 2 + 0.2])
    (tmp_path / "sweeps").mkdir()
    sweep = np.column_stack([rng.uniform(-30, 30, (3000, 2)), rng.normal(size=(3000, 2))]).astype("<f4")
    sweep.tofile(tmp_path / "sweeps" / "0.bin")
    return tmp_path


def test_the_kind_that_was_named_is_kept_for_later(place):
    made = run("pretrain", "clouds", "--kind", "points", "--out", "r", "--probe-labels", "2", *SMALL)
    assert made.exit_code == 0, made.output
    assert run("embed", "r", "clouds", "-o", "z.npy").exit_code == 0
    assert np.load("z.npy").shape == (8, 96)
    evaluated = run("evaluate", "r", "clouds", "--labels", "1", "--draws", "2")
    assert evaluated.exit_code == 0 and "voxels" in evaluated.output, evaluated.output


def test_what_is_wrong_is_said_in_one_line(place):
    for words, expected in {
        ("clouds", "--kind", "point"): "kind='point' (--kind) is no kind of data; there is: ",
        ("clouds", "--kind", "lidar"): "found 0 files of kind lidar in clouds",
        ("sweeps", "--kind", "points"): "found 0 files of kind points in sweeps",
        ("sweeps", "--recipe", "point-mae"): "recipe 'point-mae' takes data of kind 'points', and sweeps has lidar",
        ("sweeps", "--image-size", "64"): "'lidar' are windows of 16 m; leave size= (--image-size) out",
        ("sweeps", "--label", "x"): "windows of lidar sweeps take no labels",
        ("clouds", "--kind", "points", "--image-size", "4"): "the points of a training cloud: a number from 16 on",
        ("clouds", "--kind", "points", "--set", "tokenizer.groups=99"): "99 groups of 32 points do not fit clouds",
    }.items():
        failed = run("describe", *words)
        assert failed.exit_code == 2 and expected in failed.output, (words, failed.output)


def test_a_sweep_is_described(place):
    described = run("describe", "sweeps", "--size", "nano")
    assert described.exit_code == 0 and "49 to a sweep" in described.output.replace("\n", " "), described.output
