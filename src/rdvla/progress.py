"""Progress of long work, and the time left."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 30.0  # if output goes to a file


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Progress(RichProgress):
    """A bar on a terminal; in a log file, a line every `SECONDS_BETWEEN_LINES`."""

    def __init__(
        self,
        console: Console,
        *columns: ProgressColumn,
        show: bool = True,
        speed_estimate_period: float = 30.0,
        refresh_per_second: float = 10.0,
        transient: bool = False,
    ) -> None:
        """Show it on a console.

        Args:
            console: where to show it.
            columns: shown between the count and the times.
            show: False shows nothing.
            speed_estimate_period: seconds of work from which the time left is estimated.
            refresh_per_second: how often the bar is drawn.
            transient: remove the bar when it is finished.
        """
        super().__init__(
            TextColumn("{task.description}"),
            *([BarColumn()] if console.is_terminal else []),
            MofNCompleteColumn(),
            *columns,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=speed_estimate_period,
            refresh_per_second=refresh_per_second,
            transient=transient,
            disable=not (show and console.is_terminal),
        )
        self._lines = show and not console.is_terminal
        self._last_line = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task as `rich.progress.Progress.update` does."""
        super().update(task_id, **changes)
        if self._lines and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.console.print(self.make_tasks_table(self.tasks))
