"""Read a task's goal and achieve its conditions in order, again if one has come undone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rdvla.simulation.libero.expert.articulated import (
    close_door,
    close_drawer,
    door_of,
    drawer_of,
    open_door,
    open_drawer,
    spot_next_to,
    turn_knob,
)
from rdvla.simulation.libero.expert.geometry import Array
from rdvla.simulation.libero.expert.grasps import Preference
from rdvla.simulation.libero.expert.insert import Opening, insert, side_grasps
from rdvla.simulation.libero.expert.motion import OPEN, Arm, Motion
from rdvla.simulation.libero.expert.pick_place import best_grasps, lost, pick, push, put_down, straighten
from rdvla.simulation.libero.expert.world import World
from rdvla.simulation.libero.goals import Goal

_LOG = logging.getLogger(__name__)

_ORDER = {"close": 0, "open": 1, "turnon": 2, "turnoff": 2, "in": 3, "on": 3}
_LAST = 4
_MOST_ATTEMPTS = 6  # at a condition
_AJAR = -1.0  # radians that a microwave's door must be open
_BUTTONS = 0.02  # metres from the microwave's middle to its compartment's, away from the buttons
_FROM_HANDLES = 0.016  # metres from a drawer's middle towards its front
_SLIDING = 0.012  # metres above the table at which an object is moved aside
_ASIDE = 0.015  # metres from its destination that are near enough
_OPEN_ENOUGH = 0.10  # metres that a drawer must be open to put something into it


def ordered(goals: Sequence[Goal]) -> list[Goal]:
    """Return the conditions in the order in which to achieve them.

    Doors and drawers are closed before others are opened, but after something has been put in. An object that
    carries another is positioned first.
    """
    moved = {goal[1]: goal for goal in goals if len(goal) == 3}
    filled = [goal[2] for goal in goals if goal[0] == "in"]

    def turn(goal: Goal) -> int:
        late = goal[0] == "close" and any(region.startswith(goal[1]) for region in filled)
        return _LAST if late else _ORDER[goal[0]]

    def height(goal: Goal) -> int:
        below = moved.get(goal[2]) if len(goal) == 3 else None
        return 0 if below is None else 1 + height(below)

    return sorted(goals, key=lambda goal: (turn(goal), height(goal)))


def solve(arm: Arm) -> Motion:
    """Achieve all of the task's conditions; return whether they hold."""
    world = arm.world
    attempts: Counter[Goal] = Counter()
    for _ in range(_MOST_ATTEMPTS * len(world.goals)):
        missing = [goal for goal in ordered(world.goals) if not world.holds(goal)]
        if not missing:
            return True
        goal = missing[0]
        _LOG.debug("attempt %d: %s", attempts[goal], goal)
        closed = yield from achieve(arm, goal, attempts[goal])
        attempts[goal] += 1
        if goal[0] == "close" and not closed:
            # An object inside may stand out and be in the way.
            for filling in world.goals:
                if filling[0] == "in" and filling[2].startswith(goal[1]):
                    yield from achieve(arm, filling, attempts[filling])
    return all(world.holds(goal) for goal in world.goals)


def achieve(arm: Arm, goal: Goal, attempt: int) -> Motion:
    """Try once to achieve a condition; return whether it holds."""
    kind, name = goal[0], goal[1]
    is_drawer = arm.world.region(name) is not None
    if kind == "open":
        yield from (open_drawer if is_drawer else open_door)(arm, name)
    elif kind == "close":
        yield from (close_drawer if is_drawer else close_door)(arm, name)
    elif kind in ("turnon", "turnoff"):
        yield from turn_knob(arm, name, on=kind == "turnon")
    else:
        yield from _put(arm, goal, attempt)
    return arm.world.holds(goal)


def _put(arm: Arm, goal: Goal, attempt: int) -> Motion:
    """Put an object on another object, or on or in a region."""
    world, (kind, name, target) = arm.world, goal
    if kind == "on" and target.endswith("front_region") and name.startswith("plate"):
        return (yield from push(arm, name, world.region_box(target)[0][:2]))
    preference = None
    if attempt:
        straighten(arm)
        yield from arm.move(world.hand[0] + [0, 0, 0.08], gripper=OPEN, tolerance=0.03, limit=25)
    if kind == "in" and _is_drawer(world, target):
        drawer = drawer_of(world, target)
        if drawer.opened < _OPEN_ENOUGH:
            spot = spot_next_to(world, name, target)
            if spot is not None and not (yield from _move_aside(arm, name, spot)) and not attempt:
                return False
            yield from open_drawer(arm, target)
        # A hand that closes along the cabinet's front does not meet the cabinet above the drawer.
        preference = Preference(yaw=float(np.arctan2(drawer.outward[1], drawer.outward[0])))
    if kind == "in" and "microwave" in target:
        return (yield from _put_in_microwave(arm, name, target, attempt))
    grasps = best_grasps(arm, name, preference)
    if not grasps:
        _LOG.debug("no grasp of %s", name)
        return False
    if not (yield from pick(arm, name, grasp=grasps[attempt % len(grasps)])):
        return False
    spot, bottom = _destination(world, goal)
    return (yield from put_down(arm, name, spot, bottom=bottom))


def _move_aside(arm: Arm, name: str, spot: Array) -> Motion:
    """Slide an object to `spot` (2,), just above its support; return whether it arrived."""
    world, floor = arm.world, arm.world.lowest(name)
    grasps = best_grasps(arm, name)
    if not grasps or not (yield from pick(arm, name, grasp=grasps[0])):
        return False
    for _ in range(40):
        left, above = spot - world.position(name)[:2], world.lowest(name) - floor
        if np.linalg.norm(left) < _ASIDE and above < _ASIDE:
            break
        if lost(arm, name):
            return False
        yield arm.servo(world.hand[0] + [*left, _SLIDING - above])
    yield from arm.release()
    return bool(np.linalg.norm(spot - world.position(name)[:2]) < 2 * _ASIDE)


def _put_in_microwave(arm: Arm, name: str, target: str, attempt: int) -> Motion:
    """Open the microwave if it is shut, take the object at its near end and slide it in."""
    world = arm.world
    fixture = world.region(target).parent_name  # type: ignore[union-attr]
    if door_of(world, fixture).angle > _AJAR:
        yield from open_door(arm, fixture)
    inward = world.data.xmat[world.body_of(fixture)].reshape(3, 3)[:2, 1].copy()  # it faces its own -y
    center, half = world.region_box(target)
    grasps = side_grasps(arm, name, inward)
    if not grasps or not (yield from pick(arm, name, grasp=grasps[attempt % len(grasps)])):
        return False
    # The region's box is wider than the compartment, which ends before the panel with the buttons.
    sideways = np.array([inward[1], -inward[0]])
    goal = center[:2] - _BUTTONS * sideways - 0.08 * inward
    entry = goal - 0.13 * inward + 0.03 * sideways
    opening = Opening(inward, goal, entry, floor=float(center[2] - half[2]) + 0.008)
    return (yield from insert(arm, name, opening))


def _is_drawer(world: World, region: str) -> bool:
    site = world.region(region)
    return site is not None and "cabinet" in region and region.endswith("_region") and bool(site.joints)


def _destination(world: World, goal: Goal) -> tuple[Array, float]:
    """Return where the object's origin goes in the plane (2,), and how high its lowest point at release."""
    kind, target = goal[0], goal[2]
    if world.region(target) is None:
        center, points = world.position(target), world.surface(target)
        middle = points[np.linalg.norm(points[:, :2] - center[:2], axis=1) < 0.03, 2]
        return center[:2], float(middle.max(initial=center[2])) + 0.006
    center, half = world.region_box(target)
    spot = center[:2] + _share(world, goal)
    if kind == "on":
        return spot, float(center[2] + half[2]) + 0.004
    if "basket" in target:  # the hand does not fit between its walls
        return spot, float(center[2]) - 0.02
    if _is_drawer(world, target):  # the handles of the drawers above stand out over its rear
        spot = spot + _FROM_HANDLES * drawer_of(world, target).outward[:2]
    return spot, float(center[2] - half[2]) + 0.015


def _share(world: World, goal: Goal) -> Array:
    """Return the offset (2,) that gives each of two objects its own half of a surface."""
    sharing = [other[1] for other in world.goals if other[0] == "on" and other[2:] == goal[2:]]
    offset = np.zeros(2)
    if len(sharing) > 1:
        extent = np.ptp(world.surface(goal[1]), axis=0)[:2]
        axis = int(np.argmin(extent))
        offset[axis] = (1 - 2 * sharing.index(goal[1])) * (extent[axis] / 2 + 0.004)
    return offset
