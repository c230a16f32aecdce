"""A policy to serve whose right answers anybody can compute, and which says in what process it runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import InputError
from rdvla.processing.fit import CameraFits, ImageFit
from rdvla.serving.queries import Answer, PolicyFacts, PolicyFront, Query, Replica
from rdvla.types import Observation, Prediction

CHUNK, DIM = 4, 3
LIMIT = 300.0  # seconds after which a test gives up
FACTS = PolicyFacts(
    name="double",
    form="torch",
    fingerprint="0123",
    fits=CameraFits({"front": ImageFit(8, "crop")}, {}),
    state_dim=DIM,
    action_dim=DIM,
    chunk_size=CHUNK,
    stop="4",
    execution="fixed:2",
)
REFUSED = "this one the policy refuses"


@dataclass(frozen=True)
class DoubleFront:
    """What a server needs of it."""

    facts: PolicyFacts = FACTS

    def initial_state(self, seed: int | None = None) -> NDArray[np.float32]:
        return np.random.default_rng(seed).normal(size=(CHUNK, DIM)).astype(np.float32)


@dataclass(frozen=True)
class DoublePolicy(DoubleFront):
    """Answers ten times the state plus S_0; `depth` holds the process, `ended_by` whether time was up."""

    seconds: float = 0.0  # that a batch takes

    def front(self) -> PolicyFront:
        return DoubleFront(self.facts)

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        if any(query.observation.instruction == REFUSED for query in queries):
            raise InputError("the policy refuses this instruction")
        began = time.monotonic()
        time.sleep(self.seconds)
        return [
            Answer(
                prediction=Prediction(
                    actions=right_actions(query),
                    depth=np.asarray(os.getpid()),
                    converged=np.asarray(True),
                    state=query.initial_state,
                ),
                ended_by="deadline" if query.deadline is not None and query.deadline < began else "converged",
                max_depth=4,
                waiting_ms=0.0,
                inference_ms=1000 * (time.monotonic() - began),
                batch_size=len(queries),
            )
            for query in queries
        ]


def right_actions(query: Query) -> NDArray[np.float32]:
    """(K, A): what `DoublePolicy` answers."""
    actions: NDArray[np.float32] = 10 * np.asarray(query.observation.state)[None] + query.initial_state
    return actions


def make_query(seed: int, *, deadline: float | None = None, instruction: str = "push the puck") -> Query:
    """Return a query that no other seed gives."""
    generator = np.random.default_rng(seed)
    return Query(
        observation=Observation(
            images={"front": generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)},
            state=generator.normal(size=DIM).astype(np.float32),
            instruction=instruction,
        ),
        initial_state=DoubleFront().initial_state(seed + 10**6),
        deadline=deadline,
    )


def check_answers(queries: Sequence[Query], answers: Sequence[Answer]) -> None:
    """Fail unless these are a `DoublePolicy`'s answers to these queries."""
    assert len(answers) == len(queries)
    for query, answer in zip(queries, answers, strict=True):
        np.testing.assert_array_equal(answer.prediction.actions, right_actions(query))


def answers_of(replica: Replica, queries: Sequence[Query]) -> list[Answer]:
    """Ask a replica in an event loop of its own."""
    return asyncio.run(asyncio.wait_for(replica.predict(list(queries)), LIMIT))
