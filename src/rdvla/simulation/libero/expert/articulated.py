"""Move what turns or slides: drawers, doors about an upright hinge, and the knob of a stove."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from rdvla.simulation.libero.control import rotation_matrix
from rdvla.simulation.libero.expert.geometry import (
    Array,
    nearer_finger_order,
    pointing,
    pointing_down,
    wrapped_half_turn,
)
from rdvla.simulation.libero.expert.motion import CLOSED, OPEN, Arm, Motion, Progress
from rdvla.simulation.libero.expert.pick_place import CLEARANCE, way_out
from rdvla.simulation.libero.expert.world import Cloud, World

_LOG = logging.getLogger(__name__)

_UP = np.array([0.0, 0.0, 1.0])
_PULL = 0.17  # metres; LIBERO counts a drawer as open from 0.14
_CLEAR = 0.02  # metres; an object that would have to move less than this is not under the drawer
_FROM_DRAWER = 0.015  # metres between an opened drawer and an object put next to it

_BELOW_TOP = 0.035  # metres that fingertips reach below a door's top; the palm passes over it
_FROM_DOOR = 0.07  # metres between the door and the point where the hand comes down
_AHEAD = 0.06  # how far inside the door the pushing hand aims, in metres
_DOOR_TURN = 0.15  # radians that the pulling hand aims ahead
_OPENED = -1.5  # radians; LIBERO counts the microwave as open from -1.3

_KNOB_TURN = 0.1  # radians
_FURTHEST = 1.4  # radians that the wrist turns at most


@dataclass(frozen=True)
class Drawer:
    """Where a drawer is now.

    Attributes:
        joint: name of its sliding joint.
        outward: the direction (3,) in which it opens.
        handle: centre (3,) of its handle.
        opened: how far it is open in metres.
        body: its body in the simulator.
    """

    joint: str
    outward: Array
    handle: Array
    opened: float
    body: int


def drawer_of(world: World, region: str) -> Drawer:
    """Return the drawer that has the region inside; its handle is the shape that sticks out furthest."""
    joint = world.region(region).joints[0]  # type: ignore[union-attr]
    info = world.model.joint(joint)
    low, high = info.range
    outward = world.data.xaxis[info.id] * (-1.0 if abs(low) > abs(high) else 1.0)
    body = int(info.bodyid[0])
    shapes = world.shapes_of(body)
    handle = max(shapes, key=lambda shape: float(world.data.geom_xpos[shape] @ outward))
    return Drawer(joint, outward, world.data.geom_xpos[handle].copy(), abs(world.joint(joint)), body)


def spot_next_to(world: World, name: str, region: str) -> Array | None:
    """Return where (2,) an object goes before a drawer can open; None if it is not in the way.

    It is always the same spot next to the opened drawer's front, so a policy that copies this can see it.
    """
    drawer = drawer_of(world, region)
    own, center = world.surface(name), world.position(name)[:2]
    opened = world.body_surface(drawer.body) + (_PULL - drawer.opened) * drawer.outward
    owners = np.concatenate([np.full(len(own), world.body_of(name)), np.full(len(opened), -1)])
    needed = way_out(Cloud(np.concatenate([own, opened]), owners), world.body_of(name))
    if np.linalg.norm(needed) < _CLEAR:
        return None
    across = np.cross(_UP, drawer.outward)[:2]
    side = np.sign((center - drawer.handle[:2]) @ across)
    half_width = np.ptp(opened[:, :2] @ across) / 2
    radius = np.linalg.norm(own[:, :2] - center, axis=1).max()
    front = drawer.handle + (_PULL - drawer.opened) * drawer.outward
    spot: Array = front[:2] + side * (half_width + radius + _FROM_DRAWER) * across
    return spot


def open_drawer(arm: Arm, region: str) -> Motion:
    """Pull a drawer open by its handle: hand level, fingers above and below the bar."""
    drawer = drawer_of(arm.world, region)
    rotation = nearer_finger_order(pointing(-drawer.outward, _UP), arm.world.hand[1])
    # A little above the bar's middle: the level hand reaches down to what stands before the cabinet.
    grip = drawer.handle + 0.004 * drawer.outward + 0.012 * _UP
    before = grip + 0.09 * drawer.outward
    yield from arm.move(
        before + 0.02 * drawer.outward + 0.03 * _UP,
        rotation,
        gripper=OPEN,
        tolerance=0.04,
        turn_tolerance=0.3,
    )
    yield from arm.move(before, tolerance=0.015, turn_tolerance=0.12, limit=50)
    yield from arm.move(grip, tolerance=0.008, limit=40)
    yield from arm.close(grip)
    watch = Progress(patience=15)
    for _ in range(60):
        left = _PULL - drawer_of(arm.world, region).opened
        if left < 0.012 or watch.stuck(left):
            break
        yield arm.servo(arm.world.hand[0] + min(left + 0.01, 0.035) * drawer.outward)
    opened = drawer_of(arm.world, region).opened
    _LOG.debug("drawer %s opened from %.3f to %.3f", region, drawer.opened, opened)
    yield from arm.release(rise=0.07, away=drawer.outward, hold=1)
    return opened > 0.12


def close_drawer(arm: Arm, region: str, *, tilt: float = np.pi / 4) -> Motion:
    """Push a drawer shut at its handle with the closed fingers.

    The hand is tilted by `tilt` from pointing down towards pointing into the cabinet: pointing down, the palm
    would meet the handles above; level, the arm would meet the table.
    """
    world = arm.world
    drawer = drawer_of(world, region)
    inward = -drawer.outward * np.sin(tilt) - _UP * np.cos(tilt)
    rotation = nearer_finger_order(pointing(inward, np.cross(_UP, drawer.outward)), world.hand[1])
    start = drawer.handle + 0.08 * drawer.outward
    hand = world.hand[0]
    yield from arm.move(
        np.array([*hand[:2], max(hand[2], drawer.handle[2] + 0.20)]), gripper=CLOSED, tolerance=0.04
    )
    yield from arm.move(start + 0.16 * _UP, rotation, tolerance=0.04, turn_tolerance=0.3, limit=100)
    yield from arm.move(start, tolerance=0.02, limit=60)
    goal = ("close", region)
    for _ in range(50):
        if world.holds(goal):
            break
        yield arm.servo(drawer_of(world, region).handle - 0.05 * drawer.outward)
    yield from arm.move(world.hand[0] + 0.05 * drawer.outward + 0.05 * _UP, tolerance=0.03, limit=15)
    return world.holds(goal)


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
    points = world.body_surface(body)
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
    start = _outside(door, _FROM_DOOR)
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
    # Close along the door, with the wrist turned towards the middle of its range.
    yaw = np.pi / 2 + first.angle
    grip = np.array([*first.bar[:2], max(first.bar[2] - 0.005, first.top - _BELOW_TOP)])
    height = max(world.cloud().highest_along(world.hand[0], grip), first.top) + CLEARANCE
    yield from arm.reach(grip, pointing_down(yaw), height=height, gripper=OPEN)
    yield from arm.close(grip)
    for _ in range(90):
        door = door_of(world, fixture)
        if door.angle < _OPENED:
            break
        ahead = rotation_matrix(-_DOOR_TURN * _UP)
        arm.rotation = pointing_down(yaw + door.angle - first.angle - _DOOR_TURN)
        ahead_of_bar = door.hinge + ahead @ (door.bar - door.hinge)
        yield arm.servo(np.array([*ahead_of_bar[:2], grip[2]]), speed=0.8)
    _LOG.debug("door of %s pulled from %.2f to %.3f", fixture, first.angle, world.joint(first.joint))
    yield from arm.release(rise=0.10)
    return world.holds(goal)


def _outside(door: Door, distance: float) -> Array:
    """Return a position (3,) for the fingertips before the door's outer face, between hinge and handle."""
    spot = door.hinge + 0.7 * door.width * door.along + (0.025 + distance) * door.outward
    return np.array([*spot[:2], door.top - _BELOW_TOP])


def turn_knob(arm: Arm, stove: str, *, on: bool = True) -> Motion:
    """Take the ridge of the knob from above and turn the wrist until the stove is on (or off)."""
    world = arm.world
    goal = ("turnon" if on else "turnoff", stove)
    joint = world.problem.get_object(stove).joints[0]
    grip, ridge = _knob(world, joint)
    yaw = wrapped_half_turn(ridge)
    if on and yaw > 0.6:  # leaves the wrist room to turn
        yaw -= np.pi
    elif not on and yaw < -0.6:
        yaw += np.pi
    yield from arm.reach(grip, pointing_down(yaw), height=grip[2] + 0.12, gripper=OPEN)
    yield from arm.close(grip)
    _LOG.debug("knob of %s at %.2f, hand yaw %.2f", stove, world.joint(joint), yaw)
    for step in range(round(_FURTHEST / _KNOB_TURN) + 10):
        if world.holds(goal) and step > 4:
            break
        turned = min(_FURTHEST, _KNOB_TURN * (step + 1)) * (1 if on else -1)
        arm.rotation = pointing_down(yaw + turned)
        yield arm.servo(grip)
    yield from arm.release(rise=0.10)
    return world.holds(goal)


def _knob(world: World, joint: str) -> tuple[Array, float]:
    """Return where to grip the knob (3,) and the direction of its ridge in the plane, in radians."""
    info = world.model.joint(joint)
    centers = world.data.geom_xpos[world.shapes_of(int(info.bodyid[0]))]
    top = centers[:, 2].max()
    high = centers[centers[:, 2] > top - 0.012, :2]
    ridge = np.linalg.svd(high - high.mean(axis=0))[2][0] if len(high) > 1 else np.array([1.0, 0.0])
    anchor = world.data.xanchor[info.id]
    return np.array([*anchor[:2], top + 0.004]), float(np.arctan2(ridge[1], ridge[0]))
