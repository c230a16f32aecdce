"""Where a point of the scene is in a camera's image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.rendering import FreeCamera

OUTSIDE = 2.0  # image coordinates are cut at this distance; points behind the camera get it

Vectors = NDArray[np.float64]


def project(points: Vectors, camera: FreeCamera | str, *, model: Any, data: Any) -> NDArray[np.float32]:
    """Image coordinates of world points in a square image of a MuJoCo camera.

    Args:
        points: (P, 3) metres.
        camera: a free camera, or the name of one of the model's.
        model: MjModel.
        data: MjData, for where the model's own cameras are now.

    Returns:
        (P, 2): x to the right and y down, from -1 to 1 inside the image, cut at `OUTSIDE`.
    """
    position, right, up, forward, fovy = _pose(camera, model, data)
    relative = points - position
    depth = relative @ forward
    reach = np.where(depth > 1e-6, depth, np.nan) * math.tan(math.radians(fovy / 2))
    across = np.stack([relative @ right / reach, -(relative @ up) / reach], axis=-1)
    return np.nan_to_num(across, nan=OUTSIDE).clip(-OUTSIDE, OUTSIDE).astype(np.float32)


def _pose(
    camera: FreeCamera | str, model: Any, data: Any
) -> tuple[Vectors, Vectors, Vectors, Vectors, float]:
    """Position, the right, up and forward directions, and the vertical field of view in degrees."""
    if isinstance(camera, str):
        number = model.camera(camera).id
        right, up, backward = data.cam_xmat[number].reshape(3, 3).T
        return data.cam_xpos[number], right, up, -backward, float(model.cam_fovy[number])
    azimuth, elevation = math.radians(camera.azimuth), math.radians(camera.elevation)
    level = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    forward = math.cos(elevation) * level + math.sin(elevation) * np.array([0.0, 0.0, 1.0])
    right = np.cross(level, [0.0, 0.0, 1.0])
    position = np.asarray(camera.lookat) - camera.distance * forward
    return position, right, np.cross(right, forward), forward, float(model.vis.global_.fovy)
