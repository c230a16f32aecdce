"""Rotations of the hand against scipy; surface points lie on the surface and leave no large gap."""

import numpy as np
import pytest

from rdvla.simulation.libero.expert.geometry import (
    SPACING,
    angle_between,
    box_surface,
    cylinder_surface,
    mesh_surface,
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


def test_box_points_lie_on_the_faces_and_cover_them():
    half = np.array([0.03, 0.05, 0.002])
    points = box_surface(half)
    assert (np.abs(points) <= half + 1e-12).all()
    assert np.isclose(np.abs(points), half, atol=1e-12).any(axis=1).all()
    face = points[np.isclose(points[:, 2], half[2])]
    probes = np.random.default_rng(0).uniform(-half[:2], half[:2], (200, 2))
    gaps = np.linalg.norm(probes[:, None] - face[None, :, :2], axis=2).min(axis=1)
    assert gaps.max() <= SPACING


def test_cylinder_points_lie_on_side_and_ends():
    radius, half = 0.04, 0.03
    points = cylinder_surface(radius, half)
    distance = np.hypot(points[:, 0], points[:, 1])
    on_side, on_end = np.isclose(distance, radius), np.isclose(np.abs(points[:, 2]), half)
    assert (on_side | on_end).all()
    assert on_side.any() and (on_end & (distance < radius / 2)).any()
    assert (distance <= radius + 1e-12).all()


def test_mesh_points_lie_in_its_triangles_and_never_change():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    points = mesh_surface(vertices, faces)
    flat = np.isclose(points[:, 2], 0)
    slanted = np.isclose(points.sum(axis=1), 1)
    assert (flat | slanted).all() and (points >= -1e-12).all()
    np.testing.assert_array_equal(points, mesh_surface(vertices, faces))
