"""What a server or an evaluation tells the live page and other watchers about every query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rdvla.control import Phase


@dataclass(frozen=True)
class QueryEvent:
    """A query that has been answered."""

    robot: str  # unique name of the connection, or of the episode in an evaluation
    policy: str
    time: float  # seconds since the epoch, when it was answered
    number: int  # queries of this robot before it, since its last reset
    instruction: str
    images: Mapping[str, NDArray[np.uint8]]  # camera -> (H, W, 3), RGB
    state: NDArray[np.float32]  # (S,) proprioception
    actions: NDArray[np.float32]  # (K, A), in the robot's units
    execute_steps: int  # actions of them to execute before the next query
    depth: int  # k*
    max_depth: int  # that the stop rule, the request and the policy allowed
    ended_by: str  # converged, max_depth or deadline
    uncertainty: float
    band: float | None  # uncertainty above which the policy asks for help; None: not calibrated
    help_requested: bool
    phase: Phase
    milliseconds: Mapping[str, float] = field(default_factory=dict)  # waiting, inference, total
    batch_size: int = 1  # queries that were computed together with it, itself included


@dataclass(frozen=True)
class RobotFacts:
    """What the page has to know of a robot to label its actions and to let a person drive it."""

    action_names: tuple[str, ...] = ()  # A names; none: not known
    action_low: tuple[float, ...] = ()  # A numbers, the smallest that a person may send; none: not known
    action_high: tuple[float, ...] = ()  # A numbers, the largest
    # Whether a number stays where a person leaves it, such as a gripper or a joint's position. Any other
    # returns to 0, or to the end of its range nearest to 0, once nothing is pressed.
    action_held: tuple[bool, ...] = ()
    control_hz: float | None = None  # actions per second
    drivable: bool = False  # a person may take over

    @property
    def can_be_driven(self) -> bool:
        """Whether the page lets people drive: what is pressed has to become numbers in a known range."""
        return self.drivable and bool(self.action_low) and bool(self.action_high)


@dataclass(frozen=True)
class RobotEvent:
    """A robot came, went, or changed hands."""

    robot: str
    policy: str
    time: float
    connected: bool
    phase: Phase
    note: str = ""  # such as why it went: "success after 120 steps"
    facts: RobotFacts | None = None  # None: as told before


@dataclass(frozen=True)
class StepEvent:
    """What a robot shows between two queries, while a person drives it."""

    robot: str
    time: float  # seconds since the epoch
    images: Mapping[str, NDArray[np.uint8]]  # camera -> (H, W, 3), RGB
    state: NDArray[np.float32]  # (S,) proprioception


Event = QueryEvent | RobotEvent | StepEvent
