"""Policies and replicas whose answers tell which query they are for, and that fail as they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from rdvla.errors import InputError
from rdvla.serving.queries import Answer, Query, ReplicaDiedError
from rdvla.types import Observation, Prediction

POISON = -1.0  # in the state of a query that cannot be answered
DEADLY = -2.0  # of one that kills whoever answers it


def make_query(number: float, *, deadline: float | None = None) -> Query:
    return Query(Observation({}, np.array([number]), "push"), np.zeros((1, 1), np.float32), deadline=deadline)


def make_answer(query: Query, *, depth: int = 4, batch_size: int = 1, ended_by: str = "converged") -> Answer:
    """The answer whose only action is the number of its query."""
    number = query.observation.state[None]
    prediction = Prediction(number, np.int64(depth), np.bool_(ended_by == "converged"), query.initial_state)
    return Answer(prediction, ended_by, 32, 0.0, 0.0, batch_size)


def number_of(answer: Answer) -> float:
    return float(answer.prediction.actions[0, 0])


class EchoReplica:
    """Answers every query with its own number after `pause()` turns of the event loop."""

    def __init__(self, pause: Callable[[], int] = lambda: 1, *, dies: Callable[[], bool] = lambda: False):
        self.batches: list[list[float]] = []
        self.closed = False
        self.restarts = 0
        self._pause, self._dies = pause, dies
        self._answering = False

    async def predict(self, queries: Sequence[Query]) -> list[Answer]:
        assert not self._answering, "a replica answers one batch at a time"
        self._answering = True
        try:
            for _ in range(self._pause()):
                await asyncio.sleep(0)
        finally:
            self._answering = False
        numbers = [float(query.observation.state[0]) for query in queries]
        self.batches.append(numbers)
        if DEADLY in numbers or self._dies():
            raise ReplicaDiedError("the replica died")
        if POISON in numbers:
            raise InputError("this one cannot be answered")
        return [make_answer(query, depth=int(query.stop or 4), batch_size=len(queries)) for query in queries]

    async def restart(self) -> None:
        self.restarts += 1

    async def close(self) -> None:
        self.closed = True


class GatedReplica(EchoReplica):
    """Answers only once its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def predict(self, queries: Sequence[Query]) -> list[Answer]:
        await self.gate.wait()
        return await super().predict(queries)
