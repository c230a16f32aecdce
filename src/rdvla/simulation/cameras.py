"""Cameras that MuJoCo renders: where they are, and where a point of the scene appears in their images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]

OUTSIDE = 2.0  # image coordinates are cut at this distance; points behind the camera get it


@dataclass(frozen=True)
class FreeCamera:
    """A camera that is aimed at a fixed point of the scene.

    Attributes:
        lookat: the point at the image's centre, metres.
        distance: from that point, metres.
        azimuth, elevation: viewing direction, degrees (MuJoCo's convention).
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class CameraPose:
    """Position and directions of a camera at present.

    Attributes:
        position: (3,) metres.
        right, up, forward: directions of the image's axes and of the view, (3,) each, of length 1.
        fovy: vertical field of view, degrees.
    """

    position: Vectors
    right: Vectors
    up: Vectors
    forward: Vectors
    fovy: float


def camera_pose(camera: FreeCamera | str, *, model: Any, data: Any) -> CameraPose:
    """Return where a free camera, or the model's camera of that name, is in `data` (MjData)."""
    if isinstance(camera, str):
        number = model.camera(camera).id
        right, up, backward = data.cam_xmat[number].reshape(3, 3).T
        return CameraPose(data.cam_xpos[number], right, up, -backward, float(model.cam_fovy[number]))
    azimuth, elevation = math.radians(camera.azimuth), math.radians(camera.elevation)
    level = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    forward = math.cos(elevation) * level + math.sin(elevation) * np.array([0.0, 0.0, 1.0])
    right = np.cross(level, [0.0, 0.0, 1.0])
    position = np.asarray(camera.lookat) - camera.distance * forward
    return CameraPose(position, right, np.cross(right, forward), forward, float(model.vis.global_.fovy))


def project(points: Vectors, camera: FreeCamera | str, *, model: Any, data: Any) -> NDArray[np.float32]:
    """Return the image coordinates of world points in a square image of a MuJoCo camera.

    Args:
        points: (P, 3) metres.
        camera: a free camera, or the name of a camera of the model.
        model: MjModel.
        data: MjData, which holds the present poses of the model's own cameras.

    Returns:
        (P, 2): x to the right and y down, from -1 to 1 inside the image, cut at `OUTSIDE`.
    """
    pose = camera_pose(camera, model=model, data=data)
    relative = points - pose.position
    depth = relative @ pose.forward
    reach = np.where(depth > 1e-6, depth, np.nan) * math.tan(math.radians(pose.fovy / 2))
    across = np.stack([relative @ pose.right / reach, -(relative @ pose.up) / reach], axis=-1)
    return np.nan_to_num(across, nan=OUTSIDE).clip(-OUTSIDE, OUTSIDE).astype(np.float32)
