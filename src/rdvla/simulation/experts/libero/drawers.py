"""Opening and closing drawers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from rdvla.simulation.experts.libero.motion import CLOSED, OPEN, Arm, Motion, Progress
from rdvla.simulation.experts.libero.pick_place import way_out
from rdvla.simulation.experts.libero.rotations import Array, nearer_finger_order, pointing
from rdvla.simulation.experts.libero.world import Cloud, World

_LOG = logging.getLogger(__name__)

_UP = np.array([0.0, 0.0, 1.0])
_PULL = 0.17  # metres; LIBERO counts a drawer as open from 0.14
_CLEAR = 0.02  # metres; an object that would have to move less than this is not under the drawer
_BESIDE = 0.015  # metres between an opened drawer and what was put beside it


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


def spot_beside(world: World, name: str, region: str) -> Array | None:
    """Return where (2,) an object goes so that a drawer will not open over it; None where it is clear.

    It is the same place beside the opened drawer's front, whatever lies under the drawer and wherever: who
    copies this sees where to put it down.
    """
    drawer = drawer_of(world, region)
    own, center = world.surface(name), world.position(name)[:2]
    opened = world.part(drawer.body) + (_PULL - drawer.opened) * drawer.outward
    owners = np.concatenate([np.full(len(own), world.body_of(name)), np.full(len(opened), -1)])
    needed = way_out(Cloud(np.concatenate([own, opened]), owners), world.body_of(name))
    if np.linalg.norm(needed) < _CLEAR:
        return None
    across = np.cross(_UP, drawer.outward)[:2]
    side = np.sign((center - drawer.handle[:2]) @ across)
    half_width = np.ptp(opened[:, :2] @ across) / 2
    radius = np.linalg.norm(own[:, :2] - center, axis=1).max()
    front = drawer.handle + (_PULL - drawer.opened) * drawer.outward
    spot: Array = front[:2] + side * (half_width + radius + _BESIDE) * across
    return spot


def open_drawer(arm: Arm, region: str) -> Motion:
    """Pull a drawer open by its handle: hand level, fingers above and below the bar."""
    drawer = drawer_of(arm.world, region)
    rotation = nearer_finger_order(pointing(-drawer.outward, _UP), arm.world.hand[1])
    # A little above the bar's middle: the level hand reaches down to what stands before the cabinet.
    place = drawer.handle + 0.004 * drawer.outward + 0.012 * _UP
    before = place + 0.09 * drawer.outward
    yield from arm.move(
        before + 0.02 * drawer.outward + 0.03 * _UP,
        rotation,
        gripper=OPEN,
        tolerance=0.04,
        turn_tolerance=0.3,
    )
    yield from arm.move(before, tolerance=0.015, turn_tolerance=0.12, limit=50)
    yield from arm.move(place, tolerance=0.008, limit=40)
    yield from arm.close(place)
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
