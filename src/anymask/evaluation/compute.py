"""What training costs in floating-point operations, counted rather than estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anymask.data import Source
from anymask.engine import Sample
from anymask.evaluation.errors import EvaluateError
from anymask.run import Run
from anymask.train.measure import first_batch
from anymask.train.planning import cropped

COUNTED = 8  # samples that operations are counted on


class Costs(NamedTuple):
    """Operations: of the whole pre-training, and of fine-tuning steps a sample, as asked for (`tuned`, where blocks may
    be frozen) and of all weights (`whole`)."""

    pretraining: float
    tuned: float
    whole: float

    def matching_steps(self, steps: int, batch_size: int) -> int:
        """Steps of training all weights that cost as much as pre-training and `steps` of fine-tuning, rounded up."""
        return math.ceil((self.pretraining + steps * batch_size * self.tuned) / (batch_size * self.whole))


def step_flops(loss: Callable[[Sample], Tensor], batch: Sample) -> float:
    """Floating-point operations of a forward and a backward pass, a sample: products of matrices, attention and
    convolutions, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused kernels may go uncounted
        loss(batch).backward()
    return counter.get_total_flops() / len(batch["index"])


def pretraining_flops(run: Run, source: Source) -> float:
    """Floating-point operations of a run's training, that of its earlier stages included.

    Args:
        source: data to count a step on.

    Raises:
        EvaluateError: the run does not say how many steps it had.
    """
    missing = [name for name in ("steps", "batch_size") if name not in run.settings]
    if missing:
        raise EvaluateError(
            f"{run.folder / 'run.json'} does not say '{missing[0]}', so its training has no known cost; leave out the "
            "arm 'compute' (arms=...)"
        )
    model = run.build().train()
    each = step_flops(lambda batch: model(batch).loss, first_batch(source, cropped(run.schema, model), COUNTED))
    settings = run.settings
    samples = settings["steps"] * settings["batch_size"] * settings.get("accumulate", 1) * settings.get("devices", 1)
    stages = [stage.slug for stage in run.recipe.stages.get("stages", ())]
    return each * samples + sum(pretraining_flops(Run.open(run.folder / "stages" / name), source) for name in stages)
