"""Reflections for images that are rendered in software, without drawing the whole scene twice.

MuJoCo mirrors every geom in the first reflective plane or box of a scene. That doubles the time per image,
even if the mirror covers a few pixels. Here only the mirror is drawn a second time, with reflections, and its
pixels replace those of the image that show it. Only boxes are mirrored, such as the walls of a room: they
have few triangles. The mirror images of meshes, such as the arm's, are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.simulation.cameras import CameraPose

_FACE = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])  # in half edges
_RAYS = 16  # along each side of the mirror's rectangle, to find what it mirrors
_TOUCHING = 1e-6  # distances along a ray; a box that the mirror lies on is not mirrored


@dataclass(frozen=True)
class Rectangle:
    """Pixels of an image, counted from its lower left corner as OpenGL does."""

    left: int
    bottom: int
    width: int
    height: int


class Mirror:
    """The upper face of the reflective box in which MuJoCo mirrors a scene.

    Args:
        model: MjModel.
        geom: number of the box, see `find_mirror`.
        drawn: (G,) whether each geom is in a group that is drawn.
        image_size: height and width in pixels.
    """

    def __init__(self, *, model: Any, geom: int, drawn: NDArray[np.bool_], image_size: int) -> None:
        from mujoco import mjtGeom

        self.geom = geom
        self._size = image_size
        self._num_geoms = int(model.ngeom)
        self._face_corners = _FACE * model.geom_size[geom]
        self._boxes = np.flatnonzero(drawn & (model.geom_type == mjtGeom.mjGEOM_BOX))
        self._boxes = self._boxes[self._boxes != geom]
        self._half_edges = model.geom_size[self._boxes].copy()

    def seen_by(self, pose: CameraPose, data: Any) -> tuple[Rectangle, NDArray[np.bool_]] | None:
        """Return where a camera sees the mirror in `data` (MjData), and what to draw there.

        Returns:
            The pixels around the mirror, and for each geom whether it can be left out, (G,). None if the
            camera sees no box mirrored.
        """
        axes = data.geom_xmat[self.geom].reshape(3, 3).T
        face = data.geom_xpos[self.geom] + self._face_corners @ axes
        normal = axes[2]
        rectangle = self._rectangle(face - pose.position, pose)
        if rectangle is None or (pose.position - face[0]) @ normal <= 0:
            return None
        mirrored = self._mirrored(rectangle, pose, data, face[0], normal)
        if not mirrored.any():
            return None
        unneeded = np.ones(self._num_geoms, dtype=bool)
        unneeded[self._boxes[mirrored]] = False
        unneeded[self.geom] = False
        return rectangle, unneeded

    def _rectangle(self, relative: NDArray[np.float64], pose: CameraPose) -> Rectangle | None:
        """Return the pixels around corners (4, 3), given relative to the camera; None outside the image."""
        depth = relative @ pose.forward
        if (depth <= 0).all():
            return None
        if (depth <= 0).any():  # a corner behind the camera has no pixel: take the whole image
            return Rectangle(0, 0, self._size, self._size)
        slopes = np.stack([relative @ pose.right, relative @ pose.up], axis=1) / depth[:, None]
        pixels = (slopes / _half_width(pose) + 1) / 2 * self._size
        low = np.clip(np.floor(pixels.min(axis=0)), 0, self._size).astype(int)
        high = np.clip(np.ceil(pixels.max(axis=0)), 0, self._size).astype(int)
        if (high <= low).any():
            return None
        return Rectangle(*map(int, (*low, *(high - low))))

    def _mirrored(
        self,
        rectangle: Rectangle,
        pose: CameraPose,
        data: Any,
        point: NDArray[np.float64],
        normal: NDArray[np.float64],
    ) -> NDArray[np.bool_]:
        """Return for each box whether a ray of a grid meets it after the mirror, (boxes,)."""
        pixel = 2 * _half_width(pose) / self._size
        x = (np.linspace(0, rectangle.width, _RAYS) + rectangle.left - self._size / 2) * pixel
        y = (np.linspace(0, rectangle.height, _RAYS) + rectangle.bottom - self._size / 2) * pixel
        rays = (pose.forward + x[:, None, None] * pose.right + y[:, None] * pose.up).reshape(-1, 3)
        falling = rays @ normal
        rays = rays[falling < 0]
        start = pose.position + rays * ((point - pose.position) @ normal / falling[falling < 0])[:, None]
        rays = rays - 2 * (rays @ normal)[:, None] * normal
        # In each box's own frame a ray is inside while it is between both faces of all three axes.
        axes = data.geom_xmat[self._boxes].reshape(-1, 3, 3)
        start = (start - data.geom_xpos[self._boxes, None]) @ axes  # (boxes, rays, 3)
        with np.errstate(divide="ignore", invalid="ignore"):
            middle, width = -start / (rays @ axes), self._half_edges[:, None] / np.abs(rays @ axes)
            enters, leaves = (middle - width).max(axis=2), (middle + width).min(axis=2)
            meets: NDArray[np.bool_] = (leaves > np.maximum(enters, _TOUCHING)).any(axis=1)
        return meets


def find_mirror(model: Any, drawn: NDArray[np.bool_]) -> int | None:
    """Return the box that MuJoCo mirrors the scene in, or None if there is none or if it is a plane.

    Args:
        model: MjModel.
        drawn: (G,) whether each geom is in a group that is drawn.
    """
    from mujoco import mjtGeom

    for geom in np.flatnonzero(drawn & (model.geom_matid >= 0)):
        flat = model.geom_type[geom] in (mjtGeom.mjGEOM_PLANE, mjtGeom.mjGEOM_BOX)
        if flat and model.mat_reflectance[model.geom_matid[geom]] > 0:
            return int(geom) if model.geom_type[geom] == mjtGeom.mjGEOM_BOX else None
    return None


def crop_view(scene: Any, rectangle: Rectangle, image_size: int) -> None:
    """Make the cameras of an MjvScene show a rectangle of the square image that they show now."""
    for camera in scene.camera:
        bottom, top = camera.frustum_bottom, camera.frustum_top
        pixel = (top - bottom) / image_size
        camera.frustum_bottom = bottom + rectangle.bottom * pixel
        camera.frustum_top = camera.frustum_bottom + rectangle.height * pixel
        camera.frustum_center += (rectangle.left + rectangle.width / 2 - image_size / 2) * pixel


def _half_width(pose: CameraPose) -> float:
    return math.tan(math.radians(pose.fovy / 2))
