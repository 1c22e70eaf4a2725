"""Claims: what a paper says its mechanism does, as two arms that differ in nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anymask.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    Args:
        text: the claim in one sentence.
        better_than: the recipe -> the comparator, the mechanism switched off.
        ours: the recipe -> the arm that has the mechanism, where it is not the recipe itself.
        on: data set of the claim.
        metric: of the frozen features, higher is better: "linear probe" or "knn".
        smallest_effect: the least difference in points that would matter, stated before the run.
        size, epochs, samples, batch_size: of both arms.
    """

    text: str
    better_than: Callable[[Recipe], Recipe]
    ours: Callable[[Recipe], Recipe] = lambda r: r
    on: str = "cifar10"
    metric: str = "linear probe"
    smallest_effect: float = 1.0
    size: str = "nano"
    epochs: int = 20
    samples: int = 5000
    batch_size: int = 128
