"""Workers as actors on a Ray cluster: a `Transport`.

A worker takes one job or answer at a time and gives one message back, so each exchange is one call of its
actor. Ray restarts none of them: the pool knows which job has to begin anew.
"""

from __future__ import annotations

import logging
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

from rdvla.errors import RDVLAError, optional
from rdvla.files import os_error_sentence, write_atomically
from rdvla.workers.actor import Place, WorkerActor, pickled, unpickled
from rdvla.workers.cluster import resources
from rdvla.workers.transport import Done, Link, Message, Raised, Runner

NOTICE_SECONDS = 10.0  # for which the cluster may have no room before that is said
ROOM_SECONDS = 1800.0  # after which a cluster without room ends the run
LONGEST_REASON = 160  # characters of what Ray says of a death
GLANCE_SECONDS = 1.0  # between looks at whether a worker has begun


@runtime_checkable
class WritesFiles(Protocol):
    """A runner whose jobs write files below a folder. A worker on another machine sends them back.

    Attributes:
        root: the folder.
    """

    root: Path

    def relocated(self, root: Path) -> Self:
        """Return a copy that writes below another folder, under the same names."""
        ...


@runtime_checkable
class ForgivesFiles(Protocol):
    """A runner whose results are good without their files."""

    def unwritten(self, result: Any, problem: str) -> Any:
        """Return a job's result with the note that its files could not be written."""
        ...


class RayWorkers:
    """Starts workers on whatever node has room, and waits for their messages: a `Transport`.

    This process has to be connected to the cluster (`rdvla.workers.choice`). While no worker has room, it
    waits: for `NOTICE_SECONDS` in silence, then it says so, and `ROOM_SECONDS` later it gives up.

    Args:
        cpus: of each worker.
        gpus: of each worker.
        room_seconds: instead of `ROOM_SECONDS`.
    """

    def __init__(self, *, cpus: float = 1.0, gpus: float = 0.0, room_seconds: float = ROOM_SECONDS) -> None:
        self._options = {"num_cpus": cpus, "num_gpus": gpus}
        self._room_seconds = room_seconds
        self._without_room: float | None = None  # since when no worker runs
        self._said = False

    def start(self, number: int, runner: Runner[Any, Any]) -> Link:
        """Ask for a worker; it begins once a node has room. The runner has to pickle."""
        del number  # its node and process say more
        return RayLink(runner, self._options)

    def wait(self, links: Sequence[Link], timeout: float | None = None) -> list[Link]:
        """Wait until a worker has a message or has died, at most `timeout` seconds; return all of these.

        Raises:
            RDVLAError: the cluster has had no room for any worker for too long.
        """
        import ray

        by_reference = {
            link.next: link for link in links if isinstance(link, RayLink) and link.next is not None
        }
        references = list(by_reference)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = GLANCE_SECONDS if end is None else end - time.monotonic()
            left = max(0.0, min(left, GLANCE_SECONDS))
            if not references:  # all wait for answers
                time.sleep(left)
            elif ready := ray.wait(references, timeout=left)[0]:
                self._without_room = None
                ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
                return [by_reference[reference] for reference in ready]
            self._check_room(links)
            if end is not None and time.monotonic() >= end:
                return []

    def _check_room(self, links: Sequence[Link]) -> None:
        if any(link.begun for link in links):
            self._without_room, self._said = None, False
            return
        if self._without_room is None:
            self._without_room = time.monotonic()
        seconds = time.monotonic() - self._without_room
        each = f"{self._options['num_cpus']:g} CPUs and {self._options['num_gpus']:g} GPUs"
        if seconds > self._room_seconds:
            raise RDVLAError(
                f"the Ray cluster has had no room for a worker for {seconds:.0f} s: each takes {each} of one "
                f"machine, and {resources()}. What is finished is kept: the same command goes on"
            )
        if seconds > NOTICE_SECONDS and not self._said:
            self._said = True
            logging.getLogger(__name__).warning(
                "waiting for room on the Ray cluster: each worker takes %s of one machine, and %s",
                each,
                resources(),
            )


class RayLink:
    """One worker on the cluster, as the pool sees it."""

    def __init__(self, runner: Runner[Any, Any], options: dict[str, float]) -> None:
        self._runner = runner
        self._actor = (
            _actor_class()
            .options(**options, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD")
            .remote(pickled(runner))
        )
        self._asked_where = self._actor.where.remote()
        self._place: Place | None = None
        self._reason = ""
        self.next: Any = None  # reference to its next message; None: it waits for the pool

    @property
    def begun(self) -> bool:
        """Whether the worker runs, or ran."""
        import ray

        if self._place is None and ray.wait([self._asked_where], timeout=0)[0]:
            with suppress(ray.exceptions.RayError):  # `receive` meets it as well
                self._place = ray.get(self._asked_where)
        return self._place is not None

    @property
    def machine_died(self) -> bool:
        """Whether the worker died with its node."""
        return self._place is not None and not any(
            node["Alive"] for node in _nodes() if node["NodeID"] == self._place.node
        )

    def send(self, content: Any) -> None:
        """Send a job or an answer."""
        self.next = self._actor.exchange.remote(pickled(content))

    def receive(self) -> Message | None:
        """Return the next message, with a finished job's files written; None if the worker has died."""
        import ray

        try:
            reference, self.next = self.next, None
            content, files = ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise  # a bug in the worker itself: jobs' exceptions arrive as messages
        except ray.exceptions.RayError as error:
            self._reason = _reason(error)
            return None
        message = cast("Message", unpickled(content))
        return self._keep(message, files) if files else message

    def death(self) -> str:
        """Say where the worker was and why it died."""
        where = "a worker that had not begun" if not self.begun or self._place is None else str(self._place)
        return f"{where}, died ({self._reason or 'it was stopped'})"

    def stop(self) -> None:
        """Kill the worker."""
        import ray

        with suppress(ray.exceptions.RayError):
            ray.kill(self._actor)

    def _keep(self, message: Message, files: Sequence[tuple[str, bytes]]) -> Message:
        assert isinstance(message, Done) and isinstance(self._runner, WritesFiles)
        try:
            for name, content in files:
                with write_atomically(self._runner.root / name) as temporary:
                    temporary.write_bytes(content)
        except OSError as error:
            problem = os_error_sentence(error)
            if isinstance(self._runner, ForgivesFiles):
                return Done(self._runner.unwritten(message.result, problem))
            return Raised(type(error).__name__, problem, "")
        return message


@cache
def _actor_class() -> Any:
    with optional("ray"):
        import ray

    return ray.remote(WorkerActor)


def _nodes() -> list[dict[str, Any]]:
    import ray

    return cast("list[dict[str, Any]]", ray.nodes())  # type: ignore[no-untyped-call]


def _reason(error: Exception) -> str:
    """The last line of what Ray says, which holds the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return textwrap.shorten(lines[-1], LONGEST_REASON, placeholder=" ...") if lines else type(error).__name__
