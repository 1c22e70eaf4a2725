"""Weights in and out: Hugging Face, timm, safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anymask.engine import Model
from anymask.interop.hugging_face import Imported, from_hugging_face, initialise, to_hugging_face
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
    "to_safetensors",
    "to_timm",
]

FORMATS: dict[str, Callable[[Run | Model, str | Path], Path]] = {
    "safetensors": to_safetensors,
    "timm": to_timm,
    "hf": to_hugging_face,
}


def export(run: Run | Model | str | Path, to: str, out: str | Path) -> Path:
    """Writes a run's encoder for use elsewhere, and returns where.

    Args:
        run: a run, its folder, or a model.
        to: "safetensors" (any encoder, anymask's names), "timm" or "hf" (plain Vision Transformers).
        out: a folder; for timm also a .safetensors file.

    Raises:
        InteropError: unknown format, or an encoder that the format has no place for.
    """
    if to not in FORMATS:
        raise InteropError(f"no format {to!r}; there is: {', '.join(FORMATS)}")
    return FORMATS[to](Run.open(run) if isinstance(run, (str, Path)) else run, out)
