"""The benchmark's results file and report: what is known is not done again, and figures are those of the lines."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """benchmarks/imputation.py as a module; its report imports it by this name."""
    spec = importlib.util.spec_from_file_location("imputation", BENCHMARKS / "imputation.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "imputation", module)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("imputation_report", None)


@pytest.fixture
def folder(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        x = np.random.default_rng(seed).standard_normal((40, 3)) @ np.ones((3, 3)) + np.arange(3)
        rows = [f"{i},{a},{b},{c},7" for i, (a, b, c) in enumerate(x)]
        (tmp_path / f"{name}.csv").write_text("\n".join([",a,b,c,constant", *rows]))
    return tmp_path


def test_tables_are_scaled_and_lose_columns_without_spread(benchmark, folder):
    x = benchmark.read_table(folder / "one.csv")
    assert x.shape == (40, 3) and (x.min(0) == 0).all() and (x.max(0) == 1).all()
    few = benchmark.read_table(folder / "one.csv", rows=10)
    assert len(few) == 10 and (few == benchmark.read_table(folder / "one.csv", rows=10)).all()


def test_an_interrupted_benchmark_goes_on_and_reports(benchmark, folder, monkeypatch):
    results = folder / "results.jsonl"
    command = ["imputation.py", str(folder), "--methods", "mean", "knn", "iterative", "--seeds", "0", "1"]
    command += ["--mechanisms", "mcar", "mnar", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    whole = results.read_text().splitlines()
    assert len(whole) == 3 * 2 * 2 * 2
    results.write_text("\n".join(whole[:20]) + "\n" + whole[20][:30])  # stopped amid a line
    done = []
    perform = benchmark.perform
    monkeypatch.setattr(benchmark, "perform", lambda where, task: done.append(task) or perform(where, task))
    monkeypatch.setattr(sys, "argv", [*command, "--report", str(folder / "docs")])
    benchmark.main()
    assert len(done) == 4
    found = benchmark.known(results)
    first = json.loads(whole[0])
    assert len(found) == 24 and found[benchmark.Task(*(first[k] for k in benchmark.Task._fields))] == first
    text = (folder / "docs" / "imputation.md").read_text()
    error = np.mean([r["rmse"] for t, r in found.items() if t.table == "one" and t.method == "mean"])
    assert f"| one | 40 x 3 | {error:.4f}" in text
    assert (folder / "docs" / "imputation.svg").read_bytes().startswith(b"<?xml")


def test_remasker_at_another_setting_counts_as_missing(benchmark, tmp_path):
    task = dict(table="t", mechanism="mcar", seed=0, method="remasker")
    lines = [{**task, "setting": list(benchmark.SETTING)}, {**task, "seed": 1, "setting": [1, 2, 3]}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [t.seed for t in benchmark.known(tmp_path / "r.jsonl")] == [0]
