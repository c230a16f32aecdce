"""A robot's query on its way to a policy and back; numpy only, so it can cross processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import InputError, RDVLAError
from rdvla.policy.config import RobotConfig
from rdvla.processing.fit import CameraFits
from rdvla.types import Observation, Prediction, check_state

EndedBy = Literal["converged", "max_depth", "deadline"]


class BusyError(RDVLAError):
    """Too many queries wait already: the robot should ask again later, or elsewhere."""


class NotFiniteError(RDVLAError):
    """The policy answered with NaN or infinite actions."""


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
    form: str  # torch, compiled, aoti or onnx
    fingerprint: str  # tells its weights from others; empty: not known
    fits: CameraFits  # its cameras, and how their images are made square
    state_dim: int  # S, proprioception
    action_dim: int  # A
    chunk_size: int  # K
    stop: str  # its stop rule, as text for `parse_stop`
    execution: str  # actions to execute per query, as text for `parse_execution`
    start: str = "noise"  # where queries start, a kind of `WarmStart`
    robot: RobotConfig = field(default_factory=RobotConfig)  # that it was trained on, as far as known
    instructions: tuple[str, ...] = ()  # that it was trained on; none: not known
    iterates: bool = True  # its head has a depth
    # What a person who drives may send: (smallest, largest), A numbers each; None: not known.
    action_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    grippers: tuple[int, ...] = ()  # numbers of an action that stay where a person leaves them

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, in the policy's order."""
        return tuple(self.fits.fits)

    @property
    def image_sizes(self) -> Mapping[str, tuple[int, int]]:
        """Camera -> (height, width) of its images in training; others of these proportions fit as well."""
        return {
            camera: self.fits.sizes.get(camera, (fit.size, fit.size))
            for camera, fit in self.fits.fits.items()
        }

    def check(self, observation: Observation) -> None:
        """Check that a single observation fits, before it shares a batch with others. Nothing is resized.

        Raises:
            InputError: it is a batch, a camera is missing or gives images of other proportions, or the state
                has another size or is not finite.
        """
        if observation.is_batch:
            raise InputError("a query holds one observation, with one instruction; this is a batch")
        self.fits.check(observation)
        check_state(observation.state, state_dim=self.state_dim)


class PolicyFront(Protocol):
    """What a server itself needs of a policy, wherever its replicas are."""

    facts: PolicyFacts

    def initial_state(self, seed: int | None = None) -> NDArray[np.float32]:
        """Draw S_0 of one query, (K, D)."""
        ...


class ServedPolicy(PolicyFront, Protocol):
    """A loaded policy in whatever form, behind numpy."""

    def front(self) -> PolicyFront:
        """Return what draws S_0 and holds the facts, without the weights that answer queries."""
        ...

    def predict(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer queries in one batch, each with its own stop rule, maximum depth and deadline.

        Raises:
            InputError: an observation does not fit the policy.
        """
        ...


class ReplicaDiedError(RDVLAError):
    """A replica ended before it answered; its queries may be asked again.

    Attributes:
        while_idle: it had ended before the queries reached it, so none of them is at fault.
    """

    def __init__(self, message: str, *, while_idle: bool = False) -> None:
        super().__init__(message)
        self.while_idle = while_idle


class Replica(Protocol):
    """A copy of a policy, somewhere. It answers one batch at a time."""

    async def predict(self, queries: list[Query]) -> list[Answer]:
        """Answer queries in one batch, in their order.

        Raises:
            ReplicaDiedError: the replica has ended; `restart` it.
            RDVLAError: a query cannot be answered.
        """
        ...

    async def restart(self) -> None:
        """Start anew after a death.

        Raises:
            Exception: it cannot be started.
        """
        ...

    async def close(self) -> None:
        """End it. If it hangs in an answer, that is given up."""
        ...
