"""What can go wrong in training. Every message names the mend."""

from __future__ import annotations

from pathlib import Path

from anymask.errors import AnymaskError


class TrainError(AnymaskError):
    """Training cannot start or go on as asked; the message names the mend."""


class StateError(TrainError):
    """A training state that cannot be written or read."""


class NonFiniteError(RuntimeError):
    """A loss or gradient became infinite or NaN. The weights and the state on disk are those before."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM at the end of an optimiser step; the message says how to go on.

    A command line exits with `code`: 130 for Ctrl-C, 143 for SIGTERM. `saved` says whether the state was written then.
    """

    def __init__(self, message: str, *, folder: Path, step: int, code: int, saved: bool) -> None:
        super().__init__(message)
        self.folder, self.step, self.code, self.saved = folder, step, code, saved
