"""Where a run goes: a free folder with room on its disk."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from anymask.engine import Model
from anymask.run import EVALUATION, EVALUATIONS, sweep

from . import history, metrics, state
from .errors import TrainError

FILES = ("run.json", "model.safetensors", "encoder.safetensors", state.NAME, metrics.NAME, history.NAME, EVALUATION)
FOLDERS = ("pictures", "stages", EVALUATIONS)
BYTES_PER_PARAMETER = 24  # state (weights, two moments), weights, and both once more while they are replaced


def default_folder(recipe: str, source: str) -> Path:
    """runs/<recipe>-<source>-<n>, the first n that is free."""
    name = re.sub(r"[^a-z0-9]+", "-", source.removesuffix(Path(source).suffix).lower()).strip("-")[:40] or "data"
    n = 1
    while (Path("runs") / f"{recipe}-{name}-{n}").exists():
        n += 1
    return Path("runs") / f"{recipe}-{name}-{n}"


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raises TrainError where something is there that a new run would destroy."""
    if folder.exists() and not folder.is_dir():
        raise TrainError(f"{folder} is a file; name a folder with --out")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / "run.json").is_file():
        raise TrainError(f"{folder} is not empty and holds no run; name another folder with --out")
    if not overwrite:
        raise TrainError(
            f"{folder} holds a run already; go on with --resume, replace it with --overwrite, or name another --out"
        )


def clear(folder: Path) -> None:
    """Removes a run's files from its folder, and nothing else."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    if folder.is_dir():
        sweep(folder)


def check_disk(folder: Path, model: Model) -> None:
    """Raises TrainError where a saved state would not fit the disk."""
    need = sum(p.numel() for p in model.parameters()) * BYTES_PER_PARAMETER
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < need:
        raise TrainError(
            f"{there} has {free / 2**20:,.0f} MiB free, saving needs {need / 2**20:,.0f}; free some, or name a folder "
            "on another disk with --out"
        )
