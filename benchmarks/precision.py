"""Whether bf16 trains as fp32 does: loss curves of both from equal seeds, against the difference between seeds.

    python benchmarks/precision.py DATA [--size tiny] [--steps 200] [--seeds 2] [--batch-size 64]

Prints, for windows of a tenth of the run, the mean loss of each precision, the difference between them at equal seeds
and the difference between seeds at equal precision. Exit code 1 if the former exceeds the latter in the last half.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    if args.seeds < 2 or args.steps < 10:
        parser.error("two seeds and ten steps at least")
    curves = {p: np.stack([losses(args, p, seed) for seed in range(args.seeds)]) for p in ("fp32", "bf16")}
    windows = {p: c.reshape(args.seeds, 10, -1).mean(-1) for p, c in curves.items()}  # S 10
    between = np.abs(windows["bf16"] - windows["fp32"]).mean(0)
    seeds = np.mean([np.ptp(w, axis=0) for w in windows.values()], axis=0)
    print(f"{'steps':>10}  {'fp32':>7}  {'bf16':>7}  {'|bf16 - fp32|':>14}  {'between seeds':>14}")
    for i in range(10):
        first, last = i * args.steps // 10 + 1, (i + 1) * args.steps // 10
        means = [windows[p][:, i].mean() for p in ("fp32", "bf16")]
        print(f"{first:>4} to {last:<4}  {means[0]:.4f}  {means[1]:.4f}  {between[i]:>14.4f}  {seeds[i]:>14.4f}")
    return int(between[5:].mean() > seeds[5:].mean())


def losses(args: argparse.Namespace, precision: str, seed: int) -> np.ndarray:
    """(steps,) training loss, `steps` a multiple of ten."""
    from anymask.train import pretrain

    steps = args.steps // 10 * 10
    with tempfile.TemporaryDirectory() as folder:
        run = pretrain(
            args.data, size=args.size, steps=steps, batch_size=args.batch_size, precision=precision, seed=seed,
            probe_labels=None, progress=False, out=Path(folder) / "run",
        )  # fmt: skip
        with (run.folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    return np.array([float(row["loss"]) for row in rows])


if __name__ == "__main__":
    sys.exit(main())
