"""Errors of claims."""

from anymask.errors import AnymaskError


class ClaimError(AnymaskError):
    """A claim that cannot be verified so; the message names the mend."""


class OutOfTime(ClaimError):
    """The budget of a call is used up; what was trained is kept, and the same call goes on."""
