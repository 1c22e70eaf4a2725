"""Training with Lightning: the module, the stream of micro-steps, and the state file. Imports Lightning.

A run is one Lightning "epoch" of steps x accumulate micro-steps, whatever the epochs of the data are: micro-step n is
the same in an interrupted run and in an uninterrupted one, its batch, its masks and its random numbers.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from anymask.engine import Model, Step, scored
from anymask.recipe import Recipe

from . import planning, state
from .errors import NonFiniteError
from .precision import LIGHTNING
from .stop import workers_deaf


class Training(lightning.LightningModule):
    """A model, its optimiser and schedule. `tally` sums what was met since it was last cleared.

    Args:
        recipe: for optimiser and schedule.
        settings: of the run: steps, batch_size, accumulate, devices, seed, clip, compile.
        loader: (start, rank, world) -> iterable of the batches of micro-steps start, start + 1, ...
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        settings: Mapping[str, Any],
        loader: Callable[[int, int, int], Any],
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.settings, self.make_loader = model, recipe, dict(settings), loader
        self.steps, self.clip = settings["steps"], settings["clip"]
        # A function and not a submodule, so that the names of the weights stay those of the model.
        self.compiled: Callable[[Step], Step] | None = torch.compile(model.learn) if settings["compile"] else None
        self.tally = Tally()
        self.grad_norm = self.lr = float("nan")  # of the last step
        self.micro: MicroSteps | None = None

    def train_dataloader(self) -> MicroSteps:
        rank, world = self.trainer.global_rank, self.trainer.world_size
        self.micro = MicroSteps(lambda at: self.make_loader(at, rank, world), self.steps * self.settings["accumulate"])
        return self.micro

    def configure_optimizers(self) -> Any:
        batch = self.settings["batch_size"] * self.settings["accumulate"] * self.settings["devices"]
        optimiser = planning.optimiser_of(self.recipe, self.model, batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, planning.schedule_of(self.recipe, self.steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        # Drop path and samplers draw from torch's global generator, which no state file holds: it is a function of the
        # micro-step instead.
        reseed(self.settings["seed"], batch_idx, self.trainer.global_rank, self.device.type)
        step = self.model(batch) if self.compiled is None else self.compiled(self.model.hide(batch))
        self.tally.add(step, self.model)
        return step.loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clips the norm over all gradients, and refuses to step with one that is not finite.

        Not Lightning's own clipping: that one declines optimisers that fuse the step, though nothing is scaled here.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip or float("inf"))
        both = torch.stack([norm, self.tally.loss.to(norm.device)]).tolist()  # one wait for the device, not two
        self.grad_norm, self.lr = both[0], max(group["lr"] for group in optimizer.param_groups)
        if not all(map(math.isfinite, both)):
            raise NonFiniteError(self._diagnosis())

    def _diagnosis(self) -> str:
        bad = self.tally.not_finite()
        what = f"the loss is not finite ({', '.join(bad)})" if bad else "a gradient is not finite, though the loss is"
        tries = ["a lower learning rate (--set optimiser.lr=...)"]
        tries += ["--precision fp32"] * (self.settings["precision"] != "fp32")
        tries += ["data without extreme values"] * (self.trainer.global_step < 3)
        return (
            f"step {self.trainer.global_step + 1} of {self.steps}: {what}; learning rate {self.lr:.1e}, "
            f"{self.settings['precision']}. Training stopped before the weights changed. Begin again with "
            f"{', or '.join(tries)}"
        )

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        progress = (self.trainer.global_step + 1) / self.steps  # Lightning counts the step when this returns
        with torch.no_grad():
            for part in self.model.parts():
                part.after_step(self.model, progress)


def make_trainer(settings: Mapping[str, Any], **more: Any) -> lightning.Trainer:
    """Lightning's trainer for a run's settings, without anything that prints or writes; `more` is the trainer's."""
    return lightning.Trainer(
        accelerator="auto",
        devices=settings["devices"],
        precision=LIGHTNING[settings["precision"]],  # type: ignore[arg-type]
        max_steps=settings["steps"],
        max_epochs=-1,
        accumulate_grad_batches=settings["accumulate"],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **more,
    )


class MicroSteps:
    """The batches of a run from where it is on, and how long they were waited for. Lightning saves and loads `at`."""

    def __init__(self, loader: Callable[[int], Any], total: int) -> None:
        self.loader, self.total, self.at, self.waited = loader, total, 0, 0.0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        batches = iter(self.loader(self.at))
        with workers_deaf():  # they are started for the first batch
            batch = next(batches, None)
        begun = time.perf_counter()  # decoding a small set once, before the first batch, is no waiting between steps
        while batch is not None:
            self.waited += time.perf_counter() - begun
            self.at += 1
            yield batch
            begun = time.perf_counter()
            batch = next(batches, None)

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, saved: dict[str, int]) -> None:
        self.at = saved["at"]


class Tally:
    """Sums over micro-steps of the loss, of each head's error over its scored tokens, and of the added losses."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    @torch.no_grad()
    def add(self, step: Step, model: Model) -> None:
        self.count += 1
        self._add("loss", step.loss)
        for name, error in step.error.items():
            ok = scored(step, model.target.heads[name])
            if ok is None:
                self._add(f"error/{name}", error.mean())
            else:
                self._add(f"error/{name}", torch.where(ok, error, 0.0).sum() / ok.sum().clamp(min=1))
        for name, value in step.aux.items():
            self._add(f"aux/{name}", value)

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach().float()
        self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value

    @property
    def loss(self) -> Tensor:
        return self.sums["loss"]

    def not_finite(self) -> list[str]:
        """Which heads and added losses; the loss itself only if it is the only one."""
        bad = [name for name, value in self.sums.items() if not torch.isfinite(value)]
        return [name for name in bad if name != "loss"] or bad

    def take(self) -> dict[str, float]:
        """Means, and begins again."""
        means = {name: float(value) / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "count": self.count}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.sums, self.count = dict(saved["sums"]), saved["count"]


class StateFile(CheckpointIO):
    """Lightning's checkpoints as `state.safetensors`, written atomically, without pickle.

    A disk that is full is no exception here, since other processes wait for this one to go on: see `failure`.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.failure = None
        try:
            state.write_state(Path(path), checkpoint, step=checkpoint["global_step"])
        except OSError as error:
            self.failure = error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return state.read_state(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def reseed(seed: int, micro_step: int, rank: int, device: str = "cpu") -> None:
    """torch's global generators, that of the CPU and those of the kind of `device`, as a function of these three."""
    digest = hashlib.blake2b(f"{seed} {micro_step} {rank}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    if device == "cpu":  # torch.manual_seed notes the call stack for each kind of device, which takes milliseconds
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)
