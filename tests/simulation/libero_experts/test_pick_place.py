"""Picking up when things go wrong: the object is pushed away, or is not between the fingers."""

import numpy as np
import pytest

from rdvla.simulation.libero.expert.geometry import box_surface, pointing_down
from rdvla.simulation.libero.expert.grasps import Grasp
from rdvla.simulation.libero.expert.motion import Arm
from rdvla.simulation.libero.expert.pick_place import lost, pick
from rdvla.simulation.libero.expert.world import Cloud

BODY = 1


class FakeWorld:
    """A hand at rest above one cube."""

    def __init__(self):
        self.hand = np.array([0.0, 0.0, 0.3]), pointing_down(0.0)
        self.opening = 0.08
        self.cube = np.array([0.1, 0.0, 0.02])

    def surface(self, name):
        return box_surface(np.full(3, 0.02)) + self.cube

    def cloud(self):
        points = self.surface("cube")
        return Cloud(points, np.full(len(points), BODY))

    def body_of(self, name):
        return BODY

    def position(self, name):
        return self.cube.copy()


def test_a_grasp_is_given_up_once_the_object_was_pushed_away():
    world = FakeWorld()
    motion = pick(Arm(world), "cube", grasp=Grasp(world.cube.copy(), yaw=0.0, score=0.0))
    next(motion)
    world.cube[1] += 0.01
    next(motion)  # nudged, not pushed away
    world.cube[1] += 0.03
    with pytest.raises(StopIteration) as end:
        next(motion)
    assert end.value.value is False


@pytest.mark.parametrize(
    ("opening", "beside", "expected"), [(0.04, 0.0, False), (0.001, 0.0, True), (0.04, 0.1, True)]
)
def test_an_object_is_lost_when_nothing_or_something_else_is_held(opening, beside, expected):
    world = FakeWorld()
    world.opening = opening
    world.hand = world.cube + np.array([beside, 0.0, 0.0]), pointing_down(0.0)
    assert lost(Arm(world), "cube") == expected
