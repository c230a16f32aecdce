"""Where a point of the scene is in a camera's image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.cameras import FreeCamera, Vectors, camera_pose

OUTSIDE = 2.0  # image coordinates are cut at this distance; points behind the camera get it


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
    pose = camera_pose(camera, model=model, data=data)
    relative = points - pose.position
    depth = relative @ pose.forward
    reach = np.where(depth > 1e-6, depth, np.nan) * math.tan(math.radians(pose.fovy / 2))
    across = np.stack([relative @ pose.right / reach, -(relative @ pose.up) / reach], axis=-1)
    return np.nan_to_num(across, nan=OUTSIDE).clip(-OUTSIDE, OUTSIDE).astype(np.float32)
