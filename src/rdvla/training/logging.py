"""The run's figures: `metrics.jsonl` for programs and TensorBoard for eyes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdvla.files import write_atomically


class MetricsLog:
    """Appends one JSON object a line to `<run>/metrics.jsonl` and the same scalars to `<run>/tensorboard`.

    Every line has `step` (updates done) and `kind` (`train` or `validation`); no (step, kind) occurs twice.

    Args:
        folder: the run directory.
        resumed_step: updates done in the checkpoint that the run goes on from, 0 for a new run. Lines of
            later steps, written before the run was killed, are dropped, as those steps will be run again.
    """

    def __init__(self, folder: Path, *, resumed_step: int = 0) -> None:
        # Imported here: it takes a second, and only a run needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / "metrics.jsonl"
        drop_later_lines(self._path, step=resumed_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, *, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Log scalars after `step` updates, under `kind`."""
        line = {"step": step, "kind": kind, **scalars}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Force all lines to the disk; done before each checkpoint, so that no earlier line is missing."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Flush and close."""
        self.flush()
        self._file.close()
        self._board.close()


def drop_later_lines(path: Path, *, step: int) -> None:
    """Rewrite a metrics file without the lines after `step` and without a last line cut short by a kill."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    with write_atomically(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def read_metrics(path: Path, *, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, of one kind or all."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if kind is None or line["kind"] == kind]


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
