"""The arms of a claim: trained, measured, and kept by what went into them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anymask.claims.claim import Claim
from anymask.claims.errors import ClaimError
from anymask.claims.evidence import pack
from anymask.data import Schema, Source, infer_schema, open_source
from anymask.recipe import USER_MODULE, Recipe
from anymask.run import Run, write_atomically

REPOSITORY = Path(__file__).resolve().parents[3]  # of a source checkout
PRECISION = "bf16"  # on every machine, so that arms differ in nothing else
PILOTED = 5_000  # samples that a pilot is measured on
SUBSET_SEED = 0  # the training part is the same for all seeds, arms and claims


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm and what it may spend."""

    recipe: Recipe
    size: str
    epochs: int
    samples: int
    batch_size: int

    @property
    def seen(self) -> int:
        """Samples seen in training, in earlier stages as well; the last batch of an epoch goes on into the next."""
        return self.epochs * self.samples * (1 + len(self.recipe.stages.get("stages", ())))

    def budget(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "epochs": self.epochs,
            "samples": self.samples,
            "batch size": self.batch_size,
            "samples seen": self.seen,
            "precision": PRECISION,
        }

    def fingerprint(self, data: str, seed: int) -> str:
        """sha256 over all that decides what training gives: the resolved recipe without its texts, the code of its
        parts, the data, the budget, the seed, and torch's version."""
        recipe = _without_texts(self.recipe.to_json())
        code = {module: _code(module) for module in sorted(_modules(recipe))}
        parts = [recipe, code, data, self.budget(), seed, torch.__version__]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass
class Bench:
    """The data of a claim, and what both arms are measured with."""

    claim: Claim
    train: Source
    test: Source
    schema: Schema
    epochs: int
    cache: Path

    def arm(self, recipe: Recipe) -> Arm:
        return Arm(
            recipe=recipe,
            size=self.claim.size,
            epochs=self.epochs,
            samples=len(self.train),
            batch_size=min(self.claim.batch_size, len(self.train)),
        )

    def about(self) -> dict[str, Any]:
        return {
            "name": self.claim.on,
            **({"opened with": dict(self.claim.opening)} if self.claim.opening else {}),
            "training samples": len(self.train),
            "test samples": len(self.test),
            "training fingerprint": self.train.fingerprint(),
            "test fingerprint": self.test.fingerprint(),
        }

    def run(self, arm: Arm, seed: int, title: str, progress: bool) -> dict[str, Any]:
        """Figures of one arm and seed, from the cache if they are there: mean score, the scores (see `evidence.pack`),
        seconds of training and of measuring."""
        from anymask.train.progress import Progress

        say = Progress(show=progress).say
        figures = self._figures(arm, seed)
        if figures.is_file():
            say(f"{title}: from the cache")
            return json.loads(figures.read_text())
        run, seconds = self._trained(arm, seed)
        begun = time.monotonic()
        scores = self._measure(run, trained=True)
        found = {
            "seed": seed,
            "score": float(scores.mean()),
            "training seconds": seconds,
            "measuring seconds": round(time.monotonic() - begun, 1),
            "scores": pack(scores),
            "fingerprint": figures.parent.name,
        }
        write_atomically(figures, json.dumps(found).encode())
        say(f"{title}: {found['score']:.4g} {self.claim.metric.unit}, trained in {seconds:.0f} s")
        return found

    def done(self, arm: Arm, seed: int) -> bool:
        """Whether the figures of this arm and seed are in the cache."""
        return self._figures(arm, seed).is_file()

    def untrained(self, arm: Arm, seed: int) -> float:
        """Mean score of the weights that the run of this arm and seed begins with."""
        figures = self._figures(arm, seed, "untrained")
        if not figures.is_file():
            score = float(self._measure(self._trained(arm, seed)[0], trained=False).mean())
            write_atomically(figures, json.dumps({"score": score}).encode())
        return json.loads(figures.read_text())["score"]

    def context(self) -> dict[str, float]:
        """Mean scores of what needs no training."""
        return self.claim.metric.context(self.train, self.test, self.schema)

    def _figures(self, arm: Arm, seed: int, name: str = "trained") -> Path:
        """The file with what was measured: its name is of what figures depend on beside the trained arm."""
        metric = self.claim.metric
        modules = ("anymask.claims.metrics", type(metric).__module__, "anymask.evaluation.features", *metric.code)
        code = [_code(module) for module in dict.fromkeys(modules)]
        mark = hashlib.sha256(f"{metric.words()} {self.test.fingerprint()} {code}".encode()).hexdigest()
        return self._place(arm, seed) / f"{name}-{mark[:16]}.json"

    def _place(self, arm: Arm, seed: int) -> Path:
        return self.cache / arm.fingerprint(self.train.fingerprint(), seed)

    def _trained(self, arm: Arm, seed: int) -> tuple[Run, float]:
        """The trained run, and the seconds it took (of the last call, where it was interrupted)."""
        from anymask.train import pretrain

        place = self._place(arm, seed)
        done, folder = place / "trained.json", place / "run"
        if done.is_file():
            return Run.open(folder), json.loads(done.read_text())["seconds"]
        begun = time.monotonic()
        run = pretrain(
            self.train,
            recipe=arm.recipe,
            size=arm.size,
            epochs=arm.epochs,
            batch_size=arm.batch_size,
            precision=PRECISION,
            seed=seed,
            probe_labels=None,
            out=folder,
            progress=False,
            resume=(folder / "state.safetensors").is_file(),
            overwrite=folder.is_dir(),
        )
        seconds = round(time.monotonic() - begun, 1)
        seen = run.settings["steps"] * run.settings["batch_size"] * run.settings["accumulate"]
        own = arm.epochs * arm.samples
        if abs(seen - own) >= run.settings["batch_size"]:
            raise ClaimError(f"{arm.recipe.slug} was to see {own:,} samples and saw {seen:,}; arms need equal budgets")
        (folder / "state.safetensors").unlink(missing_ok=True)  # two thirds of the folder, and not needed any more
        write_atomically(done, json.dumps({"seconds": seconds}).encode())
        return run, seconds

    def _measure(self, run: Run, *, trained: bool) -> np.ndarray:
        return self.claim.metric.scores(run, self.train, self.test, trained=trained, precision=PRECISION)


def open_bench(claim: Claim, data: str | Path | None, scale: float, *, pilot: bool = False) -> Bench:
    """The data of a claim at a scale. With `pilot` the test part is of training samples that are not trained on, as
    many as `PILOTED` at most.

    Raises:
        ClaimError: the data set is not there, or lacks what the metric needs.
    """
    whole = open_source("digits" if claim.on == "digits" else _folder(claim.on, data), **claim.opening)
    if scale <= 0:
        raise ClaimError(f"--scale {scale} must be positive, as 0.5 or 4")
    samples = max(1, min(len(whole), round(scale * claim.samples)))
    epochs = max(1, round(scale * claim.samples * claim.epochs / samples))
    order = np.random.default_rng(SUBSET_SEED).permutation(len(whole))
    chosen = np.sort(order[:samples])
    if pilot:
        rest = np.sort(order[samples:][:PILOTED])
        if "test" not in whole.splits or len(rest) < 2:
            raise ClaimError(
                f"{whole.name} leaves nothing for a pilot: it needs a test split, which is not looked at, and training "
                f"samples beside the {samples:,} that are trained on (--scale)"
            )
        held = whole.subset(rest)
        whole = whole.subset(np.arange(len(whole))).with_splits("train", {"test": lambda: held})
    train, test = claim.metric.parts(whole, chosen)
    cache = Path(os.environ.get("ANYMASK_CACHE") or "~/.cache/anymask/claims").expanduser()
    return Bench(claim, train, test, infer_schema(train), epochs, cache)


def _folder(name: str, data: str | Path | None) -> Path:
    given = data or os.environ.get("ANYMASK_DATA")
    if not given:
        raise ClaimError(
            f"the claim is on {name}, and it is not said where data sets are: give the folder that holds {name}/ "
            "as --data FOLDER (data=) or in the environment variable ANYMASK_DATA"
        )
    folder = Path(given).expanduser() / name
    if not folder.exists():
        raise ClaimError(
            f"there is no {folder}; --data (data=) or ANYMASK_DATA has to name the folder that holds {name}/"
        )
    return folder


def machine() -> dict[str, Any]:
    """Device, versions and the commit of the code, if it is run from a git checkout."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = {name: importlib.metadata.version(name) for name in ("anymask", "torch", "lightning", "numpy")}
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit, with "+" where files differ from it; None outside a checkout."""
    git = shutil.which("git")
    here = REPOSITORY
    if git is None or not (here / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(
            [git, "-C", str(here), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    commit = ask("rev-parse", "HEAD")
    return (commit + "+" * bool(ask("status", "--porcelain", "--", "src"))) or None


def _without_texts(recipe: dict[str, Any]) -> Any:
    """A recipe's JSON without what does not change the model: its texts and name, and the texts of earlier stages."""
    return _strip({"stages": recipe["stages"]})


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        texts = {"doc", "name", "paper", "family", "parent"} if {"stages", "doc", "slug"} <= value.keys() else set()
        return {k: _strip(v) for k, v in value.items() if k not in texts}
    return [_strip(v) for v in value] if isinstance(value, list) else value


def _modules(value: Any) -> Iterator[str]:
    """Modules whose code decides what a recipe's training gives."""
    yield from ("anymask.engine", "anymask.keyed", "anymask.parts.layers", "anymask.parts.linear")
    yield from ("anymask.train.optim", "anymask.train.module")
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("part", "object") and isinstance(item, str):
                yield item.partition(":")[0]
            else:
                yield from _modules(item)
    elif isinstance(value, list):
        for item in value:
            yield from _modules(item)


def _code(module: str) -> str:
    """sha256 of a module's file."""
    loaded = sys.modules.get(module)
    found = importlib.util.find_spec(module) if loaded is None and not module.startswith(USER_MODULE) else None
    file = getattr(loaded, "__file__", None) or (found.origin if found else None)
    if file is None:
        raise ClaimError(f"the code of {module} is in no file; put the recipe's parts into a .py file")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()
