"""Workers as processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection as mpc
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from rdvla.workers.transport import DisconnectedError, Link, Message, Runner, serve

OBEY_SECONDS = 1.0  # for which a process that is told to end may go on


class LocalProcesses:
    """Starts worker processes and waits for their messages: a `Transport`.

    Processes are spawned, since neither OpenGL nor torch's threads survive a fork.
    """

    def start(self, number: int, runner: Runner[Any, Any]) -> Link:
        """Start a process; the runner has to pickle."""
        return ProcessLink(number, runner)

    def wait(self, links: Sequence[Link], timeout: float | None = None) -> list[Link]:
        """Wait until a process has a message or has died, at most `timeout` seconds; return all of these."""
        by_connection = {link.connection: link for link in links if isinstance(link, ProcessLink)}
        ready = mpc.wait(list(by_connection), timeout)
        return [link for connection, link in by_connection.items() if connection in ready]


class ProcessLink:
    """One worker process and this side of its pipe."""

    begun = True
    machine_died = False  # this process would be gone as well

    def __init__(self, number: int, runner: Runner[Any, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, runner), name=f"rdvla-worker-{number}", daemon=True
        )
        with _interrupts_blocked():
            self.process.start()
        theirs.close()  # the pipe then ends with the process

    def send(self, content: Any) -> None:
        """Send a job or an answer."""
        with suppress(BrokenPipeError, ConnectionError):  # the next `receive` reports the death
            self.connection.send(content)

    def receive(self) -> Message | None:
        """Return the next message; None if the process has died."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):  # OSError: in the middle of a message
            return None
        return message

    def death(self) -> str:
        """Say which process died, with its exit code."""
        self.process.join()
        return f"process {self.process.pid} died with exit code {self.process.exitcode}"

    def stop(self) -> None:
        """Terminate the process; kill it if it does not obey within a second, as a stopped one does not."""
        self.process.terminate()
        self.process.join(OBEY_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()  # last: another thread that reads from it learns of the end first


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let a process that is started here not hear ctrl-c before it can ignore it.

    It would end with a traceback while it imports.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # at its own start it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _PipeLine:
    """The process's side of the pipe: a `Line`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Message) -> None:
        try:
            self._connection.send(message)
        except (BrokenPipeError, ConnectionError) as error:
            raise DisconnectedError from error

    def receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise DisconnectedError from error


def _work(connection: Connection, runner: Runner[Any, Any]) -> None:
    """Entry point of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears ctrl-c and stops its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    serve(_PipeLine(connection), runner)


def _exit_with_parent() -> None:
    """End this process when its parent is killed, in the middle of a job as well."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def process_runs(process: int) -> bool:
    """Return whether a process of that number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
