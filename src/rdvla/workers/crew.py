"""The workers of a pool: who does which job, and what happens when one of them dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self

from rdvla.errors import RDVLAError
from rdvla.workers.ends import WORKER_DIED, Failed, Finished, JobT, Question
from rdvla.workers.transport import Asked, Done, Link, Message, Raised, Runner, Transport

DEATHS_PER_WORKER = 3  # without a job that ended in between; beyond that more than one job is at fault
MACHINES_PER_JOB = 10  # that may die under a job before it has failed

NextJob = Callable[[JobT | None], JobT | None]


class Worker(Generic[JobT]):
    """A position in the crew; its link is replaced when the worker behind it dies.

    Attributes:
        deaths: of workers that ran the present job, on machines that live.
        machines: that died under the present job.
        since: when its answer or message became due (`time.monotonic()`); None: it waits for the pool.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None
        self.job: JobT | None = None
        self.last: JobT | None = None
        self.deaths = 0
        self.machines = 0
        self.since: float | None = None
        self._asked = 0

    def start(self, job: JobT, link: Link) -> None:
        """Do a job, from its beginning."""
        self.link, self.job, self._asked = link, job, 0
        self.send(job)

    def send(self, content: Any) -> None:
        """Send a job or an answer; the worker's next message is due then."""
        if self.link is not None:
            self.link.send(content)
            self.since = time.monotonic()

    def question(self, message: Asked) -> Question[JobT]:
        """Number a question."""
        assert self.job is not None
        question = Question(self.job, message.question, self._asked)
        self._asked += 1
        return question

    def end(self, message: Done | Raised) -> Finished[JobT, Any] | Failed[JobT]:
        """Say how the job ended."""
        assert self.job is not None
        job, self.last = self.job, self.job
        self.give_up()
        if isinstance(message, Done):
            return Finished(job, message.result)
        return Failed(job, message.type, message.message, message.traceback)

    def give_up(self) -> None:
        """Have no job."""
        self.job, self.deaths, self.machines, self.since = None, 0, 0, None


class Crew(Generic[JobT]):
    """The workers, started when they first get a job and stopped at the end of the `with` block."""

    def __init__(
        self,
        runner: Runner[JobT, Any],
        *,
        transport: Transport,
        workers: int,
        retries: int,
        silence_seconds: float | None = None,
    ) -> None:
        self._runner, self._transport, self._retries = runner, transport, retries
        self._silence = silence_seconds
        self._workers: list[Worker[JobT]] = [Worker(number) for number in range(workers)]
        self._deaths = 0  # since a job ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            if worker.link is not None:
                worker.link.stop()

    @property
    def busy(self) -> bool:
        """Whether anybody has a job."""
        return any(worker.job is not None for worker in self._workers)

    def hand_out(self, next_job: NextJob[JobT]) -> None:
        """Give every idle worker a job: a new one, or one whose own worker has not begun."""
        for worker in self._workers:
            if worker.job is not None:
                continue
            if (job := next_job(worker.last)) is not None:
                self._start(worker, job)
            elif worker.link is not None and worker.link.begun:
                self._take_over(worker)

    def listen(self, timeout: float | None = None) -> Iterator[tuple[Worker[JobT], Message]]:
        """Wait until a busy worker has a message, or some seconds; yield all messages that are there then."""
        busy = [
            (worker, worker.link)
            for worker in self._workers
            if worker.job is not None and worker.link is not None
        ]
        ready = self._transport.wait([link for _, link in busy], self._soonest(timeout))
        for worker, link in busy:
            if any(link is other for other in ready):
                worker.since = None
                message = link.receive() or self._bury(worker, link)
            else:
                message = self._bury(worker, link, silent=True) if self._is_silent(worker, link) else None
            if isinstance(message, Done) or (isinstance(message, Raised) and message.type != WORKER_DIED):
                self._deaths = 0
            if message is not None:
                yield worker, message

    def _soonest(self, timeout: float | None) -> float | None:
        """Return the seconds until a worker has been silent for too long, or `timeout` if that is sooner."""
        due = [worker.since for worker in self._workers if worker.since is not None]
        if self._silence is None or not due:
            return timeout
        left = max(0.0, min(due) + self._silence - time.monotonic())
        return left if timeout is None else min(left, timeout)

    def _is_silent(self, worker: Worker[JobT], link: Link) -> bool:
        now = time.monotonic()
        if self._silence is None or worker.since is None or now - worker.since < self._silence:
            return False
        if not link.begun:
            worker.since = now
        return link.begun

    def _start(self, worker: Worker[JobT], job: JobT) -> None:
        worker.start(job, worker.link or self._transport.start(worker.number, self._runner))

    def _take_over(self, worker: Worker[JobT]) -> None:
        """Do the job of a worker that has not begun, such as on a cluster without room."""
        for other in self._workers:
            if other.job is not None and other.link is not None and not other.link.begun:
                other.link.stop()
                other.link = None
                job, worker.deaths, worker.machines = other.job, other.deaths, other.machines
                other.give_up()
                self._start(worker, job)
                return

    def _bury(self, worker: Worker[JobT], dead: Link, *, silent: bool = False) -> Raised | None:
        """Remove a dead worker and start its job again; return its failure if it may not begin anew."""
        assert worker.job is not None
        if silent:
            dead.stop()  # first: a stopped process does not die by itself
        report = f"worker {worker.number}, {dead.death()} while {worker.job.describe()}"
        if silent:
            report += f", as it had been silent for {self._silence:g} s"
        dead.stop()
        worker.link = None
        if dead.machine_died:
            worker.machines += 1
        else:
            worker.deaths += 1
            self._deaths += 1
        if self._deaths > DEATHS_PER_WORKER * len(self._workers):
            raise RDVLAError(
                f"{report}; {self._deaths} workers have died, so this stops. What is finished is kept: "
                "run the same command again to go on, with fewer workers if memory ran out"
            )
        if worker.deaths > self._retries or worker.machines > MACHINES_PER_JOB:
            return Raised(WORKER_DIED, report, "")
        self._start(worker, worker.job)
        return None
