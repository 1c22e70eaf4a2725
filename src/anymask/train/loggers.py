"""Lightning's loggers by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import TrainError

# name -> class in lightning.pytorch.loggers, packages of which one has to be there
LOGGERS = {
    "comet": ("CometLogger", ("comet_ml",)),
    "csv": ("CSVLogger", ()),
    "mlflow": ("MLFlowLogger", ("mlflow", "mlflow_skinny")),
    "neptune": ("NeptuneLogger", ("neptune",)),
    "tensorboard": ("TensorBoardLogger", ("tensorboard", "tensorboardX")),
    "wandb": ("WandbLogger", ("wandb",)),
}


def check_loggers(names: Iterable[Any]) -> None:
    """Raises TrainError for an unknown name, or where a logger's package is not installed. Imports nothing."""
    for name in names:
        if not isinstance(name, str):
            if not hasattr(name, "log_metrics"):
                raise TrainError(f"a logger is a name or one of Lightning's logger objects, not {type(name).__name__}")
            continue
        if name not in LOGGERS:
            raise TrainError(f"no logger {name!r}; there is: {', '.join(LOGGERS)}")
        packages = LOGGERS[name][1]
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise TrainError(f"the logger {name!r} needs a package that is not installed: pip install {packages[0]}")


def make_loggers(names: Iterable[Any], folder: Path) -> list[Any]:
    """The loggers, writing below `folder` where they write files; objects are taken as they are."""
    module = importlib.import_module("lightning.pytorch.loggers")
    made = []
    for name in names:
        if isinstance(name, str):
            places = {"save_dir": str(folder)} if name in ("csv", "mlflow", "tensorboard", "wandb") else {}
            name = getattr(module, LOGGERS[name][0])(**places)
        made.append(name)
    return made
