"""Rotations of the hand against scipy and the geometry that they promise."""

import numpy as np
import pytest

from rdvla.simulation.experts.libero.rotations import (
    angle_between,
    nearer_finger_order,
    pointing,
    pointing_down,
    rotation_vector,
    turn,
    wrapped_half_turn,
)

AXES = np.random.default_rng(0).normal(size=(20, 3))
AXES /= np.linalg.norm(AXES, axis=1, keepdims=True)


def about(axis, angle):
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    return rotation.from_rotvec(angle * axis).as_matrix()


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 0.5, 2.0, 3.1, 3.1415, np.pi])
def test_rotation_vector_undoes_the_exponential(angle):
    for axis in AXES:
        found = rotation_vector(about(axis, angle))
        assert np.linalg.norm(found) == pytest.approx(angle, abs=1e-6)
        np.testing.assert_allclose(about(found / max(angle, 1e-12), angle), about(axis, angle), atol=1e-5)


def test_a_turn_leads_from_one_orientation_to_the_other():
    start, goal = about(AXES[0], 1.0), about(AXES[1], 2.0)
    way = turn(start, goal)
    length = np.linalg.norm(way)
    np.testing.assert_allclose(about(way / length, length) @ start, goal, atol=1e-9)


@pytest.mark.parametrize("yaw", [-2.0, 0.0, 0.7])
def test_pointing_down_is_pointing_along_minus_z(yaw):
    closing = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
    np.testing.assert_allclose(pointing_down(yaw), pointing(np.array([0, 0, -2.0]), 3 * closing), atol=1e-12)


def test_pointing_makes_a_rotation_along_the_direction():
    for direction, closing in zip(AXES, AXES[::-1], strict=True):
        hand = pointing(direction, closing)
        np.testing.assert_allclose(hand.T @ hand, np.eye(3), atol=1e-12)
        assert np.linalg.det(hand) == pytest.approx(1.0)
        np.testing.assert_allclose(hand[:, 2], direction, atol=1e-12)
        assert hand[:, 0] @ closing >= 0


def test_the_nearer_finger_order_is_never_more_than_a_quarter_turn_of_the_wrist_away():
    for yaw in np.linspace(-3.1, 3.1, 9):
        chosen = nearer_finger_order(pointing_down(yaw), pointing_down(0.0))
        assert angle_between(pointing_down(0.0), chosen) <= np.pi / 2 + 1e-9
        np.testing.assert_allclose(np.abs(chosen), np.abs(pointing_down(yaw)), atol=1e-12)


def test_half_turns_are_taken_off():
    for yaw in np.linspace(-9, 9, 50):
        wrapped = wrapped_half_turn(yaw)
        assert -np.pi / 2 <= wrapped < np.pi / 2
        assert np.sin(wrapped - yaw) == pytest.approx(0.0, abs=1e-9)
