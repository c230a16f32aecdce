"""The worker processes of a rollout: started, listened to, replaced when one dies, and closed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import connection as mpc
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Self

from rdvla.errors import RDVLAError
from rdvla.evaluation.environment import MakeEnvironment
from rdvla.evaluation.messages import Failed, Finished, Job, Place, Query, Reply
from rdvla.evaluation.worker import serve

DEATHS_PER_WORKER = 3  # more than that and the run stops: something is wrong beyond one episode


class Worker:
    """One process and the parent's end of its pipe."""

    def __init__(self, number: int, make: MakeEnvironment) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the state of torch's threads
        self.number = number
        self.job: Job | None = None
        self.place: Place | None = None  # what its last episode played, and it therefore has open
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=serve, args=(theirs, make), name=f"rdvla-environment-{number}", daemon=True
        )
        self.process.start()
        theirs.close()  # so that the end of the process is seen as the end of the pipe

    def start(self, job: Job) -> None:
        """Send an episode to play."""
        self.job, self.place = job, job.place
        self._send(job)

    def reply(self, reply: Reply) -> None:
        """Send the actions that its query asked for."""
        self._send(reply)

    def _send(self, message: Job | Reply) -> None:
        with suppress(BrokenPipeError, ConnectionError):  # it died: the next receive says so
            self.connection.send(message)

    def receive(self) -> Query | Finished | Failed | None:
        """The next message, or None when the process has died."""
        try:
            message: Query | Finished | Failed = self.connection.recv()
        except (EOFError, ConnectionError):
            return None
        return message

    def stop(self) -> None:
        """End the process; it gets no chance to finish its episode."""
        self.connection.close()
        self.process.terminate()
        self.process.join()


class WorkerPool:
    """A fixed number of workers; use as a context manager."""

    def __init__(self, *, workers: int, make: MakeEnvironment) -> None:
        self._make = make
        self._deaths = 0
        self._allowed_deaths = DEATHS_PER_WORKER * workers
        self.workers = [Worker(number, make) for number in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.stop()

    def ready(self) -> Iterator[tuple[Worker, Query | Finished | Failed]]:
        """Wait until a busy worker has something to say; yield everything that has been said by then.

        A worker that died is replaced, and its episode is reported as `Failed`.

        Raises:
            RDVLAError: workers keep dying.
        """
        busy = {worker.connection: worker for worker in self.workers if worker.job is not None}
        for connection in mpc.wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            message = worker.receive()
            if message is None:
                yield self._replace(worker)
            else:
                yield worker, message

    def _replace(self, dead: Worker) -> tuple[Worker, Failed]:
        dead.process.join()
        assert dead.job is not None
        told = (
            f"environment worker {dead.number} (process {dead.process.pid}) died with exit code "
            f"{dead.process.exitcode} while playing {dead.job.task} with seed {dead.job.seed}"
        )
        dead.stop()
        self._deaths += 1
        if self._deaths > self._allowed_deaths:
            raise RDVLAError(
                f"{told}; {self._deaths} workers have died, so the evaluation stops. "
                "Finished episodes are kept: run the same command again to go on, "
                "with fewer workers if memory ran out"
            )
        fresh = Worker(dead.number, self._make)
        fresh.job = dead.job
        self.workers[self.workers.index(dead)] = fresh
        return fresh, Failed("WorkerDied", told, "")
