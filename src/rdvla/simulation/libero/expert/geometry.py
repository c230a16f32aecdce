"""Geometry for the experts: rotations of the gripper, and points on the surfaces of collision shapes.

A rotation is a matrix (3, 3) whose columns are the hand's axes in the world. The third axis points out of the
gripper; along the first the fingers close.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SPACING = 0.006  # metres between neighbouring points
_MESH_POINTS_PER_FACE = 4
_MOST_MESH_POINTS = 6000


def pointing_down(yaw: float) -> Array:
    """Return the hand pointing straight down; at yaw 0 its fingers close along the world's y axis."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[-s, c, 0.0], [c, s, 0.0], [0.0, 0.0, -1.0]])


def pointing(direction: Array, closing: Array) -> Array:
    """Return the hand pointing along `direction` (3,) with fingers that close as nearly as possible along
    `closing` (3,); neither needs unit length, but they must not be parallel.
    """
    outward = direction / np.linalg.norm(direction)
    sideways = np.cross(outward, closing)
    sideways /= np.linalg.norm(sideways)
    return np.stack([np.cross(sideways, outward), sideways, outward], axis=1)


def rotation_vector(rotation: Array) -> Array:
    """Return axis times angle (3,), angle in [0, pi], of a rotation matrix (3, 3)."""
    skew = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine, cosine = np.linalg.norm(skew) / 2, (np.trace(rotation) - 1) / 2
    angle = float(np.arctan2(sine, cosine))
    if sine > 1e-4:
        return np.asarray(skew / (2 * sine) * angle)
    if cosine > 0:  # nearly no rotation
        return skew / 2
    # Nearly half a turn: the skew part vanishes, the symmetric part is 2 axis axis^T - 1.
    squares = (rotation + rotation.T) / 4 + np.eye(3) / 2
    column = squares[:, int(np.argmax(np.diag(squares)))]
    axis = column / np.linalg.norm(column)
    return axis * angle * (-1.0 if axis @ skew < 0 else 1.0)


def turn(start: Array, goal: Array) -> Array:
    """Return the rotation vector (3,) in the world that takes the hand from `start` to `goal`."""
    return rotation_vector(goal @ start.T)


def angle_between(start: Array, goal: Array) -> float:
    """Return the angle in radians between two orientations."""
    return float(np.linalg.norm(turn(start, goal)))


def nearer_finger_order(rotation: Array, present: Array) -> Array:
    """Return `rotation` or its twin with the fingers swapped, whichever is nearer to `present`.

    The gripper is symmetric: half a turn about its pointing axis changes nothing but the wrist's angle.
    """
    twin = rotation * np.array([-1.0, -1.0, 1.0])
    return min((rotation, twin), key=lambda candidate: angle_between(present, candidate))


def wrapped_half_turn(yaw: float) -> float:
    """Return the yaw in [-pi/2, pi/2) that is equal to `yaw` up to swapping the fingers."""
    return (yaw + np.pi / 2) % np.pi - np.pi / 2


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
    angle, height = (grid.ravel() for grid in np.meshgrid(angles, _line(half_length, spacing)))
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
