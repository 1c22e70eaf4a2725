"""What runs were worth and look like: `report`, one HTML file; `compare_runs`, a table.

Names are looked up when they are used, as plotting takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparing import compare_runs
    from .errors import ReportError
    from .renderer import Drawing, Panel, Renderer, renderer_of
    from .reporting import report

_HOME = {
    "Drawing": "renderer",
    "Panel": "renderer",
    "Renderer": "renderer",
    "ReportError": "errors",
    "compare_runs": "comparing",
    "renderer_of": "renderer",
    "report": "reporting",
}

__all__ = ["Drawing", "Panel", "Renderer", "ReportError", "compare_runs", "renderer_of", "report"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
