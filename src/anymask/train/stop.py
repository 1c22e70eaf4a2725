"""Ctrl-C and SIGTERM end a run at the next optimiser step; a second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """A context in which `received` tells the signal that came, 0 for none. Only the main thread can catch any."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            self.install()
        return self

    def install(self) -> None:
        """Sets the handlers again, where something has replaced them meanwhile."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            self._restore()
            raise KeyboardInterrupt("stopped at once; the state of the last save is on disk")
        self.received = number

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def __exit__(self, *_: object) -> None:
        self._restore()


@contextlib.contextmanager
def workers_deaf() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C and SIGTERM, which a terminal or a scheduler sends to them
    too: the run needs them until it is saved, and ends them itself. What reaches this process meanwhile comes after."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has no such signals
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
