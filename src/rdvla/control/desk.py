"""Where a person steps in: which robots run, wait or are driven, for any number of threads and event loops.

The live page changes phases; so can a gate, which watches how uncertain the policy is. Evaluations and
servers look here before they act. Phases have the names of LeRobot's interactive recording.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import InputError

Phase = Literal["autonomous", "paused", "correcting"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Cause = Literal["person", "gate"]  # who changes phases: a person, or whatever asks for one by itself
CAUSES: tuple[Cause, ...] = get_args(Cause)
COMMAND_SECONDS = 0.5  # that a command counts: a page that hangs must not keep an arm moving


@dataclass(frozen=True)
class Place:
    """How a robot stands."""

    phase: Phase = "autonomous"
    cause: Cause | None = None  # who brought it into its phase; None: nobody has changed it
    trigger: Cause | None = None  # who ended its autonomy; None while it is autonomous
    command: NDArray[np.float32] | None = (
        None  # (A,), what the person who drives it wants; None: to hold still
    )
    action_dim: int | None = None  # A; None: any


NOBODY = Place()  # of robots that are not here: they run by themselves
Listener = Callable[[str, Place], None]


class Desk:
    """The phase of every robot, and what the person who drives one wants it to do.

    Args:
        command_seconds: how long a command counts unless it is given again.
        clock: seconds that never run backwards.
    """

    def __init__(
        self, *, command_seconds: float = COMMAND_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._command_seconds, self._clock = command_seconds, clock
        self._places: dict[str, Place] = {}
        self._commanded: dict[str, float] = {}  # when
        self._listeners: list[Listener] = []
        self._changed = threading.Condition()

    def add(self, robot: str, *, action_dim: int | None = None) -> None:
        """Add a robot, autonomous; actions of another length than `action_dim` are then refused."""
        with self._changed:
            self._places[robot] = Place(action_dim=action_dim)

    def remove(self, robot: str) -> None:
        """Forget a robot; whoever waits for it goes on."""
        with self._changed:
            known = self._places.pop(robot, None)
            self._commanded.pop(robot, None)
            self._changed.notify_all()
        if known is not None:
            self._tell(robot, NOBODY)

    def robots(self) -> tuple[str, ...]:
        """Return the names of all robots, in the order of their coming."""
        with self._changed:
            return tuple(self._places)

    def look(self, robot: str) -> Place:
        """Return how a robot stands, all at one time; robots that are not here are autonomous."""
        with self._changed:
            place = self._places.get(robot, NOBODY)
            if place.command is None:
                return place
            if self._clock() - self._commanded[robot] > self._command_seconds:
                return replace(place, command=None)
            return place

    def phase(self, robot: str) -> Phase:
        """Return the phase of a robot; robots that are not here are autonomous."""
        return self.look(robot).phase

    def cause(self, robot: str) -> Cause | None:
        """Return who brought the robot into its phase; None if nobody has changed it."""
        return self.look(robot).cause

    def command(self, robot: str) -> NDArray[np.float32] | None:
        """Return the action, (A,), that the person who drives a robot wants; None: to hold still."""
        return self.look(robot).command

    def change(self, robot: str, phase: Phase, *, cause: Cause = "person") -> None:
        """Bring a robot into a phase; its last command is forgotten. In that phase already, nothing changes.

        Raises:
            InputError: there is no such robot, phase or cause.
        """
        if phase not in PHASES:
            raise InputError(f"phase is {phase!r}; it must be one of {', '.join(PHASES)}")
        if cause not in CAUSES:
            raise InputError(f"cause is {cause!r}; it must be one of {', '.join(CAUSES)}")
        with self._changed:
            place = self._place(robot)
            if place.phase == phase:
                return
            trigger = None if phase == "autonomous" else place.trigger or cause
            place = replace(place, phase=phase, cause=cause, trigger=trigger, command=None)
            self._places[robot] = place
            self._changed.notify_all()
        self._tell(robot, place)

    def steer(self, robot: str, action: Sequence[float]) -> None:
        """Take the action, (A,), that the person who drives a robot wants now.

        It is executed in every control step until another one is given, or none for `command_seconds`.

        Raises:
            InputError: there is no such robot, nobody drives it, the action has another length than the
                robot's, or a number is not finite.
        """
        try:
            with np.errstate(over="ignore"):  # what overflows is not finite
                command = np.array(action, dtype=np.float32)
        except (TypeError, ValueError):
            command = np.zeros((), dtype=np.float32)
        if command.ndim != 1 or not np.isfinite(command).all():
            raise InputError("a person's action must be a list of finite numbers, one per action dimension")
        with self._changed:
            place = self._place(robot)
            if place.phase != "correcting":
                raise InputError(f"{robot!r} is {place.phase}: take over before you drive it")
            if place.action_dim not in (None, len(command)):
                raise InputError(f"{robot!r} takes {place.action_dim} numbers per action, got {len(command)}")
            command.flags.writeable = False
            self._places[robot] = replace(place, command=command)
            self._commanded[robot] = self._clock()

    def drop_command(self, robot: str) -> None:
        """Forget the action that a person wanted, so that a driven robot holds still until the next one.

        Raises:
            InputError: there is no such robot.
        """
        with self._changed:
            self._places[robot] = replace(self._place(robot), command=None)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after every change of a phase, and when a robot goes; return how to stop that.

        It is called in the thread that changes the phase, must not block, and may ask the desk.
        """
        with self._changed:
            self._listeners.append(listener)

        def stop() -> None:
            with self._changed:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def wait_while_paused(self, robot: str, timeout: float | None = None) -> Phase:
        """Wait until a robot is not paused, at most `timeout` seconds; return its phase then."""
        with self._changed:
            self._changed.wait_for(lambda: self._phase(robot) != "paused", timeout)
            return self._phase(robot)

    async def until_going(self, robot: str) -> Phase:
        """Wait in an event loop, which goes on meanwhile, until a robot is not paused; return its phase."""
        loop = asyncio.get_running_loop()
        going = asyncio.Event()

        def listener(name: str, place: Place) -> None:
            if name == robot and place.phase != "paused":
                with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
                    loop.call_soon_threadsafe(going.set)

        stop = self.listen(listener)
        try:
            while (phase := self.phase(robot)) == "paused":
                await going.wait()
                going.clear()
            return phase
        finally:
            stop()

    def _tell(self, robot: str, place: Place) -> None:
        with self._changed:
            listeners = list(self._listeners)
        for listener in listeners:
            listener(robot, place)

    def _phase(self, robot: str) -> Phase:
        return self._places.get(robot, NOBODY).phase

    def _place(self, robot: str) -> Place:
        if robot not in self._places:
            raise InputError(f"there is no robot {robot!r} here; there are {sorted(self._places)}")
        return self._places[robot]
