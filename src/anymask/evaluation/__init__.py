"""What features are worth, and what to do with them: `embed`, `evaluate`, `linear_probe`, `knn`, `finetune`, `predict`.

Names are looked up when they are used, as Lightning and SciPy take seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attentive import attentive_probe
    from .errors import EvaluateError
    from .features import embed
    from .finetuning import Classifier, finetune, load_classifier
    from .imputing import impute
    from .predicting import predict
    from .probe import knn, linear_probe
    from .tasking import evaluate

_HOME = {
    "Classifier": "finetuning",
    "EvaluateError": "errors",
    "attentive_probe": "attentive",
    "embed": "features",
    "evaluate": "tasking",
    "finetune": "finetuning",
    "impute": "imputing",
    "knn": "probe",
    "linear_probe": "probe",
    "load_classifier": "finetuning",
    "predict": "predicting",
}

__all__ = [
    "Classifier",
    "EvaluateError",
    "attentive_probe",
    "embed",
    "evaluate",
    "finetune",
    "impute",
    "knn",
    "linear_probe",
    "load_classifier",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
