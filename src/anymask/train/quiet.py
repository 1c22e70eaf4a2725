"""Lightning without its own messages."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's own messages: what matters of them is said in this package's words."""
    importlib.import_module("lightning.pytorch")  # which sets the levels of its loggers
    found = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(found, levels):
            logger.setLevel(level)
