"""Surface points lie on the surface and leave no large gap."""

import numpy as np

from rdvla.simulation.experts.libero.surfaces import SPACING, box_surface, cylinder_surface, mesh_surface


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
