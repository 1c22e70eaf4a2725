"""The errors of the data layer. Every message says what is wrong, where, and what mends it."""

from __future__ import annotations

from anymask.errors import AnymaskError


class DataError(AnymaskError):
    """The data cannot be used as asked; the message names the file, row or argument and the mend."""


class SchemaError(DataError):
    """Data differ from what a model was trained on; the message names the difference and the mend."""


class Unreadable(Exception):
    """One sample cannot be read. Sources catch this: the sample is left out and named (DataError when strict)."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def some(names: list[str], limit: int = 3) -> str:
    """The first few names as text, with a count of the rest: 'a, b, c and 9 more'."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def nothing_readable(name: str) -> DataError:
    """What is raised where every sample that was looked at lacks a part."""
    return DataError(
        f"no sample that was looked at has a readable '{name}'; --strict (strict=True) says what is wrong with the "
        "first: replace such files, or leave them out"
    )
