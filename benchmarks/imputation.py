"""Imputation of tables by ReMasker's protocol, against classical imputers; writes docs/imputation.md and its plot.

    OMP_NUM_THREADS=1 python benchmarks/imputation.py FOLDER [--tables wine iris] [--methods mean remasker]
        [--seeds 0 1 2] [--mechanisms mcar mar mnar] [--jobs 1] [--results FILE] [--report docs] [--tune]

FOLDER holds .csv files, first column the row number. Of each table at most 5,000 rows (a seeded choice), the numeric
columns with spread, scaled to 0..1 by the whole table; 0.3 of the cells are removed, every method is fitted on what is
left and fills it, and is judged on the removed cells. One line a (table, mechanism, seed, method) is added to the
results file as soon as it is known; a run that is started again goes on with what is missing. Without anything missing
the command only writes the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROWS = 5_000
RATE = 0.3
ROOT = Path(__file__).resolve().parent.parent
METHODS = ("mean", "knn", "iterative", "forest", "remasker")
MECHANISMS = ("mcar", "mar", "mnar")
LABELS = {"mean": "mean", "knn": "kNN", "iterative": "iterative", "forest": "missForest-like", "remasker": "remasker"}


class Setting(NamedTuple):
    """How `remasker` is trained here: smaller and shorter than in the paper (600 epochs, width 32 or 64, 6 to 14
    blocks), so that all tables, mechanisms and seeds take little more than an hour of one core."""

    width: int = 32
    depth: int = 2
    decoder_depth: int = 1
    steps: int = 2000
    batch_size: int = 64
    lr: float = 4e-3
    ratio: float = 0.5


SETTING = Setting()
TUNED = {  # what `--tune` compares
    "as benchmarked": SETTING,
    "lr 2e-3": SETTING._replace(lr=2e-3),
    "ratio 0.3": SETTING._replace(ratio=0.3),
    "width 64": SETTING._replace(width=64, steps=1200),
    "4 + 2 blocks": SETTING._replace(depth=4, decoder_depth=2, steps=1000),
    "twice as long": SETTING._replace(steps=4000),
}


class Task(NamedTuple):
    table: str
    mechanism: str
    seed: int
    method: str


def read_table(path: Path, rows: int = ROWS) -> np.ndarray:
    """(N, F) float64 in 0..1."""
    import pandas as pd

    x = pd.read_csv(path, index_col=0).select_dtypes("number").to_numpy(np.float64)
    if len(x) > rows:
        x = x[np.sort(np.random.RandomState(0).choice(len(x), rows, replace=False))]
    x = x[:, np.ptp(x, 0) > 0]
    return (x - x.min(0)) / np.ptp(x, 0)


def fill_by_remasker(x: np.ndarray, *, seed: int = 0, setting: Setting = SETTING) -> np.ndarray:
    """Trains on the incomplete table itself, as the paper does, and fills it."""
    from anymask import pretrain
    from anymask.evaluation.imputing import impute
    from anymask.recipe import Size

    s = setting
    size = Size(s.width, s.depth, 4, s.width, s.decoder_depth, 4)
    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(
            x, recipe="remasker", size=size, steps=s.steps, batch_size=s.batch_size, seed=seed,
            out=f"{folder}/run", probe_labels=None, progress=False, precision="fp32", workers=0,
            changes={"optimiser.lr": s.lr, "mask.ratio": s.ratio},
        )  # fmt: skip
        return impute(run, x)


def perform(folder: str, task: Task) -> dict[str, Any]:
    """One line of the results."""
    from anymask.evaluation.classical import IMPUTERS, rmse, wasserstein
    from anymask.evaluation.missing import make_missing

    one_thread()
    truth = read_table(Path(folder) / f"{task.table}.csv")
    missing = make_missing(truth, mechanism=task.mechanism, rate=RATE, seed=task.seed)
    incomplete = np.where(missing, np.nan, truth)
    begin = time.process_time()
    filled = (fill_by_remasker if task.method == "remasker" else IMPUTERS[task.method])(incomplete, seed=task.seed)
    seconds = time.process_time() - begin
    if not np.isfinite(filled).all() or not np.allclose(filled[~missing], truth[~missing], atol=1e-5):
        raise ArithmeticError(f"{task}: cells left empty, or observed ones changed")
    filled = np.where(missing, filled, truth)
    figures = {"rmse": rmse(truth, filled, missing), "wasserstein": wasserstein(truth, filled)}
    shape = {"rows": len(truth), "columns": truth.shape[1]}
    setting = {"setting": list(SETTING)} if task.method == "remasker" else {}
    return {**task._asdict(), **shape, **figures, "seconds": round(seconds, 2), **setting, **environment()}


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def environment() -> dict[str, str]:
    def commit() -> str:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() or "unknown"

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "scikit-learn", "numpy"))
    return {"commit": commit(), "versions": f"Python {platform.python_version()}, {versions}", "device": cpu()}


def cpu() -> str:
    try:
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        return f"one core of {names[0].split(':')[1].strip()}"
    except (OSError, IndexError):
        return f"one core of {platform.processor() or platform.machine()}"


def known(results: Path) -> dict[Task, dict[str, Any]]:
    """Lines by task; one that an interruption cut is done again, and so is remasker at another setting."""
    found = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("setting", list(SETTING)) != list(SETTING):
            continue
        found[Task(*(record[name] for name in Task._fields))] = record
    return found


def add(results: Path, record: dict[str, Any]) -> None:
    results.parent.mkdir(parents=True, exist_ok=True)
    text = results.read_text() if results.exists() else ""
    with results.open("a") as file:
        file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(record) + "\n")


def run_all(folder: str, tasks: Sequence[Task], results: Path, jobs: int) -> None:
    begin = time.perf_counter()

    def done(number: int, record: dict[str, Any]) -> None:
        add(results, record)
        name = "  ".join(str(record[key]) for key in Task._fields)
        passed = (time.perf_counter() - begin) / 60
        figures = f"rmse {record['rmse']:.4f}  {record['seconds']:.1f} s of CPU"
        print(f"{number}/{len(tasks)}  {name}  {figures}  ({passed:.1f} min)", flush=True)

    if jobs == 1:
        for i, task in enumerate(tasks):
            done(i + 1, perform(folder, task))
        return
    with ProcessPoolExecutor(jobs) as pool:
        for i, future in enumerate(as_completed([pool.submit(perform, folder, task) for task in tasks])):
            done(i + 1, future.result())


def tune(folder: str, tables: Iterable[str], names: Sequence[str]) -> None:
    """Settings compared on validation cells: of a table with MCAR holes (seed 100, which no result uses), a tenth of
    the cells that are left is removed as well, and the error is that of this tenth. Test cells are not read."""
    from anymask.evaluation.classical import rmse
    from anymask.evaluation.missing import mcar

    one_thread()
    errors: dict[str, list[float]] = {}
    for table in tables:
        x = read_table(Path(folder) / f"{table}.csv")
        x[mcar(x, rate=RATE, seed=100)] = np.nan
        held = mcar(x, rate=0.1, seed=101)
        line = f"{table:12}"
        for name in names or TUNED:
            begin = time.process_time()
            filled = fill_by_remasker(np.where(held, np.nan, x), seed=100, setting=TUNED[name])
            errors.setdefault(name, []).append(rmse(x, filled, held))
            line += f"  {name} {errors[name][-1]:.4f} ({time.process_time() - begin:.0f} s)"
        print(line, flush=True)
    for name, values in errors.items():
        relative = np.mean(np.array(values) / np.min(list(errors.values()), axis=0))
        print(f"{name:20} mean error over that of the best setting of each table: {relative:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--tables", nargs="+", help="names without .csv; default: all of the folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--mechanisms", nargs="+", choices=MECHANISMS, default=list(MECHANISMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--results", type=Path, default=ROOT / "evidence" / "imputation.jsonl")
    parser.add_argument("--report", type=Path, help="folder to write imputation.md and imputation.svg to")
    parser.add_argument("--tune", nargs="*", metavar="SETTING", help="compare settings of remasker instead")
    args = parser.parse_args()
    there = sorted(path.stem for path in Path(args.folder).glob("*.csv"))
    tables = args.tables or there
    unknown = set(tables) - set(there)
    if unknown or not tables:
        parser.error(f"{args.folder} holds no {', '.join(sorted(unknown)) or '.csv file'}")
    if args.tune is not None:
        tune(args.folder, tables, args.tune)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = [Task(t, m, s, how) for s in args.seeds for how in args.methods for t in tables for m in args.mechanisms]
    have = known(args.results)
    missing = [task for task in wanted if task not in have]
    print(f"{len(wanted) - len(missing)} of {len(wanted)} results are in {args.results}", flush=True)
    run_all(args.folder, missing, args.results, args.jobs)
    if args.report:
        sys.path.insert(0, str(Path(__file__).parent))
        from imputation_report import write_report

        write_report([r for task, r in known(args.results).items() if task in set(wanted)], args.report)


if __name__ == "__main__":
    main()
