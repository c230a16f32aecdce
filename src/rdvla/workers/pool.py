"""One pool of workers for evaluations and demonstrations: jobs out, questions answered, deaths survived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Generic

from rdvla.workers.crew import Crew, NextJob, Worker
from rdvla.workers.ends import Failed, Finished, JobT, Later, Question, ResultT
from rdvla.workers.transport import Asked, Link, Raised, Runner, Transport

Answer = Callable[[Sequence[Question[JobT]]], Sequence[Any]]


def run_jobs(
    runner: Runner[JobT, ResultT],
    next_job: NextJob[JobT],
    *,
    transport: Transport | None,
    workers: int,
    answer: Answer[JobT] | None = None,
    retries: int = 0,
    silence_seconds: float | None = None,
) -> Iterator[Finished[JobT, ResultT] | Failed[JobT]]:
    """Yield how each job ended, until there is none left and none is running.

    A dead worker is replaced. All workers end with the iterator, and with this process. A job that waits for
    a worker to begin is done by another that has nothing left to do.

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
            Deaths of whole machines are no fault of a job: `rdvla.workers.crew.MACHINES_PER_JOB` are allowed.
        silence_seconds: after which a worker that gives no message counts as dead, as one that was stopped;
            None: wait for ever.

    Raises:
        RDVLAError: workers keep dying.
    """
    if transport is None:
        yield from _run_here(runner, next_job, answer)
        return
    with Crew(
        runner, transport=transport, workers=workers, retries=retries, silence_seconds=silence_seconds
    ) as crew:
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
        self._asked: list[tuple[Worker[JobT], Link | None, Question[JobT]]] = []
        self.seconds: float | None = None  # until they are asked again; None: there is none

    def add(self, worker: Worker[JobT], message: Asked) -> None:
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
