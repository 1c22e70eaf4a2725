"""Finished pieces of a long measurement in a file, so that an interrupted call goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anymask.evaluation.errors import EvaluateError


class Journal:
    """Records by name, one a line of a JSON-lines file, each on disk as soon as it is known.

    Args:
        path: the file; None = kept in memory only.
        mark: of all that the records depend on beside their names; records with another mark are left alone and unused.

    Raises:
        EvaluateError: the file holds something else. A last line without an end, from a call that was killed while it
            wrote, is cut off.
    """

    def __init__(self, path: str | Path | None, mark: str) -> None:
        self.path, self.mark = None if path is None else Path(path).expanduser(), mark
        self.known: dict[str, Any] = {}
        if self.path is None or not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.decode().splitlines(), 1):
            try:
                record = json.loads(line)
                if record["mark"] == mark:
                    self.known[record["name"]] = record["value"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise EvaluateError(
                    f"{self.path} is no journal (line {number} is no record of one); give another file"
                ) from error
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The value of a record (plain data); made and written where it is not there yet."""
        if name not in self.known:
            value = make()
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    file.write(json.dumps({"mark": self.mark, "name": name, "value": value}) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            self.known[name] = value
        return self.known[name]
