"""How a pool and its workers talk: what a transport offers, and what a worker does with it.

`rdvla.workers.processes` runs workers as processes on this machine. Another transport is another file with a
`Transport`, its `Link` and its `Line`; jobs, questions, answers and results must pickle if it copies them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Ask = Callable[[Any], Any]  # a question to the pool's owner -> the answer

JobIn = TypeVar("JobIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


class Runner(Protocol[JobIn, ResultOut]):
    """Does jobs in a worker, one at a time. Every worker gets a copy, which may keep things open."""

    def run(self, job: JobIn, ask: Ask) -> ResultOut:
        """Do one job; `ask` waits for an answer of the pool's owner."""
        ...

    def close(self) -> None:
        """Close what is open; called after an exception as well."""
        ...


@dataclass(frozen=True)
class Asked:
    """A worker waits for an answer."""

    question: Any


@dataclass(frozen=True)
class Done:
    """A worker finished its job."""

    result: Any


@dataclass(frozen=True)
class Raised:
    """An exception ended a worker's job."""

    type: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Raised:
        """Describe an exception that is being handled."""
        return cls(type(error).__name__, str(error), traceback.format_exc())


Message = Asked | Done | Raised  # from a worker to the pool; the pool sends a job, or an answer to a question


class Link(Protocol):
    """The pool's end of the connection to one worker."""

    @property
    def begun(self) -> bool:
        """Whether the worker runs, or ran. On a cluster it may have to wait for room."""
        ...

    @property
    def machine_died(self) -> bool:
        """Whether the worker died with its machine, through no fault of its job."""
        ...

    def send(self, content: Any) -> None:
        """Send a job or an answer. Sending to a dead worker does nothing: `receive` reports the death."""
        ...

    def receive(self) -> Message | None:
        """Return the next message; None if the worker has died."""
        ...

    def death(self) -> str:
        """Say who died and how, such as ``process 71 died with exit code 9``."""
        ...

    def stop(self) -> None:
        """End the worker at once, in the middle of a job as well. Stopping a dead worker does nothing."""
        ...


class Transport(Protocol):
    """Starts workers and waits for them."""

    def start(self, number: int, runner: Runner[Any, Any]) -> Link:
        """Start worker `number`, which calls `serve` with a copy of the runner and ends with this process."""
        ...

    def wait(self, links: Sequence[Link], timeout: float | None = None) -> list[Link]:
        """Wait until a worker has a message or has died, at most `timeout` seconds; return all of these."""
        ...


class DisconnectedError(Exception):
    """The pool is gone, so its worker may go as well."""


class Line(Protocol):
    """A worker's end of its connection to the pool."""

    def send(self, message: Message) -> None:
        """Send a message; raises `DisconnectedError` if the pool is gone."""
        ...

    def receive(self) -> Any:
        """Wait for a job or an answer; raises `DisconnectedError` if the pool is gone."""
        ...


def serve(line: Line, runner: Runner[Any, Any]) -> None:
    """Do every job that arrives, until the pool is gone."""

    def ask(question: Any) -> Any:
        line.send(Asked(question))
        return line.receive()

    try:
        while True:
            job = line.receive()
            try:
                line.send(Done(runner.run(job, ask)))
            except DisconnectedError:
                raise
            except Exception as error:  # noqa: BLE001  # whatever a job raises is reported to the pool
                line.send(Raised.of(error))
                runner.close()  # what is open may be in a broken state
    except DisconnectedError:
        return
