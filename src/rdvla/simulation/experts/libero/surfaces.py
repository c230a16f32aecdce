"""Points on the surfaces of collision shapes, in the shapes' own frames."""

from __future__ import annotations

import numpy as np

from rdvla.simulation.experts.libero.rotations import Array

SPACING = 0.006  # metres between neighbouring points
_MESH_POINTS_PER_FACE = 4
_MOST_MESH_POINTS = 6000


def box_surface(half_sizes: Array, spacing: float = SPACING) -> Array:
    """Return points (N, 3) on the six faces of a box with these half sizes (3,) in metres."""
    lines = [_line(size, spacing) for size in half_sizes]
    faces = []
    for axis in range(3):
        first, second = (other for other in range(3) if other != axis)
        grid = np.meshgrid(lines[first], lines[second], indexing="ij")
        for side in (-half_sizes[axis], half_sizes[axis]):
            face = np.full((grid[0].size, 3), side)
            face[:, first], face[:, second] = grid[0].ravel(), grid[1].ravel()
            faces.append(face)
    return np.concatenate(faces)


def cylinder_surface(radius: float, half_length: float, spacing: float = SPACING) -> Array:
    """Return points (N, 3) on the side and both ends of an upright cylinder."""
    ends = box_surface(np.array([radius, radius, half_length]), spacing)
    ends = ends[(np.hypot(ends[:, 0], ends[:, 1]) <= radius) & (np.abs(ends[:, 2]) == half_length)]
    angles = np.linspace(0, 2 * np.pi, max(8, int(2 * np.pi * radius / spacing)), endpoint=False)
    angle, height = (part.ravel() for part in np.meshgrid(angles, _line(half_length, spacing)))
    side = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    return np.concatenate([ends, side])


def mesh_surface(vertices: Array, faces: Array) -> Array:
    """Return points (N, 3) on a triangle mesh: its vertices (V, 3) and fixed places in its faces (F, 3).

    The same mesh always gives the same points.
    """
    generator = np.random.default_rng(0)
    weights = generator.dirichlet([1.0, 1.0, 1.0], (len(faces), _MESH_POINTS_PER_FACE))
    inside = np.einsum("fkc,fcd->fkd", weights, vertices[faces]).reshape(-1, 3)
    points = np.concatenate([vertices, inside])
    if len(points) > _MOST_MESH_POINTS:
        points = points[generator.choice(len(points), _MOST_MESH_POINTS, replace=False)]
    return points


def _line(half_size: float, spacing: float) -> Array:
    return np.linspace(-half_size, half_size, max(2, int(np.ceil(2 * half_size / spacing)) + 1))
