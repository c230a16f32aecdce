"""One pool of workers for evaluations and demonstrations: jobs out, questions answered, deaths survived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from rdvla.errors import RDVLAError
from rdvla.workers.transport import Asked, Done, Link, Message, Raised, Runner, Transport

WORKER_DIED = "WorkerDied"  # the `type` of a failure that was no exception
DEATHS_PER_WORKER = 3  # beyond that the run stops: more than one job is at fault


class Job(Protocol):
    """What a worker is to do."""

    def describe(self) -> str:
        """Say what the worker is doing, for messages: ``playing push-v3 with seed 3``."""
        ...


JobT = TypeVar("JobT", bound=Job)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Question(Generic[JobT]):
    """What a job asks while it runs."""

    job: JobT
    content: Any
    number: int  # questions the job asked before; 0 again if it begins anew after a death


@dataclass(frozen=True)
class Finished(Generic[JobT, ResultT]):
    """A job that ran to its end."""

    job: JobT
    result: ResultT


@dataclass(frozen=True)
class Failed(Generic[JobT]):
    """A job that an exception or its worker's death ended."""

    job: JobT
    type: str  # of the exception, or `WORKER_DIED`
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Later:
    """In place of an answer: there is none yet, ask again."""

    seconds: float  # after these at the latest; sooner if another worker has a message


NextJob = Callable[[JobT | None], JobT | None]
Answer = Callable[[Sequence[Question[JobT]]], Sequence[Any]]


def run_jobs(
    runner: Runner[JobT, ResultT],
    next_job: NextJob[JobT],
    *,
    transport: Transport | None,
    workers: int,
    answer: Answer[JobT] | None = None,
    retries: int = 0,
) -> Iterator[Finished[JobT, ResultT] | Failed[JobT]]:
    """Yield how each job ended, until there is none left and none is running.

    A dead worker is replaced. All workers end with the iterator, and with this process.

    Args:
        runner: does the jobs; every worker gets a copy.
        next_job: return a job that was not given out before, or None, for a worker whose last job is the
            argument. A worker can thus continue with what it has open. It is asked again after the caller has
            consumed a result, which may bring new jobs.
        transport: starts the workers; None runs the jobs in this process, one after the other.
        workers: how many.
        answer: answer all questions that are waiting, in their order. Needed if jobs ask any. A question that
            gets `Later` waits on, and its worker with it, while the others go on.
        retries: how often a job begins anew on a fresh worker after its worker died, before it has failed.

    Raises:
        RDVLAError: workers keep dying.
    """
    if transport is None:
        yield from _run_here(runner, next_job, answer)
        return
    with _Crew(runner, transport=transport, workers=workers, retries=retries) as crew:
        crew.hand_out(next_job)
        waiting = _Waiting[JobT]()
        while crew.busy:
            for worker, message in crew.listen(waiting.seconds):
                if isinstance(message, Asked):
                    waiting.add(worker, message)
                else:
                    yield worker.end(message)
            crew.hand_out(next_job)
            waiting.answer(answer)


class _Waiting(Generic[JobT]):
    """The questions that have no answer yet."""

    def __init__(self) -> None:
        self._asked: list[tuple[_Worker[JobT], Link | None, Question[JobT]]] = []
        self.seconds: float | None = None  # until they are asked again; None: there is none

    def add(self, worker: _Worker[JobT], message: Asked) -> None:
        self._asked.append((worker, worker.link, worker.question(message)))

    def answer(self, answer: Answer[JobT] | None) -> None:
        """Send the answers that there are."""
        # Whoever died while it waited has another link by now, or none.
        asked = [entry for entry in self._asked if entry[1] is entry[0].link]
        self._asked, self.seconds = [], None
        if not asked:
            return
        answers = _answers(answer, [question for _, _, question in asked])
        for entry, reply in zip(asked, answers, strict=True):
            if isinstance(reply, Later):
                self._asked.append(entry)
                self.seconds = min(reply.seconds, reply.seconds if self.seconds is None else self.seconds)
            else:
                entry[0].send(reply)


def _answers(answer: Answer[JobT] | None, questions: Sequence[Question[JobT]]) -> Sequence[Any]:
    if answer is None:
        raise TypeError("the jobs ask questions: run_jobs needs an answer function")
    return answer(questions)


def _run_here(
    runner: Runner[JobT, ResultT], next_job: NextJob[JobT], answer: Answer[JobT] | None
) -> Iterator[Finished[JobT, ResultT] | Failed[JobT]]:
    last: JobT | None = None
    try:
        while (job := next_job(last)) is not None:
            yield _run_one(runner, job, answer)
            last = job
    finally:
        runner.close()


def _run_one(
    runner: Runner[JobT, ResultT], job: JobT, answer: Answer[JobT] | None
) -> Finished[JobT, ResultT] | Failed[JobT]:
    numbers = count()

    def ask(content: Any) -> Any:
        question = Question(job, content, next(numbers))
        while isinstance(reply := _answers(answer, [question])[0], Later):
            time.sleep(reply.seconds)
        return reply

    try:
        return Finished(job, runner.run(job, ask))
    except Exception as error:  # noqa: BLE001  # as in a worker
        raised = Raised.of(error)
        runner.close()
        return Failed(job, raised.type, raised.message, raised.traceback)


class _Worker(Generic[JobT]):
    """A position in the crew; its link is replaced when the worker behind it dies."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.link: Link | None = None
        self.job: JobT | None = None
        self.last: JobT | None = None
        self.deaths = 0  # of workers that ran the present job
        self._asked = 0

    def start(self, job: JobT, link: Link) -> None:
        self.link, self.job, self._asked = link, job, 0
        link.send(job)

    def send(self, reply: Any) -> None:
        if self.link is not None:
            self.link.send(reply)

    def question(self, message: Asked) -> Question[JobT]:
        assert self.job is not None
        question = Question(self.job, message.question, self._asked)
        self._asked += 1
        return question

    def end(self, message: Done | Raised) -> Finished[JobT, Any] | Failed[JobT]:
        assert self.job is not None
        job, self.last, self.job, self.deaths = self.job, self.job, None, 0
        if isinstance(message, Done):
            return Finished(job, message.result)
        return Failed(job, message.type, message.message, message.traceback)


class _Crew(Generic[JobT]):
    """The workers, started when they first get a job and stopped at the end of the `with` block."""

    def __init__(
        self, runner: Runner[JobT, Any], *, transport: Transport, workers: int, retries: int
    ) -> None:
        self._runner, self._transport, self._retries = runner, transport, retries
        self._workers: list[_Worker[JobT]] = [_Worker(number) for number in range(workers)]
        self._deaths = 0

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
        return any(worker.job is not None for worker in self._workers)

    def hand_out(self, next_job: NextJob[JobT]) -> None:
        """Give every idle worker a job, if there is one."""
        for worker in self._workers:
            if worker.job is None and (job := next_job(worker.last)) is not None:
                self._start(worker, job)

    def listen(self, timeout: float | None = None) -> Iterator[tuple[_Worker[JobT], Message]]:
        """Wait until a busy worker has a message, or some seconds; yield all messages that are there then."""
        busy = [
            (worker, worker.link)
            for worker in self._workers
            if worker.job is not None and worker.link is not None
        ]
        ready = self._transport.wait([link for _, link in busy], timeout)
        for worker, link in busy:
            if not any(link is other for other in ready):
                continue
            message = link.receive()
            if message is None:
                message = self._bury(worker, link)
            if message is not None:
                yield worker, message

    def _start(self, worker: _Worker[JobT], job: JobT) -> None:
        worker.start(job, worker.link or self._transport.start(worker.number, self._runner))

    def _bury(self, worker: _Worker[JobT], dead: Link) -> Raised | None:
        """Remove a dead worker and start its job again; return its failure if it may not begin anew."""
        assert worker.job is not None
        report = f"worker {worker.number}, {dead.death()} while {worker.job.describe()}"
        dead.stop()
        worker.link = None
        worker.deaths += 1
        self._deaths += 1
        if self._deaths > DEATHS_PER_WORKER * len(self._workers):
            raise RDVLAError(
                f"{report}; {self._deaths} workers have died, so this stops. What is finished is kept: "
                "run the same command again to go on, with fewer workers if memory ran out"
            )
        if worker.deaths > self._retries:
            return Raised(WORKER_DIED, report, "")
        self._start(worker, worker.job)
        return None
