"""The policy's side of many episodes: a predict call answers every worker that waits.

The starting state S_0 of a query is drawn from the episode's task, seed and query number. So an episode plays
the same whoever shares its batch, and all settings see the same layouts and the same S_0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rdvla.control import Session, Stops, parse_execution, split_start
from rdvla.rollout.episode import Environment, MakeEnvironment
from rdvla.rollout.jobs import EpisodeJob, Schedule, Setting, starting_seed
from rdvla.rollout.pool import Failed, Finished, Question, run_jobs
from rdvla.rollout.processes import LocalProcesses
from rdvla.rollout.transport import Transport
from rdvla.rollout.worker import EpisodeResult, EpisodeRunner, Outcome, Reply
from rdvla.types import Observation, Prediction


class Policy(Protocol):
    """What a rollout needs of a policy."""

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw S_0, (B, K, D)."""
        ...

    def predict(
        self,
        observation: Observation,
        *,
        stop: Stops | None = None,
        initial_state: Tensor | None = None,
    ) -> Prediction:
        """Return action chunks in the robot's units."""
        ...


# Called with the setting, the observation (a single one) and S_0 (1, K, D) of every query.
Watch = Callable[[Setting, Observation, Tensor], None]


@dataclass(frozen=True)
class Answered:
    """A query of an episode, and what the policy made of it."""

    job: EpisodeJob
    number: int  # queries of the episode before it
    observation: Observation  # a single one
    prediction: Prediction  # a single one, in the robot's units; its actions are numpy
    execute_steps: int  # actions to execute before the next query
    waiting_ms: float  # until its batch began
    inference_ms: float  # of its batch
    batch_size: int


class Spectator(Protocol):
    """Is told what happens in the episodes as it happens; it must not take long."""

    def answered(self, query: Answered) -> None:
        """See a query that has been answered."""
        ...

    def ended(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> None:
        """See how an episode ended."""
        ...


@dataclass
class _Episode:
    """An episode in progress."""

    session: Session
    depths: list[int] = field(default_factory=list)


def roll_out(
    policy: Policy,
    jobs: Sequence[EpisodeJob],
    *,
    make: MakeEnvironment[Environment],
    workers: int,
    transport: Transport | None = None,
    watch: Watch | None = None,
    spectator: Spectator | None = None,
) -> Iterator[Outcome]:
    """Run all jobs, task by task (see `Schedule`), and yield each outcome as it comes.

    An exception inside an episode is its outcome. An exception of the policy ends the rollout.

    Args:
        policy: gives the actions.
        jobs: the episodes.
        make: build a simulator in a worker.
        workers: how many.
        transport: starts them; processes on this machine if not given.
        watch: sees every query.
        spectator: sees every query with its answer, and every end.
    """
    answers = _Answers(policy, watch, spectator)
    ends = run_jobs(
        EpisodeRunner(make),
        Schedule(jobs).next_job,
        transport=transport or LocalProcesses(),
        workers=max(1, min(workers, len(jobs))),
        answer=answers,
    )
    for end in ends:
        yield answers.outcome(end)


class _Answers:
    """Answers queries, with a session per episode."""

    def __init__(self, policy: Policy, watch: Watch | None, spectator: Spectator | None) -> None:
        self._policy, self._watch, self._spectator = policy, watch, spectator
        self._episodes: dict[EpisodeJob, _Episode] = {}

    def __call__(self, questions: Sequence[Question[EpisodeJob]]) -> list[Reply]:
        """Answer with a predict call per setting; workers at different tasks may differ in it."""
        asked = time.perf_counter()
        groups: dict[Setting, list[int]] = {}
        for index, question in enumerate(questions):
            groups.setdefault(question.job.setting, []).append(index)
            if question.number == 0:
                self._episodes[question.job] = _begin(question.job.setting)
        replies: dict[int, Reply] = {}
        for setting, group in groups.items():
            replies |= zip(
                group, self._answer(setting, [questions[index] for index in group], asked), strict=True
            )
        return [replies[index] for index in range(len(questions))]

    def outcome(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> Outcome:
        """Return how an episode went, and forget it."""
        episode = self._episodes.pop(end.job, None)
        if self._spectator is not None:
            self._spectator.ended(end)
        return Outcome(end, [] if episode is None else episode.depths)

    def _answer(self, setting: Setting, group: Sequence[Question[EpisodeJob]], asked: float) -> list[Reply]:
        stop, _ = split_start(setting.stop)
        states = [self._initial_state(question) for question in group]
        if self._watch is not None:
            for question, state in zip(group, states, strict=True):
                self._watch(setting, question.content, state)
        begun = time.perf_counter()
        prediction = self._policy.predict(
            Observation.collate([question.content for question in group]).torch(),
            stop=stop,
            initial_state=torch.cat(states),
        )
        prediction = replace(prediction, actions=prediction.actions.float().cpu().numpy())
        inference_ms = 1000 * (time.perf_counter() - begun)
        replies = []
        for sample, question in enumerate(group):
            episode, own = self._episodes[question.job], prediction.select([sample])
            episode.depths.append(int(own.depth[0]))
            (execute_steps,) = episode.session.accept([0], own)
            if self._spectator is not None:
                self._spectator.answered(
                    Answered(
                        job=question.job,
                        number=question.number,
                        observation=question.content,
                        prediction=own.sample(0),
                        execute_steps=execute_steps,
                        waiting_ms=1000 * (begun - asked),
                        inference_ms=inference_ms,
                        batch_size=len(group),
                    )
                )
            replies.append(Reply(np.stack(episode.session.take(0)), episode.depths[-1]))
        return replies

    def _initial_state(self, question: Question[EpisodeJob]) -> Tensor:
        """S_0 of one query, (1, K, D)."""
        seed = starting_seed(question.job.task, question.job.seed, question.number)
        noise = self._policy.initial_state(1, generator=torch.Generator().manual_seed(seed))
        state: Tensor = self._episodes[question.job].session.initial_state([0], noise)
        return state


def _begin(setting: Setting) -> _Episode:
    _, start = split_start(setting.stop)
    session = Session(parse_execution(setting.execution), start)
    session.due(1)  # one robot
    return _Episode(session)
