"""The processes and shared memory that a command leaves (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "RDVLA_FAULTS_RUN"  # an environment variable that every process of a run inherits
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # looked at, not written


def processes_of(token: str, *, session: int | None = None) -> list[psutil.Process]:
    """Return the living processes that carry a run's mark, or are in its session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            ours = process.environ().get(MARK) == token or os.getsid(process.pid) == session
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_of(processes: Sequence[psutil.Process], *, main: int) -> list[int]:
    """Return the processes that do a run's work, apart from its first: no helpers of multiprocessing."""
    workers = []
    for process in processes:
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if process.pid != main and "resource_tracker" not in words:
                workers.append(process.pid)
    return sorted(workers)


def wait_for_none(token: str, *, session: int, seconds: float) -> list[str]:
    """Wait until a run has no process any more; kill what remains, and return a sentence for each."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(token, session=session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    said = []
    for process in left:
        with suppress(psutil.Error):
            said.append(f"process {process.pid} was left behind: {' '.join(process.cmdline())[:200]}")
            process.kill()
    return said


def shared_memory() -> set[str]:
    """Return the names of the machine's shared memory."""
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def left_in_shared_memory(names: set[str], *, seconds: float) -> list[str]:
    """Wait until none of the names is shared memory that no living process has; return those that stay.

    Resource trackers of multiprocessing, of other commands as well, remove theirs a little later.
    """
    deadline = time.monotonic() + seconds
    while (left := names & shared_memory() - _used()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"{SHARED_MEMORY / name} was left behind" for name in sorted(left)]


def _used() -> set[str]:
    """Return the names of the files that living processes have mapped or opened."""
    used = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            used |= {line.rsplit("/", 1)[-1] for line in (process / "maps").read_text().splitlines()}
            used |= {link.readlink().name for link in (process / "fd").iterdir()}
    return used
