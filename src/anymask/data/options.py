"""How a source is to be opened: the options of `open_source`, as the openers pass them on."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from .errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """See `anymask.data.open_source`; every field is an option there, with the same default."""

    split: str | None = None
    strict: bool = False
    label: Any = None
    group: Any = None
    streaming: bool = False
    layout: str | None = None
    channels: int | None = None
    ignore: tuple[str, ...] = ()
    na_values: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    events: str | None = None
    kind: str | None = None
    window: int | None = None
    stride: int | None = None
    parts: tuple[float, ...] | None = None
    text: str | None = None
    tokenizer: Any = None
    vocabulary: int | None = None
    cased: bool = False
    canonical: bool = False
    rate: int | None = None
    derive: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: dict[str, Any]) -> Options:
        """From what a caller gave: one name or number for several, text for numbers, None for the default. Raises
        TypeError for a name that is no option, DataError for parts that are none."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                raise TypeError(f"no option {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
        found = {name: value for name, value in given.items() if value is not None}
        for name in ("ignore", "na_values", "categories"):
            if name in found:
                found[name] = _words(found[name])
        if isinstance(found.get("derive"), str):
            found["derive"] = [word.strip() for word in found["derive"].split(",") if word.strip()]
        if "derive" in found:
            found["derive"] = _words(found["derive"])
        if "parts" in found:
            found["parts"] = _numbers(found["parts"])
        return cls(**found)


def plain(given: dict[str, Any]) -> dict[str, Any]:
    """Options as a run keeps them: those that say something and that JSON holds."""
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return {name: value for name, value in listed.items() if value and isinstance(value, (str, bool, int, list))}


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(str(word) for word in given)


def _numbers(given: str | Sequence[float]) -> tuple[float, ...]:
    words = given.split(",") if isinstance(given, str) else given
    try:
        found = tuple(float(word) for word in words)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or min(found) <= 0 or (max(found) < 1 and sum(found) > 1 + 1e-6):
        raise DataError(f"parts={given!r} (--parts) is for training, validation and test: three shares, as "
                        "0.6,0.2,0.2, or months of 30 days, as 12,4,4")
    return found
