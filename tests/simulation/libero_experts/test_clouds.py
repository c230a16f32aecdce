"""What a cloud tells of the way over it and of the way out from under it."""

import numpy as np
import pytest

from rdvla.simulation.libero.expert.geometry import box_surface
from rdvla.simulation.libero.expert.pick_place import way_out
from rdvla.simulation.libero.expert.world import Cloud


def cloud(*parts):
    """A cloud of parts (owner, centre, half sizes)."""
    points = [box_surface(np.array(half)) + center for _, center, half in parts]
    owners = [np.full(len(own), part[0]) for own, part in zip(points, parts, strict=True)]
    return Cloud(np.concatenate(points), np.concatenate(owners))


def test_the_highest_thing_on_the_way_counts_and_nothing_beside_or_behind_it():
    small = [0.02, 0.02, 0.1]
    scene = cloud((1, [0.2, 0, 0.1], small), (2, [0.2, 0.3, 0.2], small), (3, [-0.2, 0, 0.3], small))
    start, end = np.zeros(3), np.array([0.4, 0.0, 0.0])
    assert scene.highest_along(start, end) == pytest.approx(0.2)
    assert scene.highest_along(start, end, without=1) == -np.inf
    assert scene.highest_along(start, -end) == pytest.approx(0.4)
    assert scene.highest_along(start, np.array([0.4, 0.6, 0.0])) == pytest.approx(0.3)


def test_nothing_overhead_needs_no_way_out():
    scene = cloud((1, [0, 0, 0.02], [0.03, 0.03, 0.02]), (2, [0.05, 0, 0.01], [0.01, 0.05, 0.01]))
    np.testing.assert_array_equal(way_out(scene, 1), 0)


def test_the_way_out_is_short_and_leads_away():
    scene = cloud((1, [0, 0, 0.02], [0.03, 0.03, 0.02]), (2, [0.10, 0, 0.2], [0.08, 0.3, 0.02]))
    shift = way_out(scene, 1)
    assert shift[0] < 0 and abs(shift[1]) < 0.02
    moved = cloud((1, [*shift, 0.02], [0.03, 0.03, 0.02]), (2, [0.10, 0, 0.2], [0.08, 0.3, 0.02]))
    np.testing.assert_array_equal(way_out(moved, 1), 0)
    assert np.linalg.norm(shift) < 0.06


def test_there_may_be_no_way_out():
    scene = cloud((1, [0, 0, 0.02], [0.03, 0.03, 0.02]), (2, [0, 0, 0.2], [0.5, 0.5, 0.02]))
    np.testing.assert_array_equal(way_out(scene, 1), 0)
