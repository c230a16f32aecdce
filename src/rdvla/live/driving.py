"""Checks what a person asks on the page before it reaches the desk; one person drives a robot."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.control import PHASES, Desk, Phase
from rdvla.errors import InputError
from rdvla.live.events import RobotFacts
from rdvla.live.hub import Hub

SILENCE = 1.0  # seconds without a command, after which a robot that is driven is brought to rest
CLOSED = "the page of the person who drove it was closed"


@dataclass
class _Driver:
    watcher: object
    heard: float  # `time.monotonic()` of the last command
    resting: bool = True


class Driving:
    """Passes control messages of several watchers on to the desk, for any number of threads."""

    def __init__(self, hub: Hub, desk: Desk) -> None:
        self._hub, self._desk = hub, desk
        self._drivers: dict[str, _Driver] = {}
        self._lock = threading.Lock()

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
            return "you" if driver.watcher is watcher else "another"

    def rest(self, now: float | None = None) -> None:
        """Bring robots to rest whose driver has fallen silent; call it every now and then."""
        now = time.monotonic() if now is None else now
        with self._lock:
            silent = [
                (robot, driver)
                for robot, driver in self._drivers.items()
                if not driver.resting and now - driver.heard > SILENCE
            ]
            for robot, driver in silent:
                driver.resting = True
                self._put_to_rest(robot)

    def leave(self, watcher: object) -> None:
        """Pause the robots that a watcher drives; nobody drives them any more."""
        with self._lock:
            for robot in [name for name, driver in self._drivers.items() if driver.watcher is watcher]:
                del self._drivers[robot]
                if self._desk.phase(robot) == "correcting":
                    self._desk.change(robot, "paused", cause=CLOSED)

    def _change(self, watcher: object, robot: str, phase: Any) -> None:
        if phase not in PHASES:
            raise InputError(f"phase is {phase!r}; it must be one of {', '.join(PHASES)}")
        checked: Phase = phase
        if checked == "correcting" and not self._facts(robot).drivable:
            raise InputError(f"{robot!r} cannot be driven from here")
        with self._lock:
            self._desk.change(robot, checked)
            self._drivers.pop(robot, None)
            if checked == "correcting":
                self._drivers[robot] = _Driver(watcher, time.monotonic())

    def _steer(self, watcher: object, robot: str, action: Any) -> None:
        command = _in_range(action, self._facts(robot))
        with self._lock:
            driver = self._drivers.get(robot)
            if driver is None or driver.watcher is not watcher:
                raise InputError(f"you do not drive {robot!r}: take over first")
            self._desk.steer(robot, command.tolist())
            driver.heard, driver.resting = time.monotonic(), False

    def _put_to_rest(self, robot: str) -> None:
        command = self._desk.command(robot)
        if command is not None and self._desk.phase(robot) == "correcting":
            self._desk.steer(robot, at_rest(command, self._facts(robot)).tolist())

    def _facts(self, robot: str) -> RobotFacts:
        view = self._hub.robots().get(robot)
        if view is None:
            raise InputError(f"there is no robot {robot!r} here any more")
        return view.facts


def at_rest(command: NDArray[np.float32], facts: RobotFacts) -> NDArray[np.float32]:
    """Return the action, (A,), that follows a command as soon as nothing is pressed.

    Numbers that are held stay; the others go to 0, or to the end of their range nearest to 0.
    """
    resting = np.zeros_like(command)
    if facts.action_low and facts.action_high:
        resting = np.clip(resting, facts.action_low, facts.action_high).astype(np.float32)
    return np.where(np.asarray(facts.action_held or [False] * len(command)), command, resting)


def _in_range(action: Any, facts: RobotFacts) -> NDArray[np.float32]:
    numbers = isinstance(action, Sequence) and all(type(value) in (int, float) for value in action)
    if not numbers or not np.isfinite(action).all():
        raise InputError("steer must be a list of finite numbers, one per action dimension")
    command = np.asarray(action, dtype=np.float32)
    if facts.action_low and facts.action_high:
        if len(command) != len(facts.action_low):
            raise InputError(f"steer has {len(command)} numbers, the robot takes {len(facts.action_low)}")
        command = np.clip(command, facts.action_low, facts.action_high).astype(np.float32)
    return command
