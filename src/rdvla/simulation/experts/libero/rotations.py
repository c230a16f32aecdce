"""Rotations of the gripper: matrices (3, 3) whose columns are the hand's axes in the world.

The hand's third axis points out of the gripper, its first is the one along which the fingers close.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
