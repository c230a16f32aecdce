"""A camera's short name, and its name in LeRobot's datasets and policies. Imports nothing."""

from __future__ import annotations

CAMERA_PREFIX = "observation.images."


def camera_key(camera: str) -> str:
    """Return a camera's feature: "front" and "observation.images.front" give the same."""
    return camera if camera.startswith("observation.") else CAMERA_PREFIX + camera


def camera_name(key: str) -> str:
    """Return a camera's short name: "observation.images.front" gives "front"."""
    return key.removeprefix(CAMERA_PREFIX)
