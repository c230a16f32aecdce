"""Milliseconds per query, measured after the episodes: one query at a time, every stop rule in turn.

During the rollouts simulators use the same processor, and workers share a call. Times taken there say more
about the machine's load than about a setting.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rdvla.control import split_start
from rdvla.evaluation.results import load_results
from rdvla.rollout import Policy, Setting
from rdvla.types import Observation

QUERIES = 4  # of each stop rule, out of all that the episodes made
ROUNDS = 3, 20  # at least and at most
SEED = 0  # of the choice and of the order


@dataclass(frozen=True)
class Query:
    """A query as an episode made it."""

    observation: Observation  # a single one
    initial_state: Tensor  # S_0, (1, K, D)


class Sample:
    """Keeps a few queries of every stop rule, each equally likely (reservoir sampling)."""

    def __init__(self, count: int = QUERIES) -> None:
        self._count = count
        self._random = random.Random(SEED)
        self._seen: dict[str, int] = {}
        self.queries: dict[str, list[Query]] = {}

    def __call__(self, setting: Setting, observation: Observation, initial_state: Tensor) -> None:
        """Look at a query of an episode, and keep it or not."""
        seen = self._seen[setting.stop] = self._seen.get(setting.stop, 0) + 1
        kept = self.queries.setdefault(setting.stop, [])
        place = len(kept) if len(kept) < self._count else self._random.randrange(seen)
        if place < self._count:
            kept[place : place + 1] = [Query(observation, initial_state)]

    def of(self, stop: str) -> list[Query]:
        """Return queries to time a stop rule with.

        A rule whose episodes were all played in an earlier call takes another rule's observations, unless its
        iterations depend on where its own queries ended. Then it has none.
        """
        if stop in self.queries or split_start(stop)[1].kind != "noise":
            return self.queries.get(stop, [])
        others = [queries for other, queries in self.queries.items() if split_start(other)[1].kind == "noise"]
        return others[0] if others else []


def time_queries(
    policy: Policy, sample: Sample, *, stops: Sequence[str], seconds: float
) -> dict[str, Any] | None:
    """Return milliseconds per query by stop rule; None if there is no query to time.

    Every round runs every query of every rule once, in an order of its own, so drifts of the machine fall on
    all rules alike. A rule's time is the mean over its queries of the median over the rounds.

    Args:
        policy: answers one query at a time.
        sample: queries of the episodes.
        stops: the rules.
        seconds: about how long to measure; a slow policy takes longer, for the fewest rounds.
    """
    queries = [(stop, number, query) for stop in stops for number, query in enumerate(sample.of(stop))]
    if not queries:
        return None
    start = time.perf_counter()
    for stop, _, query in queries:  # the first call of a shape or a rule may compile or allocate
        _milliseconds(policy, stop, query)
    spent = time.perf_counter() - start
    rounds = min(ROUNDS[1], max(ROUNDS[0], round(seconds / spent) - 1))
    measured: dict[tuple[str, int], list[float]] = {}
    order = random.Random(SEED)
    for _ in range(rounds):
        order.shuffle(queries)
        for stop, number, query in queries:
            measured.setdefault((stop, number), []).append(_milliseconds(policy, stop, query))
    by_stop: dict[str, list[float]] = {}
    for (stop, _), values in measured.items():
        by_stop.setdefault(stop, []).append(statistics.median(values))
    return {
        "query_ms": {stop: statistics.fmean(by_stop[stop]) for stop in stops if stop in by_stop},
        "queries": max(len(values) for values in by_stop.values()),
        "rounds": rounds,
    }


def earlier_timing(path: Path) -> dict[str, Any] | None:
    """Return what an earlier call measured, for an evaluation that has nothing left to play."""
    return load_results(path).meta.get("timing") if path.exists() else None


def _milliseconds(policy: Policy, stop: str, query: Query) -> float:
    observation = query.observation.batched().torch()
    start = time.perf_counter()
    prediction = policy.predict(observation, stop=split_start(stop)[0], initial_state=query.initial_state)
    prediction.actions.float().cpu()  # waits for an accelerator
    return 1000 * (time.perf_counter() - start)
