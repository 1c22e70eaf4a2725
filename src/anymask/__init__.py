"""anymask: masked pre-training of encoders on any kind of data.

    run = anymask.pretrain("photos/", recipe="mae")
    z = anymask.embed(run, "photos/")
    print(anymask.evaluate(run, "photos/"))

Names are imported when they are used: torch and Lightning take seconds.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "pretrain": "anymask.train",
    "plan": "anymask.train",
    "reconstruct": "anymask.train",
    "embed": "anymask.evaluation",
    "evaluate": "anymask.evaluation",
    "finetune": "anymask.evaluation",
    "predict": "anymask.evaluation",
    "generate": "anymask.generation",
    "export": "anymask.interop",
    "PretrainedEncoder": "anymask.interop.hub",
    "verify": "anymask.claims",
    "Claim": "anymask.claims",
    "check_recipe": "anymask.contract",
    "Run": "anymask.run",
    "P": "anymask.recipe",
    "Recipe": "anymask.recipe",
    "find": "anymask.recipe",
    "diff": "anymask.compare",
    "report": "anymask.reports",
    "compare_runs": "anymask.reports",
    "open_source": "anymask.data",
    "infer_schema": "anymask.data",
    "AnymaskError": "anymask.errors",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'anymask' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
