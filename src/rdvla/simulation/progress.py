"""The progress line of a generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import TextColumn

from rdvla.progress import Progress


@contextmanager
def generation_progress(*, total: int, show: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how many of `total` episodes there are, and the time left; yields `update(episodes, failed)`."""
    progress = Progress(
        Console(stderr=True),
        TextColumn("{task.fields[failed]} attempts failed"),
        # One task's episodes take longer than another's: judge the speed by minutes, not by seconds.
        speed_estimate_period=300.0,
        show=show,
    )
    with progress:
        bar = progress.add_task("demonstrations", total=total, failed=0)

        def update(episodes: int, failed: int) -> None:
            progress.update(bar, completed=episodes, failed=failed)

        yield update
