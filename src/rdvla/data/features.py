"""The features of a dataset: their names, their declarations, and what a camera is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

ACTION = "action"
STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"
KEYPOINTS = "observation.environment_keypoints"
# Not "image" in the name: LeRobot takes every feature with that word for pictures when it merges statistics.
IMAGE_IS_NEW = "observation.camera_is_new"
CAMERA_PREFIX = "observation.images."

NUMERIC_DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")

Feature = Mapping[str, Any]  # {"dtype": "float32", "shape": (4,), "names": [...] or None}
Columns = dict[str, NDArray[Any]]  # feature -> (N, size), one line per frame


@dataclass(frozen=True)
class Camera:
    """A camera of a dataset.

    Attributes:
        key: name of its feature in the files, "observation.images.front" in LeRobot's formats.
        height: of a recorded image, in pixels.
        width: of a recorded image, in pixels.
    """

    key: str
    height: int
    width: int


def camera_key(camera: str) -> str:
    """Return a camera's feature: "front" and "observation.images.front" give the same."""
    return camera if camera.startswith("observation.") else CAMERA_PREFIX + camera


def camera_name(key: str) -> str:
    """Return a camera's short name: "observation.images.front" gives "front"."""
    return key.removeprefix(CAMERA_PREFIX)
