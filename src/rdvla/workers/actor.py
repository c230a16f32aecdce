"""A worker on a Ray cluster: the far side of `rdvla.workers.ray`. Imports no Ray at its top."""

from __future__ import annotations

import os
import queue
import shutil
import socket
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdvla.workers.processes import process_runs
from rdvla.workers.transport import Done, Message, Raised, serve

PREFIX = "rdvla-worker-"  # of folders with files of jobs, before the number of their process
Files = list[tuple[str, bytes]]  # (path below the runner's folder, content)


@dataclass(frozen=True)
class Place:
    """Where a worker runs."""

    host: str
    node: str  # Ray's name of it
    process: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (node {self.node[:8]})"


class WorkerActor:
    """Does the jobs of a pool in a thread of its own; an actor's methods are called one after the other.

    Args:
        runner: does the jobs, pickled; one that writes files writes them into a folder of this machine.
    """

    def __init__(self, runner: bytes) -> None:
        own = unpickled(runner)
        self._folder: Path | None = None
        if hasattr(own, "relocated"):
            _sweep()
            self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
            own = own.relocated(self._folder)
        self._inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[tuple[bytes, Files]] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(own,), daemon=True).start()

    def where(self) -> Place:
        """Return where this is; an answer says that the worker has begun."""
        import ray

        return Place(socket.gethostname(), ray.get_runtime_context().get_node_id(), os.getpid())

    def exchange(self, content: bytes) -> tuple[bytes, Files]:
        """Take a job or an answer; return the next message, pickled, and a finished job's files."""
        self._inbox.put(content)
        return self._outbox.get()

    def send(self, message: Message) -> None:
        """See `Line.send`; the pool is never gone, as Ray ends this process with it."""
        files: Files = []
        if self._folder is not None and isinstance(message, Done | Raised):
            files = _take(self._folder, keep=isinstance(message, Done))
        # Pickled here, not by Ray, whose arrays share memory and cannot be written.
        self._outbox.put((pickled(message), files))

    def receive(self) -> Any:
        """See `Line.receive`."""
        return unpickled(self._inbox.get())

    def _work(self, runner: Any) -> None:
        try:
            serve(self, runner)
        finally:
            os._exit(1)  # whatever ends the thread ends the worker: nobody would answer any more


def pickled(content: Any) -> bytes:
    """Pickle, also what a script defines itself."""
    from ray import cloudpickle

    return cloudpickle.dumps(content)  # type: ignore[no-untyped-call,no-any-return]


def unpickled(content: bytes) -> Any:
    """Read what the other end of the same run pickled; no file and no stranger's message comes here."""
    from ray import cloudpickle

    return cloudpickle.loads(content)


def _take(folder: Path, *, keep: bool) -> Files:
    """Read the files below a folder, if they are to be kept, and empty it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if keep else []
    files = [(str(path.relative_to(folder)), path.read_bytes()) for path in paths]
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return files


def _sweep() -> None:
    """Remove the folders of workers that were killed on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = folder.name.removeprefix(PREFIX).partition("-")[0]
        if process.isdigit() and not process_runs(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
