"""What a model costs: memory and time, from a few real samples."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anymask.data import Schema, Source, training_loader
from anymask.data.loader import aligned
from anymask.data.training import lengths_of
from anymask.engine import Model

BYTES_PER_PARAMETER = 16  # fp32 weight, gradient and AdamW's two moments


def first_batch(source: Any, schema: Schema, n: int) -> dict[str, Tensor]:
    """The first `n` samples as a training batch, not augmented; any kind of data. Keys are those of seed 0, step 0."""
    if isinstance(source, Source):
        source = source.subset(range(min(n, len(source))))
        n = len(source)
    return next(iter(training_loader(source, schema, batch_size=n, steps=1, seed=0, workers=0)))


def longest_batch(source: Any, schema: Schema, n: int) -> dict[str, Tensor]:
    """As `first_batch` with the longest samples, where samples vary in length."""
    lengths = lengths_of(aligned(source, schema), schema) if isinstance(source, Source) else None
    if lengths is not None:
        source = source.subset(np.argsort(-lengths, kind="stable")[:n])
    return first_batch(source, schema, n)


def activation_bytes(model: Model, batch: dict[str, Tensor], precision: str) -> tuple[float, float]:
    """Bytes that a forward pass keeps for the backward pass: (whatever the batch, for each sample). Counted are all
    tensors that autograd saves, but the weights, for 2 and for 4 samples."""
    last = len(batch["index"]) - 1  # of one sample, two are the same
    two, four = (_saved_bytes(model, batch, rows, precision) for rows in ([0, last], [0, last, 0, last]))
    each = (four - two) / 2
    return max(0.0, two - 2 * each), each


def _saved_bytes(model: Model, batch: dict[str, Tensor], rows: list[int], precision: str) -> int:
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    few = {name: tensor[rows] for name, tensor in batch.items()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), autocast(few, precision):
        loss = model(few).loss  # kept until the count is taken, so that no address is used twice
    total = sum(held.values())
    del loss
    return total


def autocast(batch: dict[str, Tensor], precision: str) -> torch.autocast:
    """As Lightning's "bf16-mixed" does it, for use outside a trainer."""
    return torch.autocast(batch["index"].device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def seconds_per_step(model: Model, optimiser: torch.optim.Optimizer, batch: dict[str, Tensor], precision: str) -> float:
    """Median of three micro-steps after a first one, on the fastest device there is. Changes the weights."""
    device = device_now()
    model.to(device)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        with autocast(batch, precision):
            loss = model(batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def device_now() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def memory_available() -> int | None:
    """Bytes that are free on the GPU, else in this machine or container; None where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    found = [n for n in (_machine_memory(), _container_memory()) if n is not None]
    return min(found) if found else None


def _machine_memory() -> int | None:
    try:
        return int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return None


def _container_memory() -> int | None:
    """What the control group leaves; file cache counts as free, as the kernel gives it back."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cache = int((group / "memory.stat").read_text().partition("\ninactive_file ")[2].split()[0])
        return None if limit == "max" else int(limit) - int(used) + cache
    except (OSError, IndexError, ValueError):
        return None
