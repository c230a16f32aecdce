"""What a person sees while a run trains."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import TextColumn

from rdvla.progress import Progress


class TrainingProgress:
    """A bar with loss, depth, milliseconds a step and time left; a line for each validation.

    Args:
        console: where to show it.
        steps: updates of the whole run.
        start: updates done before.
    """

    def __init__(self, console: Console, *, steps: int, start: int) -> None:
        self.console = console
        self._progress = Progress(
            console,
            TextColumn(
                "loss {task.fields[loss]:.4f}  depth {task.fields[depth]:2d}  {task.fields[ms]:.0f} ms/step"
            ),
            refresh_per_second=2,  # drawing takes time from training
        )
        self._task = self._progress.add_task(
            "training", total=steps, completed=start, loss=float("nan"), depth=0, ms=0.0
        )

    def __enter__(self) -> TrainingProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def update(self, *, step: int, loss: float, depth: int, milliseconds: float) -> None:
        """Show the figures after `step` updates."""
        self._progress.update(self._task, completed=step, loss=loss, depth=depth, ms=milliseconds)

    def validation(self, *, step: int, figures: Mapping[str, float]) -> None:
        """Print a line with the validation figures."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.console.print(f"step {step}  {shown}", highlight=False)
