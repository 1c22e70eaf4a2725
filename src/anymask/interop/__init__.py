"""Weights in and out: Hugging Face, timm, safetensors, ONNX; models for the hub are in `hub`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anymask.engine import Model
from anymask.interop.hugging_face import Imported, from_hugging_face, initialise, to_hugging_face
from anymask.interop.onnx import to_onnx
from anymask.interop.plain import InteropError, to_safetensors
from anymask.interop.timm import to_timm
from anymask.run import Run

__all__ = [
    "FORMATS",
    "Imported",
    "InteropError",
    "export",
    "from_hugging_face",
    "initialise",
    "to_hugging_face",
    "to_onnx",
    "to_safetensors",
    "to_timm",
]

FORMATS: dict[str, Callable[..., Path]] = {
    "safetensors": to_safetensors,
    "timm": to_timm,
    "hf": to_hugging_face,
    "onnx": to_onnx,
}


def export(run: Run | Model | str | Path, to: str, out: str | Path, **options: Any) -> Path:
    """Writes a run's encoder for use elsewhere, and returns where.

    Args:
        run: a run, its folder, or a model.
        to: "safetensors" (any encoder, anymask's names), "onnx" (any encoder, raw values in, features out), "timm" or
            "hf" (plain Vision Transformers).
        out: a folder; for timm also a .safetensors file, for ONNX an .onnx file.
        options: of the format: `pool` and `tokens` of `to_onnx`; the others have none.

    Raises:
        InteropError: unknown format or option, or an encoder that the format has no place for.
    """
    if to not in FORMATS:
        raise InteropError(f"no format {to!r}; there is: {', '.join(FORMATS)}")
    takes = [name for name, p in inspect.signature(FORMATS[to]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in options if name not in takes]
    if unknown:
        raise InteropError(f"{to} has no option {unknown[0]!r}; it has: {', '.join(takes) or 'none'}")
    return FORMATS[to](Run.open(run) if isinstance(run, (str, Path)) else run, out, **options)
