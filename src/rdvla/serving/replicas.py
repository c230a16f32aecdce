"""Copies of a policy that answer at the same time: in a thread of this process, or in processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import cast

from rdvla import errors
from rdvla.errors import RDVLAError
from rdvla.serving.queries import Answer, PolicyFront, Query, ReplicaDiedError, ServedPolicy
from rdvla.serving.worker import Worker
from rdvla.workers.processes import LocalProcesses
from rdvla.workers.transport import Ask, Done, Link, Raised

LoadPolicy = Callable[[], ServedPolicy]


def open_replicas(
    load: LoadPolicy, *, count: int
) -> tuple[PolicyFront, Sequence[ThreadReplica | ProcessReplica]]:
    """Load a policy, several times if it is to answer several batches at the same time.

    A single replica is a thread of this process. Several are processes, as threads of one process wait for
    each other; `load` has to pickle then.

    Raises:
        RDVLAError: the policy cannot be loaded.
    """
    if count == 1:
        policy = load()
        return policy.front(), [ThreadReplica(policy)]
    started = []
    with ExitStack() as undo:
        for number in range(count):
            started.append(ProcessReplica(load, number=number))
            undo.callback(started[-1].stop)
        fronts = [replica.wait_until_loaded() for replica in started]
        undo.pop_all()
    return fronts[0], started


class ThreadReplica:
    """Runs a policy in a thread of this process; a `Replica`."""

    def __init__(self, policy: ServedPolicy) -> None:
        self._policy = policy
        self._worker = Worker(f"policy {policy.facts.name}")

    async def predict(self, queries: list[Query]) -> list[Answer]:
        """See `Replica.predict`."""
        return await self._worker.run(partial(self._policy.predict, queries))

    async def restart(self) -> None:
        """See `Replica.restart`; a thread does not die alone."""

    async def close(self) -> None:
        """See `Replica.close`."""
        self.stop()

    def stop(self) -> None:
        """End the thread after the batch that it computes; return at once."""
        self._worker.end()


class ProcessReplica:
    """Runs a policy in a process of its own; a `Replica`. It begins to load at once.

    Args:
        load: loads the policy, in that process.
        number: tells it from other replicas.
    """

    def __init__(self, load: LoadPolicy, *, number: int = 0) -> None:
        self._load, self._number = load, number
        self._processes = LocalProcesses()
        self._worker = Worker(f"replica {number}")
        self._changing = threading.Lock()  # a process may start or stop
        self._stopped = False
        self._link = self._start()

    def wait_until_loaded(self) -> PolicyFront:
        """Return the policy's front once it is loaded.

        Raises:
            RDVLAError: it cannot be loaded, or the process has died.
        """
        return cast("PolicyFront", self._receive())

    async def predict(self, queries: list[Query]) -> list[Answer]:
        """See `Replica.predict`."""
        return await self._worker.run(partial(self._predict, queries))

    async def restart(self) -> None:
        """See `Replica.restart`."""
        await self._worker.run(self._restart)

    async def close(self) -> None:
        """See `Replica.close`."""
        await asyncio.to_thread(self.stop)  # it takes a second if the process does not obey

    def stop(self) -> None:
        """End the process at once."""
        self._worker.end()
        with self._changing:
            self._stopped = True
            self._link.stop()

    def _start(self) -> Link:
        link = self._processes.start(self._number, _PolicyRunner(self._load))
        link.send(())  # a batch without queries asks for the front
        return link

    def _restart(self) -> None:
        with self._changing:
            if self._stopped:
                raise RDVLAError(f"replica {self._number} has been stopped")
            self._link.stop()
            self._link = self._start()
        self.wait_until_loaded()

    def _predict(self, queries: Sequence[Query]) -> list[Answer]:
        if self._processes.wait([self._link], timeout=0):  # it owes no message, so it has died
            raise ReplicaDiedError(f"replica {self._number}: {self._link.death()}", while_idle=True)
        self._link.send(tuple(queries))
        return cast("list[Answer]", self._receive())

    def _receive(self) -> object:
        message = self._link.receive()
        if isinstance(message, Done):
            return message.result
        if isinstance(message, Raised):
            raise _raised(message)
        raise ReplicaDiedError(f"replica {self._number}: {self._link.death()}")


class _PolicyRunner:
    """Loads a policy in a process, and answers batches there: a `Runner`."""

    def __init__(self, load: LoadPolicy) -> None:
        self._load = load
        self._policy: ServedPolicy | None = None

    def run(self, job: Sequence[Query], ask: Ask) -> PolicyFront | list[Answer]:
        """Answer queries; without any, return the policy's front."""
        del ask  # nothing is unclear
        if self._policy is None:
            self._policy = self._load()
        return self._policy.predict(job) if job else self._policy.front()

    def close(self) -> None:
        """Keep the policy: a query that it cannot answer leaves it as it is."""


def _raised(message: Raised) -> Exception:
    kind = getattr(errors, message.type, None)
    if isinstance(kind, type) and issubclass(kind, RDVLAError):
        return kind(message.message)
    return RuntimeError(f"{message.type} in a replica: {message.message}\n{message.traceback}")
