"""Checks what a person asks on the page before it reaches the desk; one person drives a robot."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import numpy as np

from rdvla.control import PHASES, Desk, Phase, Place
from rdvla.errors import InputError
from rdvla.live.events import RobotFacts
from rdvla.live.hub import Hub


class Driving:
    """Passes control messages of several watchers on to the desk, for any number of threads."""

    def __init__(self, hub: Hub, desk: Desk) -> None:
        self._hub, self._desk = hub, desk
        self._drivers: dict[str, object] = {}  # robot -> the watcher who drives it
        self._lock = threading.RLock()  # the desk calls `_forget` in the thread that changes a phase
        desk.listen(self._forget)

    def take(self, watcher: object, message: dict[str, Any]) -> None:
        """Do what a watcher asks: ``{"robot": NAME, "phase": PHASE}`` or ``{"robot": NAME, "steer": [...]}``.

        Raises:
            InputError: it cannot be done; the message is for the watcher.
        """
        robot = message.get("robot")
        if not isinstance(robot, str):
            raise InputError("the message names no robot")
        if "phase" in message:
            self._change(watcher, robot, message["phase"])
        elif "steer" in message:
            self._steer(watcher, robot, message["steer"])

    def driver(self, robot: str, watcher: object) -> str | None:
        """Return who drives a robot: "you" for this watcher, "another", or None."""
        with self._lock:
            driver = self._drivers.get(robot)
            if driver is None or self._desk.phase(robot) != "correcting":
                return None
            return "you" if driver is watcher else "another"

    def leave(self, watcher: object) -> None:
        """Pause the robots that a watcher drives, who goes."""
        with self._lock:
            for robot in [name for name, driver in self._drivers.items() if driver is watcher]:
                self._drivers.pop(robot, None)
                with suppress(InputError):  # the robot goes at the same time; the others still have to pause
                    if self._desk.phase(robot) == "correcting":
                        self._desk.change(robot, "paused")

    def _forget(self, robot: str, _: Place) -> None:
        """Drop the driver of a robot that nobody drives any more: one that comes again has none."""
        with self._lock:
            if self._desk.phase(robot) != "correcting":
                self._drivers.pop(robot, None)

    def _change(self, watcher: object, robot: str, phase: Any) -> None:
        if phase not in PHASES:
            raise InputError(f"phase is {phase!r}; it must be one of {', '.join(PHASES)}")
        checked: Phase = phase
        if checked == "correcting" and not self._facts(robot).can_be_driven:
            raise InputError(f"{robot!r} cannot be driven from here")
        with self._lock:
            self._desk.change(robot, checked)
            if checked != "correcting":
                self._drivers.pop(robot, None)
            elif self._drivers.get(robot) is not watcher:
                self._desk.drop_command(robot)  # it is the last driver's
                self._drivers[robot] = watcher

    def _steer(self, watcher: object, robot: str, action: Any) -> None:
        command = _in_range(action, self._facts(robot))
        with self._lock:
            if self._drivers.get(robot) is not watcher:
                raise InputError(f"you do not drive {robot!r}: take over first")
            self._desk.steer(robot, command)

    def _facts(self, robot: str) -> RobotFacts:
        view = self._hub.robots().get(robot)
        if view is None:
            raise InputError(f"there is no robot {robot!r} here any more")
        return view.facts


def _in_range(action: Any, facts: RobotFacts) -> list[float]:
    if not isinstance(action, list) or not all(type(value) in (int, float) for value in action):
        raise InputError("steer must be a list of numbers, one per action dimension")
    if not (facts.action_low and facts.action_high):
        return action
    if len(action) != len(facts.action_low):
        raise InputError(f"steer has length {len(action)}, an action of the robot {len(facts.action_low)}")
    clipped: list[float] = np.clip(action, facts.action_low, facts.action_high).tolist()
    return clipped
