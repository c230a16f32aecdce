"""Closed-loop episodes in parallel processes, with one policy that answers whoever is waiting in one batch.

The starting state S_0 of a query is drawn from the episode's task, seed and query number, so that an episode
plays the same whoever shares its batch, and all settings see the same layouts and the same S_0.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rdvla.control import Session, Stops, parse_execution, parse_stop, split_start
from rdvla.evaluation.environment import MakeEnvironment
from rdvla.evaluation.messages import Failed, Finished, Job, Query, Reply
from rdvla.evaluation.pool import Worker, WorkerPool
from rdvla.evaluation.schedule import Schedule
from rdvla.evaluation.setting import Setting
from rdvla.types import Observation, Prediction


class Policy(Protocol):
    """What a rollout needs of a policy."""

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """S_0, (B, K, D)."""
        ...

    def predict(
        self,
        observation: Observation,
        *,
        stop: Stops | None = None,
        initial_state: Tensor | None = None,
    ) -> Prediction:
        """Action chunks in real units."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How one job ended, and what happened at its queries."""

    job: Job
    end: Finished | Failed
    depths: list[int]
    query_ms: float | None


@dataclass
class _Record:
    session: Session  # of the one robot
    depths: list[int] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)


def roll_out(
    policy: Policy, jobs: Sequence[Job], *, make: MakeEnvironment, workers: int
) -> Iterator[Outcome]:
    """Play all jobs, task by task (see `Schedule`), and yield each outcome as it comes.

    An exception inside an episode is its outcome. An exception of the policy ends the rollout.
    """
    schedule = Schedule(jobs)
    with WorkerPool(workers=max(1, min(workers, len(jobs))), make=make) as pool:
        records: dict[int, _Record] = {}
        for worker in pool.workers:
            _assign(worker, schedule, records)
        while any(worker.job is not None for worker in pool.workers):
            queries: list[tuple[Worker, Query]] = []
            for worker, message in pool.ready():
                if isinstance(message, Query):
                    queries.append((worker, message))
                    continue
                yield _outcome(worker, message, records[worker.number])
                _assign(worker, schedule, records)
            _answer(policy, queries, records)


def starting_seed(task: str, seed: int, query: int) -> int:
    """The seed of S_0 at one query of one episode."""
    digest = hashlib.blake2b(f"{task}/{seed}/{query}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1  # torch takes 63 bits


def _assign(worker: Worker, schedule: Schedule, records: dict[int, _Record]) -> None:
    worker.job = None
    job = schedule.next(worker.place)
    if job is not None:
        _, start = split_start(job.setting.rule_text)
        records[worker.number] = _Record(Session(parse_execution(job.setting.execution), start))
        records[worker.number].session.due(1)
        worker.start(job)


def _outcome(worker: Worker, end: Finished | Failed, record: _Record) -> Outcome:
    assert worker.job is not None
    spent = record.milliseconds
    return Outcome(worker.job, end, record.depths, sum(spent) / len(spent) if spent else None)


def _answer(policy: Policy, queries: Sequence[tuple[Worker, Query]], records: dict[int, _Record]) -> None:
    """One predict call for each setting among the queries; workers at different tasks may differ in it."""
    groups: dict[Setting, list[tuple[Worker, Query]]] = {}
    for worker, query in queries:
        assert worker.job is not None
        groups.setdefault(worker.job.setting, []).append((worker, query))
    for setting, group in groups.items():
        start = time.perf_counter()
        prediction = _predict(policy, setting, group, records)
        spent = 1000 * (time.perf_counter() - start) / len(group)
        prediction = replace(prediction, actions=prediction.actions.float().cpu().numpy())
        depths = prediction.depth.tolist()
        for row, (worker, _) in enumerate(group):
            depth = depths[row]
            record = records[worker.number]
            record.depths.append(depth)
            record.milliseconds.append(spent)
            record.session.accept([0], prediction.select([row]))
            worker.reply(Reply(np.stack(record.session.take(0)), depth))


def _predict(
    policy: Policy, setting: Setting, group: Sequence[tuple[Worker, Query]], records: dict[int, _Record]
) -> Prediction:
    rule, _ = split_start(setting.rule_text)
    states = [_initial_state(policy, worker, records[worker.number]) for worker, _ in group]
    observation = Observation.collate([_observation(query) for _, query in group])
    return policy.predict(observation, stop=parse_stop(rule), initial_state=torch.cat(states))


def _initial_state(policy: Policy, worker: Worker, record: _Record) -> Tensor:
    """S_0 of one worker's query, (1, K, D); the first query of an episode starts from noise."""
    assert worker.job is not None
    seed = starting_seed(worker.job.task, worker.job.seed, len(record.depths))
    noise = policy.initial_state(1, generator=torch.Generator().manual_seed(seed))
    state: Tensor = record.session.initial_state([0], noise)
    return state


def _observation(query: Query) -> Observation:
    return Observation(
        images={name: torch.from_numpy(image)[None] for name, image in query.images.items()},
        state=torch.from_numpy(query.state)[None],
        instruction=[query.instruction],
    )
