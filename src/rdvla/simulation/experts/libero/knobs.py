"""Turning the knob of a stove."""

from __future__ import annotations

import logging

import numpy as np

from rdvla.simulation.experts.libero.motion import OPEN, Arm, Motion
from rdvla.simulation.experts.libero.rotations import Array, pointing_down, wrapped_half_turn
from rdvla.simulation.experts.libero.world import World

_LOG = logging.getLogger(__name__)

_TURN_A_STEP = 0.1  # radians
_FURTHEST = 1.4  # radians that the wrist turns at most


def turn_knob(arm: Arm, stove: str, *, on: bool = True) -> Motion:
    """Take the ridge of the knob from above and turn the wrist until the stove is on (or off)."""
    world = arm.world
    goal = ("turnon" if on else "turnoff", stove)
    joint = world.problem.get_object(stove).joints[0]
    place, ridge = _knob(world, joint)
    yaw = wrapped_half_turn(ridge)
    if on and yaw > 0.6:  # leaves the wrist room to turn
        yaw -= np.pi
    elif not on and yaw < -0.6:
        yaw += np.pi
    yield from arm.reach(place, pointing_down(yaw), height=place[2] + 0.12, gripper=OPEN)
    yield from arm.close(place)
    _LOG.debug("knob of %s at %.2f, hand yaw %.2f", stove, world.joint(joint), yaw)
    for step in range(round(_FURTHEST / _TURN_A_STEP) + 10):
        if world.holds(goal) and step > 4:
            break
        turned = min(_FURTHEST, _TURN_A_STEP * (step + 1)) * (1 if on else -1)
        arm.rotation = pointing_down(yaw + turned)
        yield arm.servo(place)
    yield from arm.release(rise=0.10)
    return world.holds(goal)


def _knob(world: World, joint: str) -> tuple[Array, float]:
    """Return where to take the knob (3,) and the direction of its ridge in the plane, in radians."""
    info = world.model.joint(joint)
    centers = world.data.geom_xpos[world.shapes_of(int(info.bodyid[0]))]
    top = centers[:, 2].max()
    high = centers[centers[:, 2] > top - 0.012, :2]
    ridge = np.linalg.svd(high - high.mean(axis=0))[2][0] if len(high) > 1 else np.array([1.0, 0.0])
    anchor = world.data.xanchor[info.id]
    return np.array([*anchor[:2], top + 0.004]), float(np.arctan2(ridge[1], ridge[0]))
