"""Pick an object up and put it somewhere, or push a dish along the table."""

from __future__ import annotations

import logging

import numpy as np

from rdvla.simulation.libero.expert.geometry import Array, nearer_finger_order, pointing, pointing_down
from rdvla.simulation.libero.expert.grasps import Grasp, Preference, plan_grasps
from rdvla.simulation.libero.expert.motion import CLOSED, OPEN, Arm, Motion, Slack, funnel, rise_first
from rdvla.simulation.libero.expert.world import Cloud

_LOG = logging.getLogger(__name__)

CLEARANCE = 0.05  # metres between a carried object, or the fingertips, and obstacles below
_EMPTY = 0.0015  # the fingers' opening with nothing between them
_TOO_FAR = 0.03  # metres between the hand or the object and the grasp, from which closing is of no use
_FURTHEST_OUT = 0.16
_ANGLES = np.linspace(0, 2 * np.pi, 32, endpoint=False)
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_UP = np.array([0.0, 0.0, 1.0])
_UPRIGHT = 0.5  # height of the unit closing axis from which on the hand is level, as at a drawer's handle
_ABOVE_BOTTOM = 0.018  # metres of the fingertips above the bottom of a dish that they push
_LOST = 0.04  # metres between the fingertips and the nearest point of an object that has been lost


def best_grasps(arm: Arm, name: str, preference: Preference | None = None) -> list[Grasp]:
    """Return the possible grasps of an object as it lies now, the best first."""
    cloud = arm.world.cloud()
    mine = cloud.owners == arm.world.body_of(name)
    return plan_grasps(cloud.points, mine, preference=preference)


def pick(arm: Arm, name: str, *, grasp: Grasp) -> Motion:
    """Close the hand around an object; return whether it is between the fingers.

    It ends early if the object is pushed away, since the grasp no longer fits.
    """
    cloud, hand, before = arm.world.cloud(), arm.world.hand, arm.world.position(name)
    height = max(cloud.highest_along(hand[0], grasp.position) + CLEARANCE, grasp.position[2] + 0.06)
    down = pointing_down(grasp.yaw)
    _LOG.debug("grasp %s at %s yaw %.2f score %.2f", name, grasp.position.round(3), grasp.yaw, grasp.score)
    for action in arm.reach(grasp.position, down, height=height, gripper=OPEN):
        if np.linalg.norm(arm.world.position(name) - before) > _TOO_FAR:
            _LOG.debug("%s was pushed away", name)
            return False
        yield action
    if arm.error(grasp.position)[0] > _TOO_FAR:
        return False
    yield from arm.close(grasp.position)
    shift = way_out(cloud, arm.world.body_of(name))
    if shift.any():
        yield from arm.move(arm.world.hand[0] + [*shift, 0.01], tolerance=0.015, limit=25)
    return not lost(arm, name)


def way_out(cloud: Cloud, body: int) -> Array:
    """Return the shortest horizontal movement (2,) after which nothing hangs over an object; zero if free.

    Zero, too, if there is no way out within reach.
    """
    own = cloud.of(body)
    center = (own.min(axis=0) + own.max(axis=0))[:2] / 2
    radius = np.linalg.norm(own[:, :2] - center, axis=1).max() + 0.01
    over = cloud.points[(cloud.owners != body) & (cloud.points[:, 2] > own[:, 2].max()), :2] - center
    over = over[np.linalg.norm(over, axis=1) < radius + _FURTHEST_OUT]
    if not (np.linalg.norm(over, axis=1) < radius).any():
        return np.zeros(2)
    for distance in np.arange(0.01, _FURTHEST_OUT, 0.01):
        shifts = distance * _DIRECTIONS
        free = [shift for shift in shifts if not (np.linalg.norm(over - shift, axis=1) < radius).any()]
        if free:  # the middle of several leads straight away
            return np.asarray(free[len(free) // 2])
    return np.zeros(2)


def put_down(arm: Arm, name: str, goal: Array, *, bottom: float) -> Motion:
    """Carry the held object until its origin is over `goal` (2,), lower it and let go.

    Args:
        name: the held object.
        goal: where its origin goes in the plane.
        bottom: height of its lowest point at release.

    Returns:
        False if the object was lost on the way.
    """
    if not (yield from carry(arm, name, goal, bottom=bottom)):
        return False
    yield from arm.release()
    return True


def carry(arm: Arm, name: str, goal: Array, *, bottom: float, precise: bool = True) -> Motion:
    """Carry the held object over to `goal` (2,) and let it down until its lowest point is at `bottom`.

    It also ends if the object comes to rest on something higher.

    Args:
        name: the held object.
        goal: where its origin goes in the plane.
        bottom: height of its lowest point at the end.
        precise: come as near as two centimetres; otherwise three are enough.

    Returns:
        False if the object was lost on the way.
    """
    world = arm.world
    hand, held = world.hand[0], world.position(name)
    arm.settle()
    highest = world.cloud().highest_along(held, goal, without=world.body_of(name))
    cross = max(highest, bottom, world.lowest(name)) + CLEARANCE
    resting, previous, slack = 0, np.inf, Slack(0.010)
    # Wide enough that a policy that copies this, with errors of millimetres, also lets go.
    near, level = (0.018, 0.010) if precise else (0.03, 0.02)
    for _ in range(200):
        if lost(arm, name):
            return False
        hand, held, low = world.hand[0], world.position(name), world.lowest(name)
        sideways = goal - held[:2]
        distance = float(np.linalg.norm(sideways))
        if distance < near and low < bottom + level:
            break
        resting = resting + 1 if distance < near + 0.003 and abs(low - previous) < 4e-4 else 0
        if resting > 1:
            break
        previous = low
        wanted = min(bottom + funnel(distance, slack=slack.of(distance)), cross)
        target = np.array([*(hand[:2] + sideways), hand[2] + wanted - low - 0.004])
        yield arm.servo(rise_first(hand, target), speed=1.0 if distance > 0.02 else 0.7)
    return True


def lost(arm: Arm, name: str) -> bool:
    """Return whether an object is no longer between the fingers."""
    away = float(np.linalg.norm(arm.world.surface(name) - arm.world.hand[0], axis=1).min())
    gone = arm.world.opening < _EMPTY or away > _LOST
    if gone:
        _LOG.debug("lost %s: opening %.4f, %.3f away", name, arm.world.opening, away)
    return gone


def straighten(arm: Arm) -> None:
    """Let the coming motions turn the hand to point down, and the wrist only if the hand is level."""
    present = arm.world.hand[1]
    closing = present[:, 0]
    if abs(closing[2]) > _UPRIGHT:
        arm.rotation = nearer_finger_order(pointing_down(0.0), present)
    else:
        arm.rotation = pointing(-_UP, closing)


def push(arm: Arm, name: str, goal: Array) -> Motion:
    """Push a dish's rim from the inside with closed fingers until its origin is over `goal` (2,).

    There is often no room for the hand behind a dish, but always inside it.
    """
    world = arm.world
    start = world.position(name)
    way = (goal - start[:2]) / np.linalg.norm(goal - start[:2])
    rotation = nearer_finger_order(pointing_down(np.arctan2(way[1], way[0])), world.hand[1])
    height = max(world.cloud().highest_along(world.hand[0], start) + CLEARANCE, start[2] + 0.10)
    inside = np.array([*start[:2], world.lowest(name) + _ABOVE_BOTTOM])
    yield from arm.reach(inside, rotation, height=height, gripper=CLOSED, tolerance=0.008)
    for _ in range(90):
        hand, dish = world.hand[0], world.position(name)
        error = goal - dish[:2]
        left = float(error @ way)
        if left < 0.004 or np.linalg.norm(hand[:2] - dish[:2]) > 0.11:
            break
        ahead = hand[:2] + way * np.clip(left, 0.02, 0.05) + 0.3 * (error - left * way)
        yield arm.servo(np.array([*ahead, inside[2] - 0.004]), speed=0.7)
    yield from arm.move(world.hand[0] + [0, 0, 0.08], tolerance=0.03, limit=20)
    return bool(np.linalg.norm(goal - world.position(name)[:2]) < 0.02)
