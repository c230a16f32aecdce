"""Opening and closing doors that turn about an upright hinge."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from rdvla.simulation.experts.libero.motion import CLOSED, OPEN, Arm, Motion
from rdvla.simulation.experts.libero.pick_place import CLEARANCE
from rdvla.simulation.experts.libero.rotations import Array, pointing_down
from rdvla.simulation.experts.libero.world import World
from rdvla.simulation.libero_control import rotation_matrix

_LOG = logging.getLogger(__name__)

_UP = np.array([0.0, 0.0, 1.0])
_BELOW_TOP = 0.035  # how far the fingertips reach down beside a door, so that the palm passes over it
_BESIDE = 0.07  # between the door and where the hand comes down, in metres
_AHEAD = 0.06  # how far inside the door the pushing hand aims, in metres
_TURN_A_STEP = 0.15  # radians that the pulling hand aims ahead
_OPENED = -1.5  # radians; LIBERO counts the microwave as open from -1.3


@dataclass(frozen=True)
class Door:
    """Where a door is now.

    Attributes:
        joint: name of its hinge.
        angle: the hinge's position in radians, 0 when closed and negative when open.
        hinge: a point (3,) on the hinge.
        along: the direction (3,) from the hinge to the free edge.
        outward: the direction (3,) that its outside faces.
        top: height of its upper edge.
        width: from the hinge to the free edge, in metres.
        bar: centre (3,) of the upper of the bars that join the handle to the door.
    """

    joint: str
    angle: float
    hinge: Array
    along: Array
    outward: Array
    top: float
    width: float
    bar: Array


def door_of(world: World, fixture: str) -> Door:
    """Return the door of a fixture such as LIBERO's microwave."""
    joint = world.problem.get_object(fixture).joints[0]
    info = world.model.joint(joint)
    body = int(info.bodyid[0])
    frame = world.data.xmat[body].reshape(3, 3)
    hinge = world.data.xanchor[info.id].copy()
    points = world.part(body)
    centers = world.data.geom_xpos[world.shapes_of(body)]
    outside = (centers - hinge) @ -frame[:, 1]
    bars = centers[outside > outside.max() - 0.03]  # handle and bars, not the panel
    return Door(
        joint=joint,
        angle=world.joint(joint),
        hinge=hinge,
        along=frame[:, 0].copy(),
        outward=-frame[:, 1],
        top=float(points[:, 2].max()),
        width=float(((points - hinge) @ frame[:, 0]).max()),
        bar=bars[np.argmax(bars[:, 2])].copy(),
    )


def close_door(arm: Arm, fixture: str) -> Motion:
    """Push a door shut from the outside with the closed fingers."""
    world, goal = arm.world, ("close", fixture)
    door = door_of(world, fixture)
    start = _outside(door, _BESIDE)
    height = max(world.cloud().highest_along(world.hand[0], start), door.top) + CLEARANCE
    yield from arm.reach(start, pointing_down(0.0), height=height, gripper=CLOSED, tolerance=0.02)
    for _ in range(100):
        if world.holds(goal):
            break
        yield arm.servo(_outside(door_of(world, fixture), -_AHEAD))
    _LOG.debug("door of %s pushed from %.2f to %.3f", fixture, door.angle, world.joint(door.joint))
    yield from arm.move(world.hand[0] + 0.05 * door_of(world, fixture).outward, tolerance=0.03, limit=10)
    return world.holds(goal)


def open_door(arm: Arm, fixture: str) -> Motion:
    """Take the bar above the handle from above and lead the door open."""
    world, goal = arm.world, ("open", fixture)
    first = door_of(world, fixture)
    # Closing along the door; of the two ways the one in which the wrist turns back towards its middle.
    yaw = np.pi / 2 + first.angle
    place = np.array([*first.bar[:2], max(first.bar[2] - 0.005, first.top - _BELOW_TOP)])
    height = max(world.cloud().highest_along(world.hand[0], place), first.top) + CLEARANCE
    yield from arm.reach(place, pointing_down(yaw), height=height, gripper=OPEN)
    yield from arm.close(place)
    for _ in range(90):
        door = door_of(world, fixture)
        if door.angle < _OPENED:
            break
        ahead = rotation_matrix(-_TURN_A_STEP * _UP)
        arm.rotation = pointing_down(yaw + door.angle - first.angle - _TURN_A_STEP)
        goal_place = door.hinge + ahead @ (door.bar - door.hinge)
        yield arm.servo(np.array([*goal_place[:2], place[2]]), speed=0.8)
    _LOG.debug("door of %s pulled from %.2f to %.3f", fixture, first.angle, world.joint(first.joint))
    yield from arm.release(rise=0.10)
    return world.holds(goal)


def _outside(door: Door, distance: float) -> Array:
    """Return a place (3,) for the fingertips before the door's outer face, between hinge and handle."""
    place = door.hinge + 0.7 * door.width * door.along + (0.025 + distance) * door.outward
    return np.array([*place[:2], door.top - _BELOW_TOP])
