"""What a step costs where a method promises to save: step time against the visible share, and several masks for one
pass of a teacher.

    python benchmarks/cost.py [--steps 15] [--threads N] [--json]

Whole training steps (forward, backward, AdamW) of `mae` on noise, fp32, ViT-Ti/4 on 32 pixels, batch 64, at several
mask ratios; the arms take turns step by step. An encoder that drops what is hidden should cost in proportion to the
share that it sees, above a part that does not depend on it: tokenizer, decoder, optimiser. The line goes through the
smallest and the largest share; each share between is judged by how far its time above the fixed part is from the line.

Then `data2vec-2` at the same size: one step with several masks of each sample against as many steps with one mask, each
of which has a pass of the teacher of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from throughput import SHAPES, anymask_model, environment, interleave

SHARES = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
SHAPE = SHAPES["tiny"]


def arm_of(share: float):
    """A training step of mae that sees `share` of the tokens; 1 leaves one token to hide."""
    changes = {"mask.ratio": max(1.0 - share, 1.0 / SHAPE.tokens), "mask.fewest": 1}
    return step_of(anymask_model(SHAPE, changes))


def step_of(model: torch.nn.Module, batch_size: int = SHAPE.batch, times: int = 1):
    """So many training steps of a model, in seconds all together."""
    from anymask import keyed

    torch.manual_seed(0)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batch = {
        "image": torch.randn(batch_size, 3, SHAPE.side, SHAPE.side),
        "key": keyed.keys(0, 0, torch.arange(batch_size)),
    }

    def step() -> float:
        begin = time.perf_counter()
        for _ in range(times):
            optimiser.zero_grad(set_to_none=True)
            model(batch).loss.backward()
            optimiser.step()
        return time.perf_counter() - begin

    return step


def against_share(rounds: int) -> list[dict[str, float]]:
    """For each share: seconds, what the line says, and the deviation in shares of the time above the fixed part."""
    times = interleave({str(share): arm_of(share) for share in SHARES}, rounds)
    median = {share: statistics.median(times[str(share)]) for share in SHARES}
    first, last = SHARES[0], SHARES[-1]
    slope = (median[last] - median[first]) / (last - first)
    fixed = median[first] - slope * first
    return [
        {"share": s, "ms": 1e3 * median[s], "fixed ms": 1e3 * fixed, "off": (median[s] - fixed) / (slope * s) - 1.0}
        for s in SHARES
    ]


MASKS = (2, 4, 8)
SAMPLES = 16  # of a batch of data2vec-2


def against_passes(rounds: int) -> list[dict[str, float]]:
    """For each number of masks: seconds of one step with all of them, and of as many steps with one each."""
    rows = []
    for masks in MASKS:
        together = anymask_model(SHAPE, {"mask.masks": masks}, "data2vec-2")
        apart = anymask_model(SHAPE, {"mask.masks": 1}, "data2vec-2")
        arms = {"together": step_of(together, SAMPLES), "apart": step_of(apart, SAMPLES, masks)}
        times = interleave(arms, rounds)
        ratio = statistics.median(a / b for a, b in zip(times["apart"], times["together"]))
        rows.append({"masks": masks, **{k: 1e3 * statistics.median(v) for k, v in times.items()}, "ratio": ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="rounds; each runs one step of every arm")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = {
        "environment": environment(args.threads),
        "visible share": against_share(args.steps),
        "masks": against_passes(args.steps),
    }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(", ".join(f"{k} {v}" for k, v in result["environment"].items()))
    print(f"mae, {SHAPE.label}, fp32; fixed part {result['visible share'][0]['fixed ms']:.0f} ms a step")
    for row in result["visible share"]:
        print(f"  sees {row['share']:4.0%}: {row['ms']:6.0f} ms, {row['off']:+.0%} from proportional above it")
    print(f"data2vec-2, {SHAPE.label}, {SAMPLES} samples, fp32")
    for row in result["masks"]:
        print(
            f"  {row['masks']} masks: {row['together']:6.0f} ms with one pass of the teacher, {row['apart']:6.0f} ms "
            f"with {row['masks']} passes: {row['ratio']:.2f} x"
        )


if __name__ == "__main__":
    main()
