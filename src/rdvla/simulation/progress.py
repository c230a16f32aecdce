"""The progress line of a generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def generation_progress(*, total: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of `total` episodes with the time left; yields `update(episodes, failed_attempts)`."""
    progress = Progress(
        TextColumn("demonstrations"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} attempts failed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        # One task's episodes take longer than another's: judge the speed by minutes, not by seconds.
        TimeRemainingColumn(elapsed_when_finished=False),
        console=Console(stderr=True),
        speed_estimate_period=300.0,
        disable=not show,
    )
    with progress:
        bar = progress.add_task("demonstrations", total=total, failed=0)

        def update(episodes: int, failed: int) -> None:
            progress.update(bar, completed=episodes, failed=failed)

        yield update
