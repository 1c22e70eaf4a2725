"""Digits with one digit held out as anomaly, each in turn: mean AUROC over the ten.

    OMP_NUM_THREADS=1 python benchmarks/anomaly.py --out runs/anomaly.jsonl --page docs/anomaly.md

For each digit, `mae` is trained on the other nine digits of the training part, and every sample of the test part is
scored. Settings of each score are chosen beforehand on a validation part, a quarter of the training images, with models
that were trained on the other three quarters; they are those with the best mean over the ten digits. Every figure is a
line of --out: an interrupted run goes on, and lines that are there are not computed again.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = range(10)
RAW, UNTRAINED, TRAINED = "raw input", "untrained encoder", "pre-trained encoder"
KS, POOLS = (1, 5, 20), ("mean", "tokens")
OF_FEATURES: dict[str, list[dict[str, Any]]] = {
    "reconstruction": [{"ratio": ratio, "masks": masks} for ratio in (0.25, 0.5, 0.75) for masks in (4, 16)],
    "Mahalanobis": [{"pool": pool} for pool in POOLS],
    "nearest neighbours": [{"pool": pool, "k": k} for pool in POOLS for k in KS],
}
GRID: dict[tuple[str, str], list[dict[str, Any]]] = {
    (RAW, "isolation forest"): [{}],
    (RAW, "PCA reconstruction"): [{"components": share} for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)],
    (RAW, "one-class SVM"): [{}],
    (RAW, "Mahalanobis"): [{}],
    (RAW, "nearest neighbours"): [{"k": k} for k in KS],
    **{(row, score): grid for row in (UNTRAINED, TRAINED) for score, grid in OF_FEATURES.items()},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/anomaly.jsonl"))
    parser.add_argument("--page", type=Path, help="Markdown file to write.")
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    from anymask.data import open_source, split_source

    asked.out.parent.mkdir(parents=True, exist_ok=True)
    train = open_source("digits")
    inner, validation = split_source(train, fraction=0.25, seed=0)
    for digit in DIGITS:
        measure(asked, ("validation", digit, 0), inner, validation, GRID)
    chosen = choose(lines(asked.out, asked.epochs))
    for seed in range(asked.seeds):
        for digit in DIGITS:
            measure(asked, ("test", digit, seed), train, train.split("test"), chosen)
    text = page(asked, chosen, lines(asked.out, asked.epochs))
    print(text)
    if asked.page:
        asked.page.write_text(text)


def lines(path: Path, epochs: float) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [line for line in found if line["epochs"] == epochs]


def measure(asked: argparse.Namespace, what: tuple[str, int, int], train: Any, test: Any, grid: Any) -> None:
    """Trains on all but one digit and appends the AUROC of every score and setting."""
    import torch

    import anymask
    from anymask.evaluation.outliers import auroc

    part, digit, seed = what
    if any((line["part"], line["digit"], line["seed"]) == what for line in lines(asked.out, asked.epochs)):
        return
    normal = train.subset(np.flatnonzero(train.labels != digit))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        options: dict[str, Any] = dict(probe_labels=None, progress=False)
        run = anymask.pretrain(normal, size="nano", epochs=asked.epochs, seed=seed, out=f"{folder}/run", **options)
        trained = time.perf_counter()
        figures = [
            [*key, settings, auroc(scores, test.labels == digit).mean]
            for key, settings, scores in scored(run, normal, test, grid, seed)
        ]
    line = dict(part=part, digit=digit, seed=seed, epochs=asked.epochs, figures=figures)
    line |= dict(training_seconds=round(trained - begun, 1), scoring_seconds=round(time.perf_counter() - trained, 1))
    line |= dict(threads=torch.get_num_threads(), device=device(), versions=versions())
    with asked.out.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(part, digit, seed, f"{line['training_seconds']} s", flush=True)


def scored(run: Any, normal: Any, test: Any, grid: Any, seed: int) -> Iterator[tuple[Any, Any, np.ndarray]]:
    """(features and score, settings, scores) for all settings of a grid."""
    from anymask.evaluation import embed, outliers
    from anymask.evaluation.inputs import raw_input
    from anymask.evaluation.tasks.anomaly import reconstruction

    kept: dict[Any, Any] = {}

    def parts(row: str, pool: str) -> Any:
        if (row, pool) not in kept:
            how = dict(pool=pool, trained=row == TRAINED, precision=run.settings["precision"])
            both = [raw_input(p, run.schema) if row == RAW else embed(run, p, **how) for p in (normal, test)]
            kept[row, pool] = [np.asarray(x).reshape(len(x), -1) for x in both]
        return kept[row, pool]

    for (row, score), settings in grid.items():
        for given in settings:
            if score == "reconstruction":
                yield (row, score), given, reconstruction(run, test, trained=row == TRAINED, seed=seed, **given)
                continue
            options = {name: value for name, value in given.items() if name != "pool"}
            if score == "isolation forest":
                options["seed"] = seed
            measure_by = {
                "isolation forest": outliers.isolation_forest,
                "PCA reconstruction": outliers.pca_error,
                "one-class SVM": outliers.one_class_svm,
                "Mahalanobis": outliers.mahalanobis,
                "nearest neighbours": outliers.neighbours,
            }[score]
            yield (row, score), given, measure_by(*parts(row, given.get("pool", "mean")), **options)


def choose(found: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The settings with the best mean over the digits of the validation part."""
    best = {}
    for key, settings in GRID.items():
        means = [np.mean([a for _, a in figures(found, "validation", key, given)]) for given in settings]
        best[key] = [settings[int(np.argmax(means))]]
    return best


def figures(found: list[dict[str, Any]], part: str, key: Any, given: Any) -> list[tuple[int, float]]:
    """(seed, AUROC) of each digit and seed."""
    return [
        (line["seed"], area)
        for line in found if line["part"] == part
        for row, score, settings, area in line["figures"] if (row, score) == key and settings == given
    ]  # fmt: skip


def page(asked: argparse.Namespace, chosen: Any, found: list[dict[str, Any]]) -> str:
    """The table as Markdown, with all that is needed to make it again."""
    test = [line for line in found if line["part"] == "test" and line["seed"] < asked.seeds]
    rows = []
    for key, (given,) in chosen.items():
        values = figures(test, "test", key, given)
        by_seed = [np.mean([a for s, a in values if s == seed]) for seed in range(asked.seeds)]
        by_digit = [
            np.mean([a for line in test if line["digit"] == d for _, a in figures([line], "test", key, given)])
            for d in DIGITS
        ]
        spread = f"{np.std(by_seed, ddof=1):.1f}" if len(by_seed) > 1 else ""
        words = ", ".join(f"{name} {value:g}" if name != "pool" else f"pool {value}" for name, value in given.items())
        lowest = int(np.argmin(by_digit))
        validated = np.mean([a for _, a in figures(found, "validation", key, given)])
        rows.append((float(np.mean(by_seed)), f"| {key[0]} | {key[1]} | {words} | {validated:.1f} | "
                     f"{np.mean(by_seed):.1f} | {spread} | {by_digit[lowest]:.1f} ({lowest}) |"))  # fmt: skip
    seconds = [line["training_seconds"] for line in found]
    about = test[0]
    noise = (
        f"The spread is the standard deviation of the mean over {asked.seeds} seeds (of training, masks and trees); "
        "scores without randomness have none."
        if asked.seeds > 1
        else "One seed (of training, masks and trees), so there is no spread."
    )
    head = [
        "# Anomaly detection on digits: one digit held out, each in turn",
        "",
        f"Mean AUROC in % over the ten digits. For each digit `mae` (nano, {asked.epochs:g} epochs) is trained on the "
        "other nine digits of the training part; all 500 samples of the test part are scored, those of the digit held "
        "out are the anomalies. Settings are those with the best mean on a validation part, a quarter of the training "
        "images, with models of their own; the test part is read once, with these. "
        f"{noise} The lowest digit is the one that is told worst.",
        "",
        "| features | score | settings | validation | test | spread | lowest digit |",
        "|---|---|---|---|---|---|---|",
        *(text for _, text in sorted(rows, key=lambda row: -row[0])),
        "",
        "```",
        f"OMP_NUM_THREADS=1 python benchmarks/anomaly.py --out {asked.out} --page {asked.page} "
        f"--epochs {asked.epochs:g} --seeds {asked.seeds}",
        "```",
        "",
        *against(chosen, test),
        "",
        f"Device: {about['device']}, {about['threads']} thread, shared with other work. "
        f"{', '.join(f'{name} {number}' for name, number in about['versions'].items())}. Training one model took "
        f"{np.median(seconds):.0f} s (median of {len(seconds)}, {min(seconds):.0f} to {max(seconds):.0f}), all of it "
        f"{(sum(seconds) + sum(line['scoring_seconds'] for line in found)) / 60:.0f} minutes.",
        "",
    ]
    return "\n".join(head)


def against(chosen: Any, test: list[dict[str, Any]]) -> list[str]:
    """The scores of the pre-trained model minus the two classical ones, paired by digit and seed."""
    found = []
    of = lambda key: np.array([a for _, a in figures(test, "test", key, chosen[key][0])])
    for score in OF_FEATURES:
        gaps = {other: of((TRAINED, score)) - of((RAW, other)) for other in ("isolation forest", "PCA reconstruction")}
        words = [f"{gap.mean():+.1f} against {other} (higher in {int((gap > 0).sum())} of {len(gap)})"
                 for other, gap in gaps.items()]  # fmt: skip
        found.append(f"* pre-trained, {score}: {', '.join(words)}")
    return ["Mean difference in AUROC, paired by digit and seed:", "", *found]


def device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in cpu.read_text().splitlines() if line.startswith("model name")] \
        if cpu.is_file() else []  # fmt: skip
    return f"CPU {names[0] if names else platform.processor()}"


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: version(name) for name in ("anymask", "torch", "scikit-learn", "numpy")
    }


if __name__ == "__main__":
    main()
