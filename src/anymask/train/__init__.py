"""Training: `pretrain`, `plan` (what it would do, before anything expensive), `probe`, `picture`, `reconstruct`.

Names are looked up when they are used: the recipe files import this package for their optimisers, and Lightning takes
seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import Interrupted, NonFiniteError, StateError, TrainError
    from .memory import pretrain_model
    from .pictures import picture, reconstruct
    from .planning import Plan, plan
    from .pretraining import pretrain, probe

_HOME = {
    "Interrupted": "errors",
    "NonFiniteError": "errors",
    "Plan": "planning",
    "StateError": "errors",
    "TrainError": "errors",
    "picture": "pictures",
    "plan": "planning",
    "pretrain": "pretraining",
    "pretrain_model": "memory",
    "probe": "pretraining",
    "reconstruct": "pictures",
}

__all__ = [
    "Interrupted",
    "NonFiniteError",
    "Plan",
    "StateError",
    "TrainError",
    "picture",
    "plan",
    "pretrain",
    "pretrain_model",
    "probe",
    "reconstruct",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
