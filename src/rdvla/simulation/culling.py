"""Find the geometry that a camera does not see, which need not be drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.cameras import FreeCamera, camera_pose


def out_of_view(camera: FreeCamera | str, *, model: Any, data: Any) -> NDArray[np.bool_]:
    """Return for each geom whether its bounding sphere is outside a square image, (G,).

    Planes have no bounding sphere and are never outside.

    Args:
        camera: a free camera, or the name of a camera of the model.
        model: MjModel.
        data: MjData, for the present positions.
    """
    pose = camera_pose(camera, model=model, data=data)
    relative = data.geom_xpos - pose.position
    radius = model.geom_rbound
    depth = relative @ pose.forward
    half = math.radians(pose.fovy / 2)
    outside = depth < -radius
    for axis in (pose.right, pose.up):
        # Distance from the nearer of the two side planes of this axis, positive outside.
        beyond = np.abs(relative @ axis) * math.cos(half) - depth * math.sin(half)
        outside |= beyond > radius
    hidden: NDArray[np.bool_] = outside & (radius > 0)
    return hidden
