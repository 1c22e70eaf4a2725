"""Kills a training run several times (SIGKILL, one of them while its state is being written), resumes it each time, and
compares it bit for bit with a run that was left alone. Exit code 1 on any difference.

    python scripts/kill_and_resume.py --precision bf16 --epochs 6 --kills 5
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMED = ("samples_per_second", "waiting")
MAY_DIFFER = ("versions", "pytorch-lightning_version")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        train(args, args.child)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return compare(args, Path(folder))


def train(args: argparse.Namespace, out: Path) -> None:
    import torch

    from anymask.train import pretrain

    torch.set_num_threads(args.threads)
    resume = (out / "run.json").is_file()
    options = {} if resume else dict(epochs=args.epochs, precision=args.precision, accumulate=args.accumulate)
    pretrain("digits", out=out, resume=resume, probe_labels=None, save_minutes=0.2 / 60, progress=False, **options)


def start(args: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    flags = ["--epochs", str(args.epochs), "--precision", args.precision, "--accumulate", str(args.accumulate)]
    return subprocess.Popen([sys.executable, __file__, *flags, "--threads", str(args.threads), "--child", str(out)])


def rows(folder: Path) -> list[dict[str, float]]:
    from anymask.train.metrics import read

    found = read(folder / "metrics.csv")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in found]


def kill_at(child: subprocess.Popen[bytes], out: Path, step: float, delay: float, writing: bool) -> str:
    """Kills the child `delay` seconds after it has done `step` steps; or, `writing`, while it then writes its state."""
    while child.poll() is None and (max((row["step"] for row in rows(out)), default=0) < step):
        time.sleep(0.02)
    time.sleep(delay)
    while writing and child.poll() is None and not list(out.glob(".state.safetensors.*")):
        time.sleep(0.0005)  # the file is there for milliseconds
    if child.poll() is not None:
        return "it had ended"
    child.send_signal(signal.SIGKILL)
    child.wait()
    half = [f"{file.name} of {file.stat().st_size:,} bytes left" for file in out.glob(".state.safetensors.*")]
    done = int(max((row["step"] for row in rows(out)), default=0))
    return f"killed at step {done}" + (f" while it was writing ({half[0]})" if half else "")


def compare(args: argparse.Namespace, folder: Path) -> int:
    from anymask.train.state import step_of

    whole, cut = folder / "whole", folder / "cut"
    if start(args, whole).wait():
        print("the uninterrupted run failed")
        return 1
    steps = step_of(whole / "state.safetensors")
    draw = random.Random(args.seed)
    moments = sorted(draw.uniform(0, 0.9 * steps) for _ in range(args.kills))
    mid, hit = len(moments) // 2, False
    for number, moment in enumerate(moments):
        writing = number >= mid and not hit  # tried again at the next kill where the write was over too soon
        delay = 0.0 if writing else draw.uniform(0, 0.3)
        told = kill_at(start(args, cut), cut, moment, delay, writing)
        hit |= "writing" in told
        print(
            f"kill {number + 1}: {told}; last state: step {step_of(cut / 'state.safetensors')} of {steps}", flush=True
        )
    if start(args, cut).wait():
        print("the last resumed run failed")
        return 1
    if not hit:
        print("no kill fell into a write; give another --seed or more --kills")
        return 1
    return report(whole, cut)


def report(whole: Path, cut: Path) -> int:
    import safetensors.torch

    from anymask.train.state import read_state, same_state

    parts = {}
    for name in ("model.safetensors", "encoder.safetensors"):
        parts[name] = [safetensors.torch.load_file(run / name) for run in (whole, cut)]
    left, right = (read_state(run / "state.safetensors") for run in (whole, cut))
    for name in left:
        if name not in MAY_DIFFER:
            parts[f"state.safetensors: {name}"] = [left[name], right[name]]
    parts[f"metrics.csv: {len(rows(whole))} rows of losses, norms and rates"] = [rows(whole), rows(cut)]
    differ = [name for name, (a, b) in parts.items() if not same_state(a, b)]
    for name in parts:
        print(f"{'DIFFERS' if name in differ else 'equal':>8}  {name}")
    print(f"final loss {rows(whole)[-1]['loss']!r} and {rows(cut)[-1]['loss']!r}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
