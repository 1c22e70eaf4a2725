"""Optimisers and schedules of recipes."""

from __future__ import annotations

import math
from typing import Any

import torch

from anymask.engine import Model


def adamw(
    model: Model,
    *,
    batch_size: int,
    lr: float = 2.4e-3,
    lr_batch: int = 4096,
    lr_width: int = 768,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.05,
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101). Vectors (biases, norms) and what parts name in `groups` do not decay.

    Args:
        batch_size: of the run, accumulated and over all devices; given by the trainer.
        lr: peak learning rate at a batch of `lr_batch`; it follows the square root of the batch (Malladi et al. 2022,
            arXiv:2205.10287), so that the papers' rates carry over to batches a hundred times smaller.
        lr_width: encoders narrower than this get a higher rate, by the square root of the quotient.
    """
    peak = scaled_lr(lr, lr_batch, batch_size, lr_width, model.size.width)
    special = {
        f"{name}.{prefix}": change
        for name, part in model.named_modules()
        if callable(getattr(part, "groups", None))  # of a convolution it is a number
        for prefix, change in part.groups().items()
    }
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        change: dict[str, float] = next((c for p, c in special.items() if name == p or name.startswith(p + ".")), {})
        decay = change.get("weight_decay", 0.0 if parameter.ndim < 2 else weight_decay)
        groups.setdefault((peak * change.get("lr", 1.0), decay), []).append(parameter)
    settings: list[dict[str, Any]] = [{"params": ps, "lr": rate, "weight_decay": d} for (rate, d), ps in groups.items()]
    return torch.optim.AdamW(settings, lr=peak, betas=(betas[0], betas[1]), fused=True)


def scaled_lr(lr: float, lr_batch: int, batch_size: int, lr_width: int, width: int) -> float:
    return lr * math.sqrt(batch_size / lr_batch * max(1.0, lr_width / width))


def warmup_cosine(*, step: int, steps: int, warmup: float = 0.05, final: float = 0.0) -> float:
    """Factor of the peak rate at `step` of `steps`: linear over the first share `warmup`, then half a cosine to `final`
    (arXiv:1608.03983)."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def adam(model: Model, *, batch_size: int, lr: float = 1e-3, weight_decay: float = 0.0) -> torch.optim.Adam:
    """Adam (arXiv:1412.6980) with one rate for all parameters; `weight_decay` is the L2 penalty of all of them.
    Neither follows `batch_size`: a graph's nodes are many samples already."""
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=weight_decay)


def default_clip(optimiser: Any) -> float:
    """The largest norm of the gradient where none is asked for: 1. With `adam` any, since it adds its penalty to a
    gradient that has been clipped already, and would outweigh it where gradients are large."""
    return 0.0 if getattr(optimiser, "part", None) is adam else 1.0
