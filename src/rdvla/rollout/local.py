"""Episodes whose policy runs in this process; the simulators run in workers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack

from rdvla.control import DepthJudge
from rdvla.rollout.attendance import Attendance, AttendedAnswers
from rdvla.rollout.episode import Environment, MakeEnvironment
from rdvla.rollout.jobs import Batching, EpisodeJob, Schedule
from rdvla.rollout.queries import MakeJudge, Policy, Queries, Spectator, Watch
from rdvla.rollout.worker import (
    RETRIES,
    SILENCE_SECONDS,
    EpisodeResult,
    EpisodeRunner,
    Outcome,
    Reply,
)
from rdvla.workers.ends import Failed, Finished, Later, Question
from rdvla.workers.pool import run_jobs
from rdvla.workers.processes import LocalProcesses
from rdvla.workers.transport import Transport

AT_ONCE = Later(0.0)  # after those that have waited longer


def roll_out(
    policy: Policy,
    jobs: Sequence[EpisodeJob],
    *,
    make: MakeEnvironment[Environment],
    workers: int,
    transport: Transport | None = None,
    watch: Watch | None = None,
    spectator: Spectator | None = None,
    attendance: Attendance | None = None,
    make_judge: MakeJudge = DepthJudge,
    batching: Batching = "single",
) -> Generator[Outcome, None, None]:
    """Run all jobs, task by task (see `Schedule`), and yield each outcome as it comes.

    An exception inside an episode is its outcome. If its worker dies, or is silent for `SILENCE_SECONDS`, the
    episode is played again, up to `RETRIES` times. An exception of the policy ends the rollout.

    Args:
        policy: gives the actions.
        jobs: the episodes.
        make: build a simulator in a worker.
        workers: how many.
        transport: starts them; processes on this machine if not given.
        watch: sees every query.
        spectator: sees every query with its answer, and every end.
        attendance: lets a person step in; None: the policy alone acts.
        make_judge: makes what judges the queries of an episode.
        batching: whether queries are computed alone or together, see `rdvla.rollout.queries`.
    """
    queries = Queries(policy, watch=watch, spectator=spectator, make_judge=make_judge, batching=batching)
    with ExitStack() as closing:
        answers: _Answers | AttendedAnswers = _Answers(queries)
        if attendance is not None:
            answers = AttendedAnswers(queries, attendance)
            closing.callback(answers.close)
        recording = None if attendance is None else attendance.recording
        ends = run_jobs(
            EpisodeRunner(
                make,
                attended=attendance is not None,
                make_recorder=None if recording is None else recording.make_recorder,
            ),
            Schedule(jobs).next_job,
            transport=transport or LocalProcesses(),
            workers=max(1, min(workers, len(jobs))),
            answer=answers,
            retries=RETRIES,
            silence_seconds=SILENCE_SECONDS,
        )
        for end in ends:
            yield Outcome(end, answers.end(end))


class _Answers:
    """Answers the workers that wait: all at once, or the first alone if nothing is gained by that."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def __call__(self, questions: Sequence[Question[EpisodeJob]]) -> list[Reply | Later]:
        """Answer the questions that have waited longest, so their simulators go on."""
        now = questions[:1] if self._queries.one_at_a_time else questions
        for question in now:
            if question.number == 0:
                self._queries.begin(question.job)
        asked = [self._queries.ask(question.job, question.content) for question in now]
        replies: list[Reply | Later] = []
        for query, computed in zip(asked, self._queries.compute(asked), strict=True):
            self._queries.note(query, computed)
            replies.append(self._queries.act(query.job))
        return replies + [AT_ONCE] * (len(questions) - len(now))

    def end(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> list[int]:
        """See `Queries.end`."""
        return self._queries.end(end)
