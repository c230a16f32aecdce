"""A served policy without torch, for replicas in processes: it echoes, fails and dies as a query says."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rdvla.errors import InputError, RDVLAError
from rdvla.processing.fit import CameraFits
from rdvla.serving.queries import Answer, PolicyFacts, Query
from tests.support.serving_doubles import DEADLY, POISON, make_answer

BUG = -3.0  # in the state of a query that meets a bug
FACTS = PolicyFacts(
    name="echo",
    form="torch",
    fingerprint="",
    fits=CameraFits({}, {}),
    state_dim=1,
    action_dim=1,
    chunk_size=1,
    stop="4",
    execution="fixed:1",
)


class EchoPolicy:
    """Answers with the query's number."""

    facts = FACTS

    def front(self) -> EchoPolicy:
        return self

    def initial_state(self, seed: int | None = None) -> np.ndarray:
        return np.full((1, 1), 0 if seed is None else seed, np.float32)

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        numbers = [float(query.observation.state[0]) for query in queries]
        if DEADLY in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        if POISON in numbers:
            raise InputError("this one cannot be answered")
        if BUG in numbers:
            raise ZeroDivisionError("a bug")
        return [make_answer(query, batch_size=len(queries)) for query in queries]


def load_echo() -> EchoPolicy:
    return EchoPolicy()


def load_nothing() -> EchoPolicy:
    raise RDVLAError("there is no such policy")


class LoadOnce:
    """Loads as often as a file with so many lines says; then the policy has gone."""

    def __init__(self, path: Path, times: int) -> None:
        self._path, self._times = path, times

    def __call__(self) -> EchoPolicy:
        with self._path.open("a") as file:
            file.write("loaded\n")
        if len(self._path.read_text().splitlines()) > self._times:
            raise RDVLAError("the policy has gone")
        return EchoPolicy()
