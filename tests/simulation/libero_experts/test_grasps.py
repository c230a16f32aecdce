"""Grasps of synthetic objects: they hold the object and the open hand touches nothing on its way down."""

import numpy as np
import pytest

from rdvla.simulation.libero.expert.geometry import box_surface, cylinder_surface, pointing_down
from rdvla.simulation.libero.expert.grasps import Preference, plan_grasps

# Half sizes of the open hand's parts and their centres, (closing axis, across, up), inside the planner's.
FINGER = (np.array([0.007, 0.010, 0.02]), 0.047, 0.012)
PALM = (np.array([0.09, 0.028, 0.05]), 0.0, 0.11)


def standing(points, x=0.0, y=0.0):
    """The points moved so that they stand on the table at height 0."""
    return points + np.array([x, y, -points[:, 2].min()])


def plan(thing, *others, **options):
    points = np.concatenate([thing, *others])
    return plan_grasps(points, np.arange(len(points)) < len(thing), **options)


def touches(points, grasp):
    """Whether the hand at a grasp has any of the points inside it, computed point by point."""
    down = pointing_down(grasp.yaw)
    local = (points - grasp.position) @ np.stack([down[:, 0], down[:, 1], [0, 0, 1]], axis=1)
    for half, out, up in (FINGER, PALM):
        for side in (-1, 1):
            if (np.abs(local - [side * out, 0, up]) < half).all(axis=1).any():
                return True
    return False


def test_a_long_box_is_held_across_its_short_side_at_its_middle():
    grasps = plan(standing(box_surface(np.array([0.02, 0.06, 0.04]))))
    best = grasps[0]
    closing = pointing_down(best.yaw)[:, 0]
    assert abs(closing[0]) > 0.95  # along x, the short side
    assert np.linalg.norm(best.position[:2]) < 0.02
    assert 0.012 <= best.position[2] < 0.08


@pytest.mark.parametrize("neighbour", [0.09, 0.11, 0.13])
def test_the_hand_meets_neither_the_object_nor_what_stands_beside_it(neighbour):
    thing = standing(cylinder_surface(0.03, 0.05))
    wall = standing(box_surface(np.array([0.01, 0.10, 0.08])), x=neighbour)
    grasps = plan(thing, wall)
    assert grasps
    for grasp in grasps:
        assert not touches(np.concatenate([thing, wall]), grasp)


def test_a_bowl_wider_than_the_hand_is_held_by_its_rim():
    bowl = standing(np.concatenate([cylinder_surface(r, 0.025) for r in (0.060, 0.063)]))
    bowl = bowl[(np.hypot(bowl[:, 0], bowl[:, 1]) > 0.059) | (bowl[:, 2] < 0.002)]
    grasps = plan(bowl)
    assert grasps
    for grasp in grasps:
        assert 0.045 < np.linalg.norm(grasp.position[:2]) < 0.075
        radial = grasp.position[:2] / np.linalg.norm(grasp.position[:2])
        assert abs(radial @ pointing_down(grasp.yaw)[:2, 0]) > 0.8  # closes through the wall


def test_nothing_can_be_held_that_is_too_wide_or_boxed_in():
    assert not plan(standing(box_surface(np.array([0.06, 0.06, 0.03]))), yaws=(0.0,))
    thing = standing(cylinder_surface(0.02, 0.02))
    walls = [
        standing(box_surface(np.array([0.005, 0.06, 0.10])), x=0.045),
        standing(box_surface(np.array([0.005, 0.06, 0.10])), x=-0.045),
        standing(box_surface(np.array([0.06, 0.005, 0.10])), y=0.045),
        standing(box_surface(np.array([0.06, 0.005, 0.10])), y=-0.045),
    ]
    assert not plan(thing, *walls)


def test_a_symmetric_object_is_always_held_the_same_way():
    thing = standing(cylinder_surface(0.03, 0.05))
    first = plan(thing)[0]
    for shift in np.random.default_rng(0).uniform(-0.2, 0.2, (5, 2)):
        moved = plan(thing + np.array([*shift, 0]))[0]
        assert moved.yaw == pytest.approx(first.yaw)
        np.testing.assert_allclose(moved.position - [*shift, 0], first.position, atol=0.006)


def test_preferences_choose_the_yaw_and_the_end():
    box = standing(box_surface(np.array([0.02, 0.08, 0.03])))
    far = Preference(center_cost=0.0, side=(0.0, 30.0))
    assert plan(box, preference=far)[0].position[1] > 0.04
    square = standing(box_surface(np.array([0.025, 0.025, 0.03])))
    for yaw in (0.0, -np.pi / 2):
        chosen = plan(square, preference=Preference(yaw=yaw, yaw_cost=2.0))[0].yaw
        assert abs(np.cos(chosen - yaw)) > 0.99


def test_across_the_arm_the_hand_is_held_where_its_wrist_has_room():
    box = standing(box_surface(np.array([0.02, 0.06, 0.04])))
    grasps = plan(box, preference=Preference(yaw=-np.pi / 2))
    assert grasps[0].yaw == pytest.approx(np.pi / 2)
    assert all(grasp.yaw > -1.5 for grasp in grasps)


def test_fingertips_stay_above_what_the_object_stands_on():
    for height in (0.009, 0.03):
        thing = standing(box_surface(np.array([0.02, 0.04, height])))
        grasps = plan(thing)
        assert grasps
        assert all(grasp.position[2] >= 0.012 for grasp in grasps)


def test_a_knob_is_not_held_by_its_very_top_where_the_body_can_be_held():
    body = standing(cylinder_surface(0.03, 0.05))
    knob = standing(cylinder_surface(0.006, 0.008)) + np.array([0, 0, 0.10])
    assert plan(np.concatenate([body, knob]))[0].position[2] < 0.105
