"""What a recipe's file says about its claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anymask.claims.metrics import Metric, Probe

if TYPE_CHECKING:
    from anymask.recipe import Recipe


PROBED = Probe()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim.

    Args:
        text: the claim in one sentence.
        better_than: the recipe -> the comparator, the mechanism switched off.
        ours: the recipe -> the arm that has the mechanism, where it is not the recipe itself.
        on: data set of the claim: a path among the data sets, or "digits". opening: options of
            `anymask.data.open_source` for it.
        metric: how a trained arm is measured.
        smallest_effect: the least difference that would matter, in the metric's unit, stated before the run.
        size, epochs, samples, batch_size: of both arms; the defaults are for an encoder that drops hidden tokens.
    """

    text: str
    better_than: Callable[[Recipe], Recipe]
    ours: Callable[[Recipe], Recipe] = lambda r: r
    on: str = "cifar10"
    opening: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric = PROBED
    smallest_effect: float = 1.0
    size: str = "nano"
    epochs: int = 10
    samples: int = 5000
    batch_size: int = 128
