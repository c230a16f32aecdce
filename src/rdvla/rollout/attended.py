"""An episode in its worker while somebody attends it: a person may step in between any two steps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla.rollout.episode import Decision, Environment, Recorder, TimeStep
from rdvla.rollout.jobs import EpisodeJob
from rdvla.types import Observation
from rdvla.workers.transport import Ask

GRIPPER = "gripper"  # in the name of an action's number that stays where it is when nobody commands


@dataclass(frozen=True)
class Present:
    """What an attended episode asks with: what now?"""

    step: int  # environment steps so far
    # None: only whether to go on with the chunk, answered with True or False. Otherwise a `Reply` answers.
    observation: Observation | None = None
    still: NDArray[np.float32] | None = None  # (A,), the action that leaves the robot as it is; None: unknown


class MakeRecorder(Protocol):
    """Starts recording an attended episode in its worker; has to pickle."""

    def __call__(
        self, job: EpisodeJob, environment: Environment
    ) -> AbstractContextManager[Recorder[Environment]]:
        """Return a recorder, which ends with its `with` block; an exception there is the episode's."""
        ...


class AttendedActor:
    """Asks before every step: an `Actor`, and the `Recorder` that knows the last action.

    Attributes:
        driven: whether a person made each decision, in order.
    """

    def __init__(self, ask: Ask, environment: Environment) -> None:
        self._ask = ask
        self._seconds = 1 / environment.control_hz
        self._names = tuple(getattr(environment, "action_names", ()))
        self._last: NDArray[np.float32] | None = None
        self._due: float | None = None  # when the next step of a person begins; None: at once
        self.driven: list[bool] = []

    def act(self, now: TimeStep[Environment]) -> Decision:
        """Ask who decides, and what; a person's steps take as long as the robot's own."""
        if self._due is not None:
            time.sleep(max(0.0, self._due - time.monotonic()))
        begun = time.monotonic()
        still = None if self._last is None else hold_still(self._last, self._names)
        observation = Observation(now.images, now.state, now.environment.instruction)
        reply = self._ask(Present(now.step, observation, still))
        is_driven = reply.origin.intervention
        self.driven.append(is_driven)
        self._due = begun + self._seconds if is_driven else None
        return Decision(reply.actions, depth=reply.depth, origin=reply.origin)

    def goes_on(self, now: TimeStep[Environment]) -> bool:
        """Ask whether the rest of a chunk is still to be executed."""
        answer: bool = self._ask(Present(now.step))
        return answer

    def before_step(self, now: TimeStep[Environment], decision: Decision, index: int) -> None:  # noqa: ARG002
        """Keep the action."""
        self._last = decision.actions[index]

    def after_step(self, now: TimeStep[Environment], *, ended: bool) -> None:
        """Nothing to do; see `Recorder`."""


def hold_still(last: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """Return the action, (A,), that leaves a robot as it is: no movement, the gripper as it was told last.

    Args:
        last: (A,), the last action; its numbers are movements, or a gripper's opening or effort.
        names: what each of its numbers is; empty: not known, so all are movements.
    """
    return np.where(held(names) or [False] * len(last), last, 0).astype(np.float32)


def held(names: Sequence[str]) -> tuple[bool, ...]:
    """Return which numbers of an action stay as they were told last, by their names."""
    return tuple(GRIPPER in name for name in names)
