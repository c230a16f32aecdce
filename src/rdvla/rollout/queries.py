"""The policy's side of many episodes: a predict call answers every worker that waits.

The starting state S_0 of a query is drawn from the episode's task, seed and query number. So an episode plays
the same whoever shares its batch, and all settings see the same layouts and the same S_0.
"""

from __future__ import annotations

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
    """
    answers = _Answers(policy, watch)
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

    def __init__(self, policy: Policy, watch: Watch | None) -> None:
        self._policy, self._watch = policy, watch
        self._episodes: dict[EpisodeJob, _Episode] = {}

    def __call__(self, questions: Sequence[Question[EpisodeJob]]) -> list[Reply]:
        """Answer with a predict call per setting; workers at different tasks may differ in it."""
        groups: dict[Setting, list[int]] = {}
        for index, question in enumerate(questions):
            groups.setdefault(question.job.setting, []).append(index)
            if question.number == 0:
                self._episodes[question.job] = _begin(question.job.setting)
        replies: dict[int, Reply] = {}
        for setting, group in groups.items():
            replies |= zip(group, self._answer(setting, [questions[index] for index in group]), strict=True)
        return [replies[index] for index in range(len(questions))]

    def outcome(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> Outcome:
        """Return how an episode went, and forget it."""
        episode = self._episodes.pop(end.job, None)
        return Outcome(end, [] if episode is None else episode.depths)

    def _answer(self, setting: Setting, group: Sequence[Question[EpisodeJob]]) -> list[Reply]:
        stop, _ = split_start(setting.stop)
        states = [self._initial_state(question) for question in group]
        if self._watch is not None:
            for question, state in zip(group, states, strict=True):
                self._watch(setting, question.content, state)
        prediction = self._policy.predict(
            Observation.collate([question.content for question in group]).torch(),
            stop=stop,
            initial_state=torch.cat(states),
        )
        prediction = replace(prediction, actions=prediction.actions.float().cpu().numpy())
        replies = []
        for sample, question in enumerate(group):
            episode, own = self._episodes[question.job], prediction.select([sample])
            episode.depths.append(int(own.depth[0]))
            episode.session.accept([0], own)
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
