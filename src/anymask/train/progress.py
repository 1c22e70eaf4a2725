"""What a run says while it trains."""

from __future__ import annotations

import logging
import time
from typing import Any

log = logging.getLogger("anymask")


class Progress:
    """A bar on a terminal, a line every tenth of the way elsewhere, and messages; on stderr.

    Args:
        show: False = quiet; messages then go to the logger `anymask`, warnings as warnings.
    """

    def __init__(self, *, show: bool) -> None:
        self.show, self.total, self.begun, self.first, self.tenth = show, 0, 0.0, 0, 0
        self._bar: Any = None
        self._console: Any = None
        if show:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, markup=False)
        else:
            log.info(text)

    def warn(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text, style="yellow", markup=False)
        else:
            log.warning(text)

    def start(self, total: int, at: int, title: str) -> None:
        self.total, self.first, self.begun = total, at, time.monotonic()
        self.tenth = 10 * at // total
        if self._console is not None and self._console.is_terminal:
            self._bar = _bar(self._console)
            self._bar.start()
            self._bar.add_task(title, total=total, completed=at, facts="")

    def update(self, step: int, facts: str) -> None:
        """`facts`: loss, speed and so on, as text."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, facts=facts)
        elif 10 * step // self.total > self.tenth:
            self.tenth = 10 * step // self.total
            self.say(f"step {step:,} of {self.total:,} ({step / self.total:.0%}): {facts}, {self._left(step)} left")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _left(self, step: int) -> str:
        done = max(1, step - self.first)
        return duration((time.monotonic() - self.begun) / done * (self.total - step))


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}")]
    return Bar(*columns, TimeRemainingColumn(), console=console, refresh_per_second=2)


def duration(seconds: float) -> str:
    """'45 s', '3 min', '2 h 10 min', '3 days'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{round(minutes / 1440)} days"
