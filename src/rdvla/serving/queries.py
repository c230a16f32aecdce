"""A robot's query on its way to a policy and back; numpy only, so it can cross processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import RDVLAError
from rdvla.policy.config import PolicyConfig
from rdvla.types import Observation, Prediction

EndedBy = Literal["converged", "max_depth", "deadline"]


class BusyError(RDVLAError):
    """Too many queries wait already: the robot should ask again later, or elsewhere."""


@dataclass(frozen=True)
class Query:
    """What a robot asks."""

    observation: Observation  # a single one, numpy
    initial_state: NDArray[np.float32]  # S_0, (K, D)
    stop: str | None = None  # stop rule; None: the policy's own
    max_depth: int | None = None  # iterations at most, whatever the rule says
    deadline: float | None = None  # `time.monotonic()` by which the answer should be ready; None: no limit


@dataclass(frozen=True)
class Answer:
    """What it gets."""

    prediction: Prediction  # of one sample, numpy, in the robot's units
    ended_by: EndedBy
    max_depth: int  # that rule and request allowed
    waiting_ms: float  # until its batch began
    inference_ms: float  # of its batch
    batch_size: int


@dataclass(frozen=True)
class PolicyFacts:
    """What robots and pages are told about a policy, and what checks their observations."""

    name: str
    config: PolicyConfig
    instructions: tuple[str, ...]  # that it was trained on; none: not known
    fingerprint: str  # tells its weights from others
    form: str  # torch, compiled, aoti, onnx
    iterates: bool  # its head has a depth


class ServedPolicy(Protocol):
    """A loaded policy in whatever form, behind numpy."""

    facts: PolicyFacts

    def initial_state(self, seed: int | None = None) -> NDArray[np.float32]:
        """Draw S_0 of one query, (K, D)."""
        ...

    def predict(self, queries: list[Query]) -> list[Answer]:
        """Answer queries in one batch, each with its own stop rule, maximum depth and deadline.

        Raises:
            InputError: an observation does not fit the policy.
        """
        ...
