"""A policy's side of many episodes: each has a session and a judge.

The starting state S_0 of a query is drawn from the episode's task, seed and query number. So all settings see
the same layouts and the same S_0. With `single` batching every query is computed alone. Then an episode plays
the same with any number of workers: to the bit, if its simulator repeats itself. With `together`, queries
that wait share a batch. Batches of other sizes round differently, and time decides which episodes share one:
steps and depths of a few episodes then differ between runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rdvla.control import DepthJudge, Judge, Judgement, Session, Stops, as_stop, parse_execution
from rdvla.rollout.jobs import Batching, EpisodeJob, Setting, starting_seed
from rdvla.rollout.worker import EpisodeResult, Reply
from rdvla.types import Observation, Prediction
from rdvla.workers.ends import Failed, Finished


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


@dataclass(frozen=True)
class Call:
    """What `Policy.predict` is called with."""

    observation: Observation  # a batch, torch
    stop: str
    initial_state: Tensor  # S_0, (B, K, D)


@runtime_checkable
class AnswersCalls(Protocol):
    """A policy on another machine: the fewer messages, the better."""

    def predict_each(self, calls: Sequence[Call]) -> list[Prediction]:
        """Return what `predict` says to each call."""
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
    judgement: Judgement
    waiting_ms: float  # until its batch began
    inference_ms: float  # of its batch
    batch_size: int


class Spectator(Protocol):
    """Is told what happens in the episodes as it happens; it must not take long."""

    def answered(self, query: Answered) -> None:
        """See a query that has been answered, before any of its actions is executed.

        In attended episodes this is where a gate brings the robot into another phase.
        """
        ...

    def driven(self, job: EpisodeJob, observation: Observation) -> None:
        """See what a robot shows before a step of the person who drives it."""
        ...

    def ended(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> None:
        """See how an episode ended."""
        ...


MakeJudge = Callable[[], Judge]


@dataclass(frozen=True)
class Asked:
    """A query on its way to the policy."""

    job: EpisodeJob
    number: int
    observation: Observation
    initial_state: Tensor  # S_0, (1, K, D)
    time: float  # `time.perf_counter()`


@dataclass(frozen=True)
class Computed:
    """A query's way back."""

    prediction: Prediction  # a batch of one
    waiting_ms: float
    inference_ms: float
    batch_size: int


@dataclass
class _Episode:
    """An episode in progress."""

    session: Session
    judge: Judge
    queries: int = 0
    newest: Prediction | None = None  # a batch of one
    depths: list[int] = field(default_factory=list)  # of the queries whose actions were executed


class Queries:
    """Asks a policy for many episodes. Only `compute` may run in a thread of its own.

    Args:
        policy: gives the actions.
        watch: sees every query before it is computed.
        spectator: sees every query with its answer, and every end.
        make_judge: makes the judge of an episode.
        batching: whether queries are computed alone, or with those that wait at the same time.

    Attributes:
        one_at_a_time: whether nothing is gained by computing several queries in one call of `compute`.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        watch: Watch | None = None,
        spectator: Spectator | None = None,
        make_judge: MakeJudge = DepthJudge,
        batching: Batching = "single",
    ) -> None:
        self._policy, self._watch, self._spectator = policy, watch, spectator
        self._batching = batching
        self.one_at_a_time = batching == "single" and not isinstance(policy, AnswersCalls)
        self._make_judge = make_judge
        self._episodes: dict[EpisodeJob, _Episode] = {}

    def begin(self, job: EpisodeJob) -> None:
        """Begin an episode, or begin it anew."""
        session = Session(parse_execution(job.setting.execution), job.setting.start)
        session.due(1)  # one robot
        self._episodes[job] = _Episode(session, self._make_judge())

    def ask(self, job: EpisodeJob, observation: Observation) -> Asked:
        """Draw S_0 of an episode's next query."""
        episode = self._episodes[job]
        seed = starting_seed(job.task, job.seed, episode.queries)
        noise = self._policy.initial_state(1, generator=torch.Generator().manual_seed(seed))
        state: Tensor = episode.session.initial_state([0], noise)
        if self._watch is not None:
            self._watch(job.setting, observation, state)
        episode.queries += 1
        return Asked(job, episode.queries - 1, observation, state, time.perf_counter())

    def compute(self, asked: Sequence[Asked]) -> list[Computed]:
        """Ask the policy: once for each query, or `together` once for each setting among them."""
        groups = by_setting([query.job for query in asked])
        if self._batching == "single":
            groups = [[index] for index in range(len(asked))]
        calls = [_call([asked[index] for index in group]) for group in groups]
        computed: dict[int, Computed] = {}
        for group, (prediction, begun, inference_ms) in zip(groups, self._predict(calls), strict=True):
            for sample, index in enumerate(group):
                waiting_ms = 1000 * (begun - asked[index].time)
                computed[index] = Computed(prediction.select([sample]), waiting_ms, inference_ms, len(group))
        return [computed[index] for index in range(len(asked))]

    def note(self, asked: Asked, computed: Computed) -> Answered:
        """Judge an answer, tell the spectator, and keep it for `act`."""
        episode, job = self._episodes[asked.job], asked.job
        prediction = episode.newest = computed.prediction
        limit = as_stop(job.setting.rule).max_depth
        answered = Answered(
            job=job,
            number=asked.number,
            observation=asked.observation,
            prediction=prediction.sample(0),
            execute_steps=int(episode.session.execution.horizon(prediction.depth)[0]),
            judgement=episode.judge.judge(prediction.sample(0), max_depth=limit),
            waiting_ms=computed.waiting_ms,
            inference_ms=computed.inference_ms,
            batch_size=computed.batch_size,
        )
        if self._spectator is not None:
            self._spectator.answered(answered)
        return answered

    def act(self, job: EpisodeJob) -> Reply:
        """Return the actions of the newest answer, which the episode is to execute now."""
        episode = self._episodes[job]
        assert episode.newest is not None
        episode.depths.append(int(episode.newest.depth[0]))
        episode.session.accept([0], episode.newest)
        return Reply(np.stack(episode.session.take(0)), episode.depths[-1])

    def interrupt(self, job: EpisodeJob) -> None:
        """Somebody else acts: the next query starts from noise, as the first one did."""
        self._episodes[job].session.reset([0])

    def driven(self, job: EpisodeJob, observation: Observation) -> None:
        """Tell the spectator what the person who drives an episode sees."""
        if self._spectator is not None:
            self._spectator.driven(job, observation)

    def end(self, end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]) -> list[int]:
        """Forget an episode; return the iterations of the queries whose actions it executed."""
        episode = self._episodes.pop(end.job, None)
        if self._spectator is not None:
            self._spectator.ended(end)
        return [] if episode is None else episode.depths

    def _predict(self, calls: Sequence[Call]) -> Iterator[tuple[Prediction, float, float]]:
        """Yield the answer to each call, in numpy, when it began, and the milliseconds it took."""
        begun = time.perf_counter()
        if isinstance(self._policy, AnswersCalls):
            predictions = self._policy.predict_each(calls)
            inference_ms = 1000 * (time.perf_counter() - begun)
            yield from ((_in_numpy(prediction), begun, inference_ms) for prediction in predictions)
            return
        for call in calls:
            begun = time.perf_counter()
            prediction = _in_numpy(
                self._policy.predict(call.observation, stop=call.stop, initial_state=call.initial_state)
            )
            yield prediction, begun, 1000 * (time.perf_counter() - begun)


def _call(asked: Sequence[Asked]) -> Call:
    return Call(
        Observation.collate([query.observation for query in asked]).torch(),
        stop=asked[0].job.setting.rule,
        initial_state=torch.cat([query.initial_state for query in asked]),
    )


def _in_numpy(prediction: Prediction) -> Prediction:
    return replace(prediction, actions=prediction.actions.float().cpu().numpy())


def by_setting(jobs: Sequence[EpisodeJob]) -> list[list[int]]:
    """Return the indices of jobs grouped by setting, groups in the order of first appearance."""
    groups: dict[Setting, list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(job.setting, []).append(index)
    return list(groups.values())
