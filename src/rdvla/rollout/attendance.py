"""Who acts in an episode that somebody attends: the policy, or the person who has taken over.

An attended episode asks before every step. One that is paused, or driven, holds up no other: its answer comes
later, and the policy computes in a thread of its own. It keeps predicting while a person drives, so that a
recording shows what it wanted. If nobody steps in, an episode plays as if it were not attended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rdvla.control import Desk, Place
from rdvla.rollout.attended import MakeRecorder, Present
from rdvla.rollout.episode import Origin
from rdvla.rollout.jobs import EpisodeJob
from rdvla.rollout.queries import Answered, Asked, Computed, Queries, by_setting
from rdvla.rollout.worker import EpisodeResult, Reply
from rdvla.workers.ends import Failed, Finished, Later, Question

WHILE_PAUSED = Later(0.05)  # a person notices no delay as short as this
WHILE_COMPUTING = Later(0.002)


@dataclass(frozen=True)
class Recording:
    """How attended episodes become a dataset."""

    make_recorder: MakeRecorder
    numbers: Iterator[int]  # of the dataset's episodes, each once
    autonomous: bool = False  # whole episodes; False: only what a person drives, each time as an episode


@dataclass(frozen=True)
class Attendance:
    """Where episodes ask who acts, and whether they are recorded.

    Episodes are robots at the desk, from their first prediction to their end.
    """

    desk: Desk
    recording: Recording | None = None


@dataclass
class _Attended:
    """An episode in progress."""

    first: Question[EpisodeJob]  # that it asked
    wish: Answered | None = None  # the policy's newest answer
    step: int = 0  # environment steps before the observation that it answers
    asked: Asked | None = None  # a newer query, whose answer is on its way
    is_driven: bool = False  # a person acted last
    recorded_as: int | None = None

    def covers(self, step: int) -> bool:
        """Whether the policy's chunk says what it wanted at a step."""
        return self.wish is not None and 0 <= step - self.step < len(self.wish.prediction.actions)


class AttendedAnswers:
    """Answers attended episodes, each as the desk says; see `run_jobs`."""

    def __init__(self, queries: Queries, attendance: Attendance) -> None:
        self._queries, self._desk, self._recording = queries, attendance.desk, attendance.recording
        self._episodes: dict[EpisodeJob, _Attended] = {}
        self._waiting: list[tuple[Asked, int]] = []  # queries for the next batch, with their steps
        self._batch: list[tuple[Asked, int]] = []  # that is being computed
        self._computing: Future[list[Computed]] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rdvla-policy")

    def __call__(self, questions: Sequence[Question[EpisodeJob]]) -> list[Any]:
        """Answer what can be answered now; the rest gets `Later`."""
        self._collect()
        replies: list[Any] = [None] * len(questions)
        for group in by_setting([question.job for question in questions]):
            for index in group:
                replies[index] = self._answer(questions[index])
        if self._computing is None and self._waiting:
            self._batch, self._waiting = self._waiting, []
            self._computing = self._thread.submit(self._queries.compute, [asked for asked, _ in self._batch])
        return replies

    def end(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> list[int]:
        """See `Queries.end`."""
        depths = self._queries.end(end)
        self._forget(end.job)
        return depths

    def close(self) -> None:
        """Wait for the policy."""
        self._thread.shutdown(cancel_futures=True)

    def _answer(self, question: Question[EpisodeJob]) -> Reply | Later | bool:
        job, present = question.job, question.content
        if question.number == 0:
            self._begin(question)
        place = self._desk.look(job.robot)
        if place.phase == "paused":
            return WHILE_PAUSED
        if present.observation is None:
            return place.phase == "autonomous"
        episode = self._episodes[job]
        if place.phase == "correcting":
            return self._drive(job, episode, present, place)
        return self._let_go(job, episode, present)

    def _begin(self, question: Question[EpisodeJob]) -> None:
        job = question.job
        if (known := self._episodes.get(job)) is not None:
            if known.first is question:  # it was answered with `Later`, and comes again
                return
            self._forget(job)  # it begins anew after its worker's death
        self._queries.begin(job)
        whole = self._recording is not None and self._recording.autonomous
        self._episodes[job] = _Attended(question, recorded_as=self._new_number() if whole else None)

    def _forget(self, job: EpisodeJob) -> None:
        """An answer that is still on its way finds nobody."""
        self._episodes.pop(job, None)
        self._waiting = [(asked, step) for asked, step in self._waiting if asked.job != job]
        self._desk.remove(job.robot)

    def _let_go(self, job: EpisodeJob, episode: _Attended, present: Present) -> Reply | Later:
        """The policy acts, by an answer to the present observation."""
        if episode.is_driven:
            episode.is_driven = False
            self._queries.interrupt(job)
            if self._recording is not None and not self._recording.autonomous:
                episode.recorded_as = None
        if episode.wish is None or episode.step != present.step or episode.asked is not None:
            self._want(job, episode, present)
            return WHILE_COMPUTING
        reply = self._queries.act(job)
        return replace(reply, origin=self._origin(episode, episode.wish, present, count=len(reply.actions)))

    def _drive(self, job: EpisodeJob, episode: _Attended, present: Present, place: Place) -> Reply | Later:
        """The person acts, for one step; what the policy wants there must be known."""
        assert present.observation is not None
        if not episode.is_driven:
            episode.is_driven = True
            self._queries.interrupt(job)
            if self._recording is not None and not self._recording.autonomous:
                episode.recorded_as = self._new_number()
        if not episode.covers(present.step):
            self._want(job, episode, present)
            return WHILE_COMPUTING
        wish = episode.wish
        assert wish is not None
        if present.step - episode.step >= max(1, wish.execute_steps // 2):
            self._want(job, episode, present)  # so the next answer is there before this chunk ends
        self._queries.driven(job, present.observation)
        origin = self._origin(episode, wish, present, count=1, place=place)
        action = place.command
        if action is None:
            action = np.zeros_like(origin.policy_actions[0]) if present.still is None else present.still
        return Reply(action[None], origin.depth, origin)

    def _origin(
        self, episode: _Attended, wish: Answered, present: Present, *, count: int, place: Place | None = None
    ) -> Origin:
        """Describe `count` actions; of the person who drives if there is a place."""
        first = present.step - episode.step
        return Origin(
            intervention=place is not None,
            cause=None if place is None else place.trigger,
            policy_actions=np.asarray(wish.prediction.actions[first : first + count], dtype=np.float32),
            depth=int(wish.prediction.depth),
            uncertainty=wish.judgement.uncertainty,
            help_requested=wish.judgement.help_requested,
            recorded_as=episode.recorded_as,
        )

    def _want(self, job: EpisodeJob, episode: _Attended, present: Present) -> None:
        """Ask the policy about the present, unless an answer is on its way."""
        if episode.asked is None and present.observation is not None:
            episode.asked = self._queries.ask(job, present.observation)
            self._waiting.append((episode.asked, present.step))

    def _collect(self) -> None:
        """Take the answers that are there."""
        if self._computing is None or not self._computing.done():
            return
        for (asked, step), computed in zip(self._batch, self._computing.result(), strict=True):
            episode = self._episodes.get(asked.job)
            if episode is None or episode.asked is not asked:  # it has ended, or begun anew
                continue
            if asked.number == 0:
                self._desk.add(asked.job.robot, action_dim=computed.prediction.actions.shape[-1])
            episode.wish, episode.step = self._queries.note(asked, computed), step
            episode.asked = None
        self._computing = None

    def _new_number(self) -> int:
        assert self._recording is not None
        return next(self._recording.numbers)
