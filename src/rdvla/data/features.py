"""The features of a dataset: their names, their declarations, and what a camera is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

ACTION = "action"
STATE = "observation.state"
# LeRobot's policies take every feature below "observation." as an input. Only what a robot has may go there:
# neither what the simulator alone knows, nor a bool, which they cannot normalise.
ENVIRONMENT_STATE = "privileged.environment_state"
KEYPOINTS = "privileged.environment_keypoints"
# Not "image" in the name: LeRobot takes every feature with that word for pictures when it merges statistics.
IMAGE_IS_NEW = "camera_is_new"
# Older datasets and policies have these names for the same.
FORMER_NAMES = {
    "observation.environment_state": ENVIRONMENT_STATE,
    "observation.environment_keypoints": KEYPOINTS,
    "observation.camera_is_new": IMAGE_IS_NEW,
}
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


def current_name(name: str) -> str:
    """Return the present name of a feature; older datasets and policies have other names for some."""
    return FORMER_NAMES.get(name, name)


def camera_key(camera: str) -> str:
    """Return a camera's feature: "front" and "observation.images.front" give the same."""
    return camera if camera.startswith("observation.") else CAMERA_PREFIX + camera


def camera_name(key: str) -> str:
    """Return a camera's short name: "observation.images.front" gives "front"."""
    return key.removeprefix(CAMERA_PREFIX)
