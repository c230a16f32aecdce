"""Sliding a dish along the table."""

from __future__ import annotations

import numpy as np

from rdvla.simulation.experts.libero.motion import CLOSED, Arm, Motion
from rdvla.simulation.experts.libero.pick_place import CLEARANCE
from rdvla.simulation.experts.libero.rotations import Array, nearer_finger_order, pointing_down

_ABOVE_BOTTOM = 0.018  # of the fingertips, in metres


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
