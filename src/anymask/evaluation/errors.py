"""The errors of evaluation."""

from __future__ import annotations

from anymask.errors import AnymaskError


class EvaluateError(AnymaskError):
    """Features or probes that cannot be had as asked; the message names the mend."""
