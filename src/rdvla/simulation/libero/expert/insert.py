"""Put an object into a compartment that is open to one side, such as a microwave's."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from rdvla.simulation.libero.expert.geometry import Array
from rdvla.simulation.libero.expert.grasps import Grasp, Preference, plan_grasps
from rdvla.simulation.libero.expert.motion import Arm, Motion, Progress
from rdvla.simulation.libero.expert.pick_place import CLEARANCE, carry

_LOG = logging.getLogger(__name__)

_LIFT = 0.012  # above the compartment's floor on the way in
_IN = 0.02  # metres before the goal that are near enough
_ATTEMPTS = 3


@dataclass(frozen=True)
class Opening:
    """A compartment as seen from outside.

    Attributes:
        inward: unit direction (2,) in the plane that leads in.
        goal: where the object's origin goes (2,).
        entry: where it comes down (2,) before it is slid in: next to the straight way in, away from an open
            door. The hand then pushes the door aside instead of coming down on it.
        floor: height of the compartment's floor.
    """

    inward: Array
    goal: Array
    entry: Array
    floor: float


def side_grasps(arm: Arm, name: str, inward: Array) -> list[Grasp]:
    """Return grasps at the object's rear end as seen along `inward` (2,), closing across it; best first.

    Held there, the object is inside while the hand is still outside. Deep grasps are preferred: they keep its
    weight from turning it.
    """
    cloud = arm.world.cloud()
    mine = cloud.owners == arm.world.body_of(name)
    across = float(np.arctan2(inward[1], inward[0]))
    rear = (-30.0 * inward[0], -30.0 * inward[1])
    preference = Preference(yaw=across, yaw_cost=0.0, center_cost=0.0, side=rear, deeper=12.0)
    return plan_grasps(cloud.points, mine, preference=preference, yaws=(across,))


def insert(arm: Arm, name: str, opening: Opening) -> Motion:
    """Carry the held object before the opening, slide it in and let go; False if it was lost or is not in."""
    world, inward = arm.world, opening.inward
    for _ in range(_ATTEMPTS):
        if not (yield from carry(arm, name, opening.entry, bottom=opening.floor + _LIFT, precise=False)):
            return False
        if (yield from _slide_in(arm, name, opening)):
            break
        yield from arm.move(world.hand[0] - 0.08 * np.array([*inward, 0]), tolerance=0.03, limit=20)
    else:
        return False
    for _ in range(12):
        sink = world.lowest(name) - opening.floor
        if sink < 0.004:
            break
        yield arm.servo(world.hand[0] - [0, 0, sink])
    yield from arm.release(rise=0.06, away=np.array([*(-0.7 * inward), 0.7]))
    yield from arm.move(world.hand[0] + [*(-CLEARANCE * inward), CLEARANCE], tolerance=0.03, limit=15)
    return True


def _slide_in(arm: Arm, name: str, opening: Opening) -> Motion:
    """Push the held object straight in; returns whether it is there."""
    world, inward = arm.world, opening.inward
    watch, ahead = Progress(patience=15), np.inf
    for _ in range(80):
        left = opening.goal - world.position(name)[:2]
        ahead = float(left @ inward)
        sideways = left - ahead * inward
        if ahead < 0.004 or watch.stuck(ahead + float(np.linalg.norm(sideways))):
            break
        # It goes in only as far as it is aligned: the compartment has walls on both sides.
        aligned = np.clip(1.5 - np.linalg.norm(sideways) / 0.015, 0.0, 1.0)
        step = sideways + inward * aligned * min(ahead + 0.01, 0.035)
        yield arm.servo(world.hand[0] + np.array([*step, opening.floor + _LIFT - world.lowest(name)]))
    _LOG.debug("inserted %s, %.3f m left", name, ahead)
    return ahead < _IN
