"""How a source is to be opened: the arguments of `open_source`, as the openers pass them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Options:
    """See `anymask.data.open_source`."""

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
