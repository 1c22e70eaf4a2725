"""GraphMAE on its own data sets, and its three mechanisms on against off.

    OMP_NUM_THREADS=1 python benchmarks/graphs.py --data data --out runs/graphs.jsonl --page docs/graph_results.md

Settings are those of the paper's code for each set, none is searched for here. Every line of --out is one trained
model: an interrupted call goes on, lines that are there are not computed again, and --seeds with a higher number adds
to them. --only names some of the sets, or "grid".
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROWS = (("raw input", None), ("untrained encoder", False), ("pre-trained encoder", True))


class Job(NamedTuple):
    """A training: data, recipe with its changes, (width, depth, heads), epochs, batch; the pooling of graphs, None
    where nodes have the labels; the published accuracy."""

    data: str
    recipe: str
    changes: dict[str, Any]
    size: tuple[int, int, int]
    epochs: int
    batch: int
    pool: str | None = None
    published: float | None = None


NODES: dict[str, Any] = {"encoder.heads": 2, "corruption.rate": 0.1, "loss.power": 1.0, "optimiser.weight_decay": 2e-5}
SMALL: dict[str, Any] = {"mask.ratio": 0.75, "corruption.rate": 0.1, "loss.power": 2.0, "optimiser.lr": 5e-4}
SETS = {
    "Cora": Job("planetoid/Cora", "graphmae", {}, (512, 2, 4), 1500, 1, None, 84.2),
    "Citeseer": Job("planetoid/Citeseer", "graphmae", NODES, (512, 2, 2), 300, 1, None, 73.4),
    "MUTAG": Job("tu/MUTAG", "graphmae-gin", SMALL, (32, 5, 1), 20, 64, "sum", 88.2),
    "PROTEINS": Job("tu/PROTEINS_full", "graphmae-gin", {}, (512, 3, 1), 100, 32, "max", 75.3),
}
GRID_SIZE, GRID_EPOCHS = (96, 2, 4), 150


def cells() -> dict[str, Job]:
    """The eight combinations but for those that cannot learn: an MLP sees nothing of a node that is masked again."""
    from anymask.parts.graph_layers import GatLayer, MlpLayer
    from anymask.parts.losses import mse, scaled_cosine
    from anymask.recipe import P

    made = {}
    for remask, layer, loss in itertools.product((True, False), (GatLayer, MlpLayer), ("scaled cosine", "squared")):
        if remask and layer is MlpLayer:
            continue
        changes = {"decoder.remask": remask, "decoder.layer": layer}
        changes["loss"] = P(scaled_cosine, power=3.0) if loss == "scaled cosine" else mse
        name = f"grid: {'masked again' if remask else 'not again'} | {layer.__name__[:3].upper()} | {loss}"
        made[name] = Job("planetoid/Cora", "graphmae", changes, GRID_SIZE, GRID_EPOCHS, 1)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="Folder with planetoid/ and tu/.")
    parser.add_argument("--out", type=Path, default=Path("runs/graphs.jsonl"))
    parser.add_argument("--page", type=Path, help="Markdown file to write.")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", help=f"Of {', '.join(SETS)}, grid; by default all.")
    parser.add_argument("--minutes", type=float, help="Begin no further training after so many.")
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    end = None if asked.minutes is None else time.monotonic() + 60 * asked.minutes
    jobs = {**SETS, **cells()}
    for seed in range(asked.seeds):
        for name, job in jobs.items():
            wanted = not asked.only or name.partition(":")[0] in asked.only
            if wanted and (end is None or time.monotonic() < end):
                measure(asked, name, job, seed)
    text = page(asked, lines(asked.out))
    print(text)
    if asked.page:
        asked.page.write_text(text)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def measure(asked: argparse.Namespace, name: str, job: Job, seed: int) -> None:
    """Trains one model and appends the accuracy of its features, and of the two baselines, in per cent."""
    if any((line["job"], line["seed"]) == (name, seed) for line in lines(asked.out)):
        return
    import torch

    import anymask
    from anymask.recipe import Size

    begun, cpu = time.perf_counter(), time.process_time()
    size = Size(*job.size, job.size[0], 1, 1)
    with tempfile.TemporaryDirectory() as folder:
        run = anymask.pretrain(
            asked.data / job.data, recipe=job.recipe, changes=job.changes, size=size, epochs=job.epochs,
            batch_size=job.batch, seed=seed, probe_labels=None, progress=False, out=f"{folder}/run",
        )  # fmt: skip
        trained, worked = time.perf_counter() - begun, time.process_time() - cpu
        scores = nodes(run, asked.data / job.data) if job.pool is None else graphs(run, asked.data / job.data, job.pool)
    line = dict(job=name, seed=seed, scores=scores, seconds=round(trained, 1), core_seconds=round(worked, 1))
    line |= dict(precision=run.settings["precision"], threads=torch.get_num_threads(), versions=versions())
    with asked.out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(name, seed, scores, f"{trained:.0f} s", flush=True)


def nodes(run: Any, data: Path) -> dict[str, float]:
    """A linear probe trained on the public split's training nodes, its penalty chosen on the validation nodes."""
    from anymask.data import open_source
    from anymask.evaluation.probe import linear_probe
    from anymask.evaluation.token_classes import divide, probed, token_features

    source = open_source(data)
    division = divide(run, source, None, 0)
    precision = run.settings["precision"]
    features = {row: token_features(run, source, trained=trained, precision=precision) for row, trained in ROWS}
    return {row: 100 * probed(division, x, linear_probe).accuracy for row, x in features.items()}


def graphs(run: Any, data: Path, pool: str) -> dict[str, float]:
    """A support vector machine on pooled codes, ten folds."""
    from anymask.data import open_source
    from anymask.evaluation import embed
    from anymask.evaluation.folds import svm_folds
    from anymask.evaluation.inputs import raw_input

    source, scores = open_source(data), {}
    for row, trained in ROWS:
        how: dict[str, Any] = dict(pool=pool, precision=run.settings["precision"])
        x = raw_input(source, run.schema) if trained is None else np.asarray(embed(run, source, trained=trained, **how))
        scores[row] = 100 * float(svm_folds(x, source.labels)[0].mean())
    return scores


def versions() -> dict[str, str]:
    names = ("anymask", "torch", "torch_geometric", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def told(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def page(asked: argparse.Namespace, found: list[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    of = lambda name, row: [line["scores"][row] for line in found if line["job"] == name]
    head = "| set | published | pre-trained | untrained encoder | raw input | seeds | core minutes a training |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for name, job in SETS.items():
        seconds = [line["core_seconds"] for line in found if line["job"] == name]
        figures = " | ".join(told(of(name, row)) for row, _ in reversed(ROWS))
        cost = f"{np.median(seconds) / 60:.1f}" if seconds else "-"
        rows.append(f"| {name} | {job.published} | {figures} | {len(seconds)} | {cost} |")
    grid = ["| codes of hidden nodes | decoder | error | accuracy | seeds |", "|---|---|---|---|---|"]
    for name in cells():
        values = of(name, ROWS[2][0])
        grid.append(f"| {name.removeprefix('grid: ')} | {told(values)} | {len(values)} |")
    bare = told([x for name in cells() for x in of(name, ROWS[1][0])][: len(of(next(iter(cells())), ROWS[1][0]))])
    grid.append(f"| masked again | MLP | either | {bare}: the untrained encoder, as it gets no gradient | |")
    about = found[0] if found else {"versions": {}, "threads": 1}
    return "\n".join(
        [
            "# GraphMAE: published figures, and its mechanisms on against off",
            "",
            "Accuracy in %, mean ± standard deviation over seeds of pre-training. Cora and Citeseer: public split, "
            "frozen features of nodes, a linear probe on the 20 training nodes a class whose penalty is chosen on the "
            "500 validation nodes. MUTAG and PROTEINS: frozen features pooled over nodes, a support vector machine in "
            "ten folds. Settings are those of the authors' code.",
            "",
            *rows,
            "",
            f"Cora again with a {GRID_SIZE[0]} wide encoder and {GRID_EPOCHS} epochs, everything else equal:",
            "",
            *grid,
            "",
            "```",
            f"OMP_NUM_THREADS=1 python benchmarks/graphs.py --data data --out {asked.out} --page {asked.page} "
            f"--seeds {asked.seeds}",
            "```",
            "",
            f"One CPU core, shared with other work ({about['threads']} thread). "
            + ", ".join(f"{name} {number}" for name, number in about["versions"].items())
            + ".",
            "",
        ]
    )


if __name__ == "__main__":
    main()
