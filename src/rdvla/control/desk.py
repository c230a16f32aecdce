"""Where a person steps in: which robots run, wait or are driven, for any number of threads.

The live page changes phases; evaluations and servers ask for them before they act. Phases have the names of
LeRobot's interactive recording.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import InputError

Phase = Literal["autonomous", "paused", "correcting"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass
class _Place:
    phase: Phase = "autonomous"
    command: NDArray[np.float32] | None = None  # (A,), the person's latest
    cause: str = ""  # who changed the phase last: "person"; gates name themselves


class Desk:
    """The phase of every robot, and what the person who drives one wants it to do."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._changed = threading.Condition()

    def add(self, robot: str) -> None:
        """Add a robot, autonomous."""
        with self._changed:
            self._places[robot] = _Place()

    def remove(self, robot: str) -> None:
        """Forget a robot; whoever waits for it goes on."""
        with self._changed:
            self._places.pop(robot, None)
            self._changed.notify_all()

    def phase(self, robot: str) -> Phase:
        """Return the phase of a robot; robots that are not here are autonomous."""
        with self._changed:
            place = self._places.get(robot)
            return "autonomous" if place is None else place.phase

    def cause(self, robot: str) -> str:
        """Return who brought the robot into its phase; empty if nobody has changed it."""
        with self._changed:
            place = self._places.get(robot)
            return "" if place is None else place.cause

    def change(self, robot: str, phase: Phase, *, cause: str = "person") -> None:
        """Bring a robot into a phase. Its last command is forgotten.

        Raises:
            InputError: there is no such robot or phase.
        """
        if phase not in PHASES:
            raise InputError(f"phase is {phase!r}; it must be one of {', '.join(PHASES)}")
        with self._changed:
            place = self._place(robot)
            place.phase, place.cause, place.command = phase, cause, None
            self._changed.notify_all()

    def steer(self, robot: str, action: Sequence[float]) -> None:
        """Take the action, (A,), that the person who drives a robot wants now.

        Raises:
            InputError: there is no such robot, nobody drives it, or a number is not finite.
        """
        command = np.asarray(action, dtype=np.float32)
        if command.ndim != 1 or not np.isfinite(command).all():
            raise InputError("a person's action must be a list of finite numbers, one per action dimension")
        with self._changed:
            place = self._place(robot)
            if place.phase != "correcting":
                raise InputError(f"{robot!r} is {place.phase}: take over before you drive it")
            place.command = command

    def command(self, robot: str) -> NDArray[np.float32] | None:
        """Return the latest action, (A,), of the person who drives a robot; None if there is none."""
        with self._changed:
            place = self._places.get(robot)
            return None if place is None else place.command

    def wait_while_paused(self, robot: str, timeout: float | None = None) -> Phase:
        """Wait until a robot is not paused, at most `timeout` seconds; return its phase then."""
        with self._changed:
            self._changed.wait_for(lambda: self._phase(robot) != "paused", timeout)
            return self._phase(robot)

    def _phase(self, robot: str) -> Phase:
        place = self._places.get(robot)
        return "autonomous" if place is None else place.phase

    def _place(self, robot: str) -> _Place:
        if robot not in self._places:
            raise InputError(f"there is no robot {robot!r} here; there are {sorted(self._places)}")
        return self._places[robot]
