"""Whole training steps of anymask's MAE and of Hugging Face's ViTMAEForPreTraining, interleaved in one process.

    python benchmarks/throughput.py [--precision fp32 bf16] [--shapes tiny small] [--steps N] [--threads N] [--json]

A step is: forward, backward, AdamW, with equal sizes, batch, mask ratio 0.75 and normalised pixels as targets. The
arms take turns step by step (A, B, A, B, ...), so that other load on the machine meets all of them; a ratio is the
median over rounds of the quotient within a round. The peer runs in the fastest of its stock modes, found first.
The share is what a step makes of the machine: the step's matrix products in GFLOP/s over those of a single large
product, the faster of the two ways to compute it, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F


class Shape(NamedTuple):
    label: str
    side: int  # pixels
    patch: int
    batch: int
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int

    @property
    def tokens(self) -> int:
        return (self.side // self.patch) ** 2

    @property
    def flops(self) -> float:
        """Floating-point operations of the matrix products of one step: backward counts twice. The decoder's last
        block is counted in full, as the peer computes it."""

        def blocks(depth: int, width: int, tokens: int) -> float:
            return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)

        pixels, visible = 3 * self.patch**2, self.tokens // 4
        forward = 2 * visible * pixels * self.width + blocks(self.depth, self.width, visible + 1)
        forward += 2 * (visible + 1) * self.width * self.decoder_width
        forward += blocks(self.decoder_depth, self.decoder_width, self.tokens + 1)
        forward += 2 * self.tokens * self.decoder_width * pixels
        return 3 * self.batch * forward


SHAPES = {
    "tiny": Shape("ViT-Ti/4, 32 px, batch 64, decoder 4 x 192", 32, 4, 64, 192, 12, 3, 192, 4, 3),
    "small": Shape("ViT-S/16, 224 px, batch 16, decoder 8 x 512", 224, 16, 16, 384, 12, 6, 512, 8, 16),
}
PEER_MODES = ("stock", "fused", "compiled")  # AdamW as it comes; fused AdamW; torch.compile and fused AdamW
Arm = Callable[[], float]  # one training step -> seconds


def anymask_model(shape: Shape, changes: dict[str, Any] | None = None, slug: str = "mae") -> torch.nn.Module:
    from anymask.data.schema import Field, Schema
    from anymask.recipe import Size, find

    size = (3, shape.side, shape.side)
    field = Field(
        name="image", kind="image", dtype="float32", shape=size, sizes=(size[1:],) * 3,
        low=-3.0, high=3.0, mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    schema = Schema(fields={"image": field}, count=None, labels=None, source="noise", fingerprint="noise")
    recipe = find(slug).but({"tokenizer.patch": shape.patch, **(changes or {})})
    return recipe.build(schema, Size(*shape[4:]))


def peer_model(shape: Shape) -> torch.nn.Module:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=shape.width,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            image_size=shape.side,
            patch_size=shape.patch,
            decoder_hidden_size=shape.decoder_width,
            decoder_num_hidden_layers=shape.decoder_depth,
            decoder_num_attention_heads=shape.decoder_heads,
            decoder_intermediate_size=4 * shape.decoder_width,
            mask_ratio=0.75,
            norm_pix_loss=True,
        )
    )


def make_arm(name: str, shape: Shape) -> Arm:
    """`name` is who-precision or who-precision-mode: 'anymask-bf16', 'peer-fp32-fused'."""
    who, precision, mode = (*name.split("-"), "fused")[:3]
    torch.manual_seed(0)
    images = torch.randn(shape.batch, 3, shape.side, shape.side)
    model = (anymask_model if who == "anymask" else peer_model)(shape).train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=None if mode == "stock" else True
    )
    run: Callable = torch.compile(model) if mode == "compiled" else model
    first = 0

    def forward() -> torch.Tensor:
        nonlocal first
        if who != "anymask":
            return run(images).loss
        from anymask import keyed

        first += shape.batch
        return run({"image": images, "key": keyed.keys(0, 0, torch.arange(first, first + shape.batch))}).loss

    def step() -> float:
        begin = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = forward()
        loss.backward()
        optimiser.step()
        value = loss.item()
        if value != value:
            raise ArithmeticError(f"{name}: the loss is not a number")
        return time.perf_counter() - begin

    return step


def interleave(arms: dict[str, Arm], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    for arm in arms.values():
        for _ in range(warm_up):
            arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            times[name].append(arm())
    return times


PRODUCT = 2048  # rows and columns of the square matrix product that stands for what the machine can do


def product_arms(precision: str) -> dict[str, Arm]:
    """A matrix product as torch multiplies, and as a 1x1 convolution."""
    n, dtype = PRODUCT, torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
    image = a.view(1, 1, n, n).permute(0, 3, 1, 2)

    def arm(way: Callable[[], torch.Tensor]) -> float:
        begin = time.perf_counter()
        way()
        return time.perf_counter() - begin

    return {
        f"matmul-{precision}": partial(arm, partial(torch.matmul, a, b)),
        f"convolution-{precision}": partial(arm, partial(F.conv2d, image, b[:, :, None, None])),
    }


def peak_memory(arm: str, shape: str, threads: int) -> float:
    """MiB that three steps add to the peak of a process of their own, after its imports."""
    command = [sys.executable, __file__, "--memory-of", arm, "--shapes", shape, "--threads", str(threads)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(out.strip().splitlines()[-1])


def _memory_of(arm: str, shape: Shape) -> float:
    from transformers import ViTMAEForPreTraining  # noqa: F401

    import anymask.recipe  # noqa: F401

    before = _peak()
    step = make_arm(arm, shape)
    for _ in range(3):
        step()
    return _peak() - before


def _peak() -> float:
    """MiB. On Linux ru_maxrss would begin with the peak of the process that started this one."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    quotients = sorted(a / b for a, b in zip(slow, fast))
    low, _, high = statistics.quantiles(quotients, n=4)
    return {"median": statistics.median(quotients), "quartile1": low, "quartile3": high}


def measure(key: str, precisions: list[str], rounds: int, threads: int, modes: list[str]) -> dict:
    shape = SHAPES[key]
    tried: dict[str, dict[str, float]] = {}
    best: dict[str, str] = {}
    for p in precisions:
        times = interleave({mode: make_arm(f"peer-{p}-{mode}", shape) for mode in modes}, max(3, rounds // 3))
        tried[p] = {mode: shape.batch / statistics.median(t) for mode, t in times.items()}
        best[p] = f"peer-{p}-{max(tried[p], key=tried[p].__getitem__)}"
    names = [n for p in precisions for n in (best[p], f"anymask-{p}")]
    products = {name: arm for p in precisions for name, arm in product_arms(p).items()}
    times = interleave({name: make_arm(name, shape) for name in names} | products, rounds)
    speeds = {name: 2e-9 * PRODUCT**3 / statistics.median(times[name]) for name in products}
    rows = {}
    for name in names:
        median = statistics.median(times[name])
        rows[name] = {
            "samples_per_s": shape.batch / median,
            "gflops": 1e-9 * shape.flops / median,
            "share": 1e-9 * shape.flops / median / max(v for k, v in speeds.items() if name.split("-")[1] in k),
            "peak_mib": peak_memory(name, key, threads),
        }
    pairs = [(best[p], f"anymask-{p}") for p in precisions]
    if {"fp32", "bf16"} <= set(precisions):
        pairs.append((best["fp32"], "anymask-bf16"))
    ratios = {f"{fast} / {slow}": ratio(times[slow], times[fast]) for slow, fast in pairs}
    return {"shape": shape.label, "peer_modes": tried, "product_gflops": speeds, "arms": rows, "ratios": ratios}


def environment(threads: int) -> dict[str, str | int]:
    import transformers

    try:
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":")[1].strip()
    except (OSError, IndexError):
        cpu = platform.processor()
    return {
        "cpu": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def show(result: dict) -> None:
    print(", ".join(f"{k} {v}" for k, v in result["environment"].items()))
    for shape in result["shapes"]:
        print(f"\n{shape['shape']}")
        for p, modes in shape["peer_modes"].items():
            print(f"  peer's modes in {p}, samples/s: " + ", ".join(f"{m} {v:.1f}" for m, v in modes.items()))
        speeds = ", ".join(f"{way} {v:.0f}" for way, v in shape["product_gflops"].items())
        print(f"  {PRODUCT}^3 product, GFLOP/s: {speeds}")
        print(f"  {'arm':22}{'samples/s':>10}{'GFLOP/s':>9}{'share':>7}{'peak MiB':>10}")
        for name, row in shape["arms"].items():
            numbers = f"{row['samples_per_s']:>10.1f}{row['gflops']:>9.0f}{row['share']:>7.0%}{row['peak_mib']:>10.0f}"
            print(f"  {name:22}{numbers}")
        for pair, r in shape["ratios"].items():
            print(f"  {pair}: {r['median']:.2f} x (quartiles {r['quartile1']:.2f} to {r['quartile3']:.2f})")


def profile(key: str, precision: str) -> None:
    """Self time by operation of three steps, the largest twelve."""
    step = make_arm(f"anymask-{precision}", SHAPES[key])
    step(), step()
    with torch.profiler.profile() as trace:
        for _ in range(3):
            step()
    rows = sorted(trace.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"\n{SHAPES[key].label}, {precision}: {total / 3000:.0f} ms a step")
    for row in rows[:12]:
        print(f"  {row.self_cpu_time_total / total:6.1%}  {row.key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--profile", action="store_true", help="where one step of anymask goes, in place of the race")
    parser.add_argument("--steps", type=int, default=15, help="rounds; each runs one step of every arm")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peer-modes", nargs="+", choices=PEER_MODES, default=list(PEER_MODES))
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.profile:
        torch.set_num_threads(args.threads)
        for key in args.shapes:
            for precision in args.precision:
                profile(key, precision)
        return
    if args.steps < 3:
        parser.error("--steps: at least 3 rounds, for medians and quartiles")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(_memory_of(args.memory_of, SHAPES[args.shapes[0]]))
        return
    shapes = [measure(k, args.precision, args.steps, args.threads, args.peer_modes) for k in args.shapes]
    result = {"environment": environment(args.threads), "shapes": shapes}
    print(json.dumps(result, indent=1)) if args.json else show(result)


if __name__ == "__main__":
    main()
