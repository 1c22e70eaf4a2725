"""What a report cannot be made of."""

from __future__ import annotations

from anymask.errors import AnymaskError


class ReportError(AnymaskError):
    """Runs or data that cannot be shown as asked; the message names the mend."""
