"""Episodes whose policy runs in this process; the simulators run in workers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rdvla.control import DepthJudge
from rdvla.rollout.attendance import Attendance, AttendedAnswers
from rdvla.rollout.episode import Environment, MakeEnvironment
from rdvla.rollout.jobs import EpisodeJob, Schedule
from rdvla.rollout.queries import MakeJudge, Policy, Queries, Spectator, Watch, by_setting
from rdvla.rollout.worker import (
    RETRIES,
    SILENCE_SECONDS,
    EpisodeResult,
    EpisodeRunner,
    Outcome,
    Reply,
)
from rdvla.workers.ends import Failed, Finished, Question
from rdvla.workers.pool import run_jobs
from rdvla.workers.processes import LocalProcesses
from rdvla.workers.transport import Transport


def roll_out(
    policy: Policy,
    jobs: Sequence[EpisodeJob],
    *,
    make: MakeEnvironment[Environment],
    workers: int,
    folder: Path = Path(),
    transport: Transport | None = None,
    watch: Watch | None = None,
    spectator: Spectator | None = None,
    attendance: Attendance | None = None,
    make_judge: MakeJudge = DepthJudge,
) -> Generator[Outcome, None, None]:
    """Run all jobs, task by task (see `Schedule`), and yield each outcome as it comes.

    An exception inside an episode is its outcome. If its worker dies, or is silent for `SILENCE_SECONDS`, the
    episode is played again, up to `RETRIES` times. An exception of the policy ends the rollout.

    Args:
        policy: gives the actions.
        jobs: the episodes.
        make: build a simulator in a worker.
        workers: how many.
        folder: that all videos lie in; the present one if not given.
        transport: starts them; processes on this machine if not given.
        watch: sees every query.
        spectator: sees every query with its answer, and every end.
        attendance: lets a person step in; None: the policy alone acts.
        make_judge: makes what judges the queries of an episode.
    """
    queries = Queries(policy, watch=watch, spectator=spectator, make_judge=make_judge)
    with ExitStack() as closing:
        answers: _Answers | AttendedAnswers = _Answers(queries)
        if attendance is not None:
            answers = AttendedAnswers(queries, attendance)
            closing.callback(answers.close)
        recording = None if attendance is None else attendance.recording
        ends = run_jobs(
            EpisodeRunner(
                make,
                root=folder,
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
    """Answers every worker that waits, at once."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def __call__(self, questions: Sequence[Question[EpisodeJob]]) -> list[Reply]:
        """Answer in a batch per setting."""
        for question in questions:
            if question.number == 0:
                self._queries.begin(question.job)
        replies: dict[int, Reply] = {}
        for group in by_setting([question.job for question in questions]):
            asked = [self._queries.ask(questions[index].job, questions[index].content) for index in group]
            for index, query, computed in zip(group, asked, self._queries.compute(asked), strict=True):
                self._queries.note(query, computed)
                replies[index] = self._queries.act(query.job)
        return [replies[index] for index in range(len(questions))]

    def end(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> list[int]:
        """See `Queries.end`."""
        return self._queries.end(end)
