"""Tiny runs for the tests of training."""

import signal
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import Logger

from anymask.recipe import Size
from anymask.train import pretrain

SIZE = Size(32, 2, 2, 32, 1, 2)
OWN = Path(__file__).with_name("train_recipes.py")
AVERAGED, POISONED, BROKEN, STAGED = (f"{OWN}:{name}" for name in ("averaged", "poisoned", "broken", "staged"))
QUIET = dict(progress=False, probe_labels=None, workers=0)


def images(n=40, side=8, channels=1, seed=0):
    """Smooth random images: there is something to learn."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((n, channels, side // 4, side // 4))
    fine = coarse.repeat(4, 2).repeat(4, 3) + 0.1 * rng.random((n, channels, side, side))
    return (fine / 1.1 * 255).astype(np.uint8)


def run(out, data=None, **options):
    data = images() if data is None else data
    return pretrain(data, **{**QUIET, "size": SIZE, "batch_size": 8, "steps": 6, "out": out, **options})


class At(Logger):
    """Raises a signal when a step's row is written."""

    name, version = "at", 0

    def __init__(self, step, number=signal.SIGINT):
        super().__init__()
        self.step, self.number = step, number

    def log_metrics(self, metrics, step=None):
        if step == self.step:
            signal.raise_signal(self.number)

    def log_hyperparams(self, params):
        pass
