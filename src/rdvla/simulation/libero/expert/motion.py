"""Closed-loop motions of the arm, as generators of actions.

A motion reads the simulator before each action it yields, so it recovers from actions that noise has changed.
It returns whether it arrived. Motions are composed with `yield from`.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.libero.expert.geometry import Array, angle_between, turn
from rdvla.simulation.libero.expert.world import World

Action = NDArray[np.float32]
Motion = Generator[Action, None, bool]

OPEN, CLOSED = -1.0, 1.0

# The controller's goal is the present pose plus the action in these units, so an error divided by them asks
# for the goal itself if a single action reaches it.
POSITION_UNIT, ROTATION_UNIT = 0.05, 0.5
_FULL_CLOSING = 8  # control steps in which the gripper's command runs from open to closed
_FUNNEL = 6.0  # height kept above a goal per metre of horizontal distance
_ROTATION_FUNNEL = 0.4  # and for each radian still to turn
_RESTING = 0.0015  # metres a step: a hand that sinks more slowly than this has come down
_AWAY = 0.01  # metres of horizontal distance to its goal at which the hand may rest
_NEAR = 0.04  # metres within which errors are summed up
_PUSHED_AWAY = 0.02  # metres lost by a disturbance, after which progress is counted anew
_INTEGRAL_GAIN, _MOST_DROOP = 0.1, 0.03


class Arm:
    """The arm, with its state between motions: the gripper's command and the wanted orientation.

    Attributes:
        world: the view of the simulator.
        gripper: the gripper's command, OPEN or CLOSED.
        rotation: the orientation (3, 3) that motions keep or turn to.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.gripper = OPEN
        self.rotation = world.hand[1]
        self._droop = np.zeros(3)

    def servo(self, position: Array, *, speed: float = 1.0, turning: float = 0.5) -> Action:
        """Return the action towards `position` (3,) and the wanted orientation.

        Args:
            position: target of the point between the fingertips.
            speed: largest length of the translation, 1 is 5 cm ahead of the hand.
            turning: largest component of the rotation, 1 is half a radian ahead of the hand.
        """
        present, rotation = self.world.hand
        error = position - present
        # The compliant controller stops a few millimetres short; the sum of the small errors closes the gap.
        if np.linalg.norm(error) < _NEAR:
            self._droop = np.clip(self._droop + _INTEGRAL_GAIN * error, -_MOST_DROOP, _MOST_DROOP)
        step = (error + self._droop) / POSITION_UNIT
        step *= min(1.0, speed / max(float(np.linalg.norm(step)), 1e-9))
        spin = turn(rotation, self.rotation) / ROTATION_UNIT
        spin *= min(1.0, turning / max(float(np.abs(spin).max()), 1e-9))
        return np.array([*step, *spin, self.gripper], np.float32).clip(-1.0, 1.0)

    def error(self, position: Array) -> tuple[float, float]:
        """Return the distance to `position` in metres and to the wanted orientation in radians."""
        present, rotation = self.world.hand
        return float(np.linalg.norm(position - present)), angle_between(rotation, self.rotation)

    def move(
        self,
        position: Array,
        rotation: Array | None = None,
        *,
        gripper: float | None = None,
        tolerance: float = 0.008,
        turn_tolerance: float = 0.15,
        limit: int = 80,
        speed: float = 1.0,
    ) -> Motion:
        """Go straight to a pose; end early if it no longer gets nearer."""
        self._start(rotation, gripper)
        watch = Progress()
        for _ in range(limit):
            distance, angle = self.error(position)
            if distance < tolerance and angle < turn_tolerance:
                return True
            if watch.stuck(distance + 0.05 * angle):
                break
            yield self.servo(position, speed=speed)
        return self.error(position)[0] < 2.5 * tolerance

    def reach(
        self,
        position: Array,
        rotation: Array | None = None,
        *,
        height: float,
        gripper: float | None = None,
        tolerance: float = 0.006,
        turn_tolerance: float = 0.08,
        limit: int = 140,
    ) -> Motion:
        """Go over to `position` and down onto it in one motion.

        The hand crosses at `height` and is let down in a funnel: the nearer it is to the vertical above the
        goal and to the wanted orientation, the lower. Pushed aside, it rises again. Near the goal it is
        enough that it sinks no further.
        """
        self._start(rotation, gripper)
        watch, slack, before = Progress(), Slack(0.006), np.inf
        for _ in range(limit):
            present = self.world.hand[0]
            distance, angle = self.error(position)
            away = float(np.linalg.norm((position - present)[:2]))
            # Held up by what it touches, it would press on until patience ends, which no camera shows.
            resting = away < _AWAY and distance < 2.5 * tolerance and before - present[2] < _RESTING
            if angle < turn_tolerance and (distance < tolerance or resting):
                return True
            before = present[2]
            above = funnel(away, angle - turn_tolerance, slack=slack.of(away))
            target = np.array([*position[:2], position[2] + min(above, max(height - position[2], 0.0))])
            if watch.stuck(distance + 0.05 * angle):
                break
            yield self.servo(rise_first(present, target))
        return self.error(position)[0] < 2.5 * tolerance

    def close(self, position: Array) -> Motion:
        """Close the gripper, held at `position`, until the fingers have come to rest."""
        self.gripper, previous = CLOSED, self.world.opening
        for step in range(_FULL_CLOSING + 4):
            yield self.servo(position, speed=0.3)
            opening = self.world.opening
            if step >= _FULL_CLOSING - 1 and abs(opening - previous) < 5e-4:
                break
            previous = opening
        return True

    def release(self, *, rise: float = 0.08, away: Array | None = None, hold: int = 4) -> Motion:
        """Open the gripper for `hold` steps and leave, straight up or along `away` (3,)."""
        self.gripper = OPEN
        yield from self.hold(hold)
        way = np.array([0.0, 0.0, 1.0]) if away is None else away
        yield from self.move(self.world.hand[0] + rise * way, tolerance=0.03, limit=15)
        return True

    def hold(self, steps: int, gripper: float | None = None) -> Motion:
        """Stay for a number of control steps."""
        self._start(None, gripper)
        position = self.world.hand[0]
        for _ in range(steps):
            yield self.servo(position)
        return True

    def settle(self) -> None:
        """Forget the correction of the steady error at the present position, before going elsewhere."""
        self._droop = np.zeros(3)

    def rest(self) -> Action:
        """Return the action that does nothing and keeps the gripper's command."""
        return np.array([0, 0, 0, 0, 0, 0, self.gripper], np.float32)

    def _start(self, rotation: Array | None, gripper: float | None) -> None:
        self.settle()
        if rotation is not None:
            self.rotation = rotation
        if gripper is not None:
            self.gripper = gripper


def funnel(away: float, angle: float = 0.0, *, slack: float) -> float:
    """Return the height to keep above a goal, from the distance to it (metres) and the turn (radians)."""
    return max(_FUNNEL * (away - slack), 0.0) + max(_ROTATION_FUNNEL * angle, 0.0)


class Slack:
    """How far from its goal the hand may be let down; grows while the hand gets no nearer.

    A stretched arm reaches some places only from below the height at which it crosses.
    """

    def __init__(self, slack: float) -> None:
        self._slack, self._nearest = slack, np.inf

    def of(self, away: float) -> float:
        """Return the present slack in metres, given the present distance in the plane."""
        if away < self._nearest - 2e-4:
            self._nearest = away
        elif away < _NEAR:
            self._slack += 0.001
        return self._slack


def rise_first(present: Array, target: Array) -> Array:
    """Return where to go now: up to the target's height first, then sideways."""
    missing = target[2] - present[2]
    sideways = float(np.clip(1.75 - missing / 0.04, 0.0, 1.0))
    return np.array([*(present[:2] + sideways * (target - present)[:2]), target[2]])


class Progress:
    """Notices that a motion no longer gets nearer to its goal."""

    def __init__(self, patience: int = 12) -> None:
        self._best, self._since, self._patience = 1e9, 0, patience

    def stuck(self, cost: float) -> bool:
        """Return whether the cost in metres has not fallen for longer than the patience, in steps."""
        pushed_away = cost > self._best + _PUSHED_AWAY
        if cost < self._best - 5e-4 or pushed_away:
            self._best, self._since = cost, 0
        else:
            self._since += 1
        return self._since > self._patience
