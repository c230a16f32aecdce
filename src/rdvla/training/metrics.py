"""Figures of a run: `metrics.jsonl` for programs, trackers and a progress bar for people."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import TextColumn

from rdvla.files import errors_name, write_atomically
from rdvla.progress import Progress, duration

TIMED_UPDATES = 10  # before the rest is estimated


@dataclass(frozen=True)
class Update:
    """Figures of one update."""

    depth: int  # r, iterations
    grad_norm: float  # before clipping
    learning_rate: float
    seconds: float  # wall clock
    scalars: dict[str, float]  # of the objective; `loss` is one


def averaged(window: Sequence[Update]) -> dict[str, float]:
    """Return what the log says about the updates since its last line: means, and the last learning rate."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(window)

    scalars = {name: mean([update.scalars[name] for update in window]) for name in window[-1].scalars}
    return scalars | {
        "depth": mean([update.depth for update in window]),
        "grad_norm": mean([update.grad_norm for update in window]),
        "learning_rate": window[-1].learning_rate,
        "ms_per_step": 1000 * mean([update.seconds for update in window]),
    }


class Tracker(Protocol):
    """What a log calls of Accelerate's `GeneralTracker`."""

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        """Show values after a step."""
        ...

    def finish(self) -> None:
        """End."""
        ...


class MetricsLog:
    """Appends a JSON object per line to `<run>/metrics.jsonl`, and gives the same scalars to trackers.

    Every line has `step` (updates done) and `kind` (`train` or `validation`); no (step, kind) occurs twice.

    Args:
        folder: the run directory.
        resumed_step: updates done in the checkpoint that the run goes on from, 0 for a new run. Lines of
            later steps, written before the run was killed, are dropped: those steps run again.
        trackers: from `rdvla.training.trackers.open_trackers`.
    """

    def __init__(self, folder: Path, *, resumed_step: int = 0, trackers: Sequence[Tracker] = ()) -> None:
        self._path = folder / "metrics.jsonl"
        drop_later_lines(self._path, step=resumed_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._trackers = trackers

    def write(self, *, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Log scalars after `step` updates, under `kind`."""
        line = {"step": step, "kind": kind, **scalars}
        with errors_name(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        for tracker in self._trackers:
            tracker.log({f"{kind}/{name}": value for name, value in scalars.items()}, step=step)

    def flush(self) -> None:
        """Force all lines to the disk; done before each checkpoint, so no earlier line is missing."""
        with errors_name(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            with suppress(OSError):  # of a full disk, which `flush` has told already
                self._file.close()
            for tracker in self._trackers:
                tracker.finish()


class NoLog(MetricsLog):
    """The log of a process that leaves the run's files to another one."""

    def __init__(self) -> None:
        pass

    def write(self, *, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Leave it out."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def drop_later_lines(path: Path, *, step: int) -> None:
    """Rewrite a metrics file without the lines after `step` and without a last line cut short by a kill."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    with write_atomically(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def read_metrics(path: Path, *, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, all of them or those of a kind."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if kind is None or line["kind"] == kind]


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class TrainingProgress:
    """A bar with loss, depth, milliseconds per step and time left; a line per validation.

    After `TIMED_UPDATES` updates a line says how long the rest will take.

    Args:
        console: shows it.
        steps: updates of the whole run.
        start: updates done before.
    """

    def __init__(self, console: Console, *, steps: int, start: int) -> None:
        self.console = console
        self._steps, self._timed = steps, list[float]()
        self._progress = Progress(
            console,
            TextColumn(
                "loss {task.fields[loss]:.4f}  depth {task.fields[depth]:2d}  {task.fields[ms]:.0f} ms/step  "
                "{task.fields[speed]}"
            ),
            refresh_per_second=2,  # drawing takes time from training
        )
        self._task = self._progress.add_task(
            "training", total=steps, completed=start, loss=float("nan"), depth=0, ms=0.0, speed=""
        )

    def __enter__(self) -> TrainingProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def count(self, *, step: int, seconds: float) -> None:
        """Say how long the rest will take, once enough updates were timed.

        Args:
            step: updates done.
            seconds: that the last update took.
        """
        if len(self._timed) == TIMED_UPDATES:
            return
        self._timed.append(seconds)
        if len(self._timed) == TIMED_UPDATES and step < self._steps:
            typical = statistics.median(self._timed)  # the first update may take much longer
            self.console.print(
                f"{'time':<16}{1000 * typical:.0f} ms an update: about "
                f"{duration(typical * (self._steps - step))} for the {self._steps - step:,} updates to come, "
                "without validations",
                soft_wrap=True,
                highlight=False,
            )

    def update(self, *, step: int, depth: int, figures: Mapping[str, float]) -> None:
        """Show the figures after `step` updates.

        Args:
            step: updates done.
            depth: of the last one.
            figures: of the log, with `loss`, `ms_per_step` and those of `Throughput`.
        """
        speed = f"{figures['samples_per_second']:,.0f} samples/s"
        if "utilisation" in figures:
            speed += f"  {figures['utilisation']:.0%} of peak"
        self._progress.update(
            self._task,
            completed=step,
            loss=figures["loss"],
            depth=depth,
            ms=figures["ms_per_step"],
            speed=speed,
        )

    def validation(self, *, step: int, figures: Mapping[str, float]) -> None:
        """Print a line with the validation figures."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.console.print(f"step {step}  {shown}", highlight=False)
