"""What happens between optimiser steps: metrics, health and pictures, saving. Imports Lightning.

The order matters: `Saver` comes last, so that what it writes includes what the others have done.
"""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as lightning
from torch import Tensor

from anymask.run import Run, RunError

from . import metrics, pictures, state
from .history import History
from .module import StateFile, Training
from .progress import Progress
from .stop import StopSignal
from .watch import Watch

ROWS = 250  # of metrics.csv, about; at least one each 100 steps
CHECKS = 20  # of the health, spread over the run
PICTURES = 6  # with those of the start and the end


class AtSteps(lightning.Callback):
    """A callback that is called after each optimiser step, with the number of steps done."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % pl_module.settings["accumulate"] == 0:
            self.after(trainer, pl_module, trainer.global_step)

    def after(self, trainer: Any, module: Training, step: int) -> None:
        raise NotImplementedError


class Recorder(AtSteps):
    """Writes metrics.csv, hands rows to Lightning's loggers, and moves the progress bar."""

    def __init__(self, run: Run, progress: Progress, watch: Watch) -> None:
        self.run, self.progress, self.watch = run, progress, watch
        self.every = min(100, max(1, run.settings["steps"] // ROWS))
        self.file: metrics.Metrics | None = None
        self.saved_tally: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.saved_tally is not None:
            pl_module.tally.load_state_dict(self.saved_tally)
        self.module = pl_module
        if trainer.is_global_zero:
            self.file = metrics.Metrics(self.run.folder / metrics.NAME, step=trainer.global_step)
        self._mark(pl_module, trainer.global_step)
        self.begun = self.time

    def _mark(self, module: Training, step: int) -> None:
        assert module.micro is not None
        self.time, self.step, self.waited = time.perf_counter(), step, module.micro.waited

    def after(self, trainer: Any, module: Training, step: int) -> None:
        if step % self.every and step != module.steps:
            return
        assert module.micro is not None
        settings, means = self.run.settings, module.tally.take()
        batch = settings["batch_size"] * settings["accumulate"] * settings["devices"]
        elapsed, waited = time.perf_counter() - self.time, module.micro.waited - self.waited
        count = self.run.schema.count
        row = {
            "step": step,
            **({} if count is None else {"epoch": round(step * batch / count, 4)}),
            **means,
            "lr": module.lr,
            "grad_norm": module.grad_norm,
            "samples_per_second": round((step - self.step) * batch / elapsed, 1),
            "waiting": round(waited / elapsed, 4),
        }
        if self.file is not None:
            self.file.append(row)
            for logger in trainer.loggers:
                logger.log_metrics(row, step=step)
            self.progress.update(step, facts(row))
            for text in self.watch.waiting(module.micro.waited, time.perf_counter() - self.begun):
                self.progress.warn(text)
        self._mark(module, step)

    def state_dict(self) -> dict[str, Any]:
        return self.module.tally.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.saved_tally = state_dict


def facts(row: dict[str, float]) -> str:
    """The progress line of a row of metrics."""
    return f"loss {row['loss']:.4f}, {row['samples_per_second']:,.0f} samples/s, {row['waiting']:.0%} waiting for data"


class Observer(AtSteps):
    """Checks the health, draws pictures and keeps the history, on the first process."""

    def __init__(
        self, run: Run, watch: Watch, progress: Progress, batch: dict[str, Tensor], history: History
    ) -> None:
        self.run, self.watch, self.progress, self.batch, self.history = run, watch, progress, batch, history
        steps = run.settings["steps"]
        self.checks = {round(steps * n / CHECKS) for n in range(CHECKS + 1)}
        self.drawn = {round(steps * n / (PICTURES - 1)) for n in range(PICTURES)}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self.after(trainer, pl_module, 0)

    def after(self, trainer: Any, module: Training, step: int) -> None:
        if not trainer.is_global_zero:
            return
        batch = {name: tensor.to(module.device) for name, tensor in self.batch.items()}
        if step in self.checks:
            for text in self.watch.check(module.model, batch, step / module.steps):
                self.progress.warn(f"step {step:,}: {text}")
        if step in self.drawn and pictures.drawable(module.model):
            few = {name: tensor[: pictures.SAMPLES] for name, tensor in batch.items()}
            folder = self.run.folder / "pictures"
            pictures.save(pictures.picture(module.model, few), folder / f"step_{step:07d}.png")
        self.history.after(module.model, step)

    def state_dict(self) -> dict[str, Any]:
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.watch.load_state_dict(state_dict)


class Saver(AtSteps):
    """Writes the state and the weights every few minutes, when asked to stop, and at the end.

    `failure` is what kept the last save from being written, None if it was. `stopped` is the step that the run was
    stopped at, None if it was not.
    """

    def __init__(self, run: Run, file: StateFile, signal: StopSignal, progress: Progress, *, minutes: float) -> None:
        self.run, self.file, self.signal, self.progress = run, file, signal, progress
        self.seconds = 60 * minutes
        self.failure: Exception | None = None
        self.stopped: int | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.signal.install()  # Lightning has put its own handler for SIGTERM there
        self.last = time.monotonic()

    def after(self, trainer: Any, module: Training, step: int) -> None:
        end = step == module.steps
        stop = self._any(trainer, self.signal.received != 0) and not end
        due = self._any(trainer, time.monotonic() - self.last >= self.seconds)
        if not (stop or due or end):
            return
        self.save(trainer, module, step)
        if stop:
            self.stopped, trainer.should_stop = step, True

    def save(self, trainer: Any, module: Training, step: int) -> None:
        """Weights that are not finite end the run, before the state is touched; a disk that is full does not."""
        weights_are_finite(module)
        trainer.save_checkpoint(self.run.folder / state.NAME)
        self.failure = self.file.failure
        if trainer.is_global_zero and self.failure is None:
            try:
                self.run.save_weights(module.model)
            except OSError as error:
                self.failure = error
        if self.failure is not None and step < module.steps:
            minutes = self.seconds / 60
            self.progress.warn(
                f"step {step:,} is not saved: {self.failure}. Free some space; the run goes on, and saves again in "
                f"{minutes:g} minutes"
            )
        self.last = time.monotonic()

    @staticmethod
    def _any(trainer: Any, here: bool) -> bool:
        """Whether it holds on any process: all have to save, or none."""
        if trainer.world_size == 1:
            return here
        return bool(trainer.strategy.reduce_boolean_decision(here, all=False))


class Telling(AtSteps):
    """For trainings without a run folder: moves the progress bar, and ends the training where a signal came."""

    def __init__(self, progress: Progress, stop: StopSignal) -> None:
        self.progress, self.stop = progress, stop

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.stop.install()  # Lightning has put its own handler for SIGTERM there

    def after(self, trainer: Any, module: Training, step: int) -> None:
        if self.stop.received:
            trainer.should_stop = True
        if self.progress.show and (step % max(1, module.steps // 100) == 0 or step == module.steps):
            self.progress.update(step, f"loss {module.tally.take()['loss']:.4f}")


def weights_are_finite(module: Training) -> None:
    """Raises RunError naming the first weight that is not."""
    for name, tensor in module.model.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RunError(
                f"{name} is not finite any more: nothing is written, the state of the last save is on disk. Begin "
                "again with a lower learning rate (--set optimiser.lr=...) or --precision fp32"
            )
