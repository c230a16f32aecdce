"""The features of a dataset: their names, their declarations, and what a camera is."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rdvla.processing.cameras import CAMERA_PREFIX as CAMERA_PREFIX
from rdvla.processing.cameras import camera_key as camera_key
from rdvla.processing.cameras import camera_name as camera_name

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

NUMERIC_DTYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")

# {"dtype": "float32", "shape": (4,), "names": [...] or None}; "units", one for each value, may be missing
Feature = Mapping[str, Any]
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


def recorded_name(name: str, declared: Container[str]) -> str:
    """Return the name that a feature has in the files of a dataset: a former one, if that is declared."""
    former = [old for old, new in FORMER_NAMES.items() if new == name and old in declared]
    return former[0] if former and name not in declared else name


def current_name(name: str) -> str:
    """Return the present name of a feature; older datasets and policies have other names for some."""
    return FORMER_NAMES.get(name, name)


def dimension_names(feature: Feature) -> list[str] | None:
    """Return the names of a numeric feature's values, such as joints; None: it declares none that fit.

    Datasets have ["x", "y"], [["x", "y"]], {"motors": ["x", "y"]} and {"x": 0, "y": 1} for the same.
    """
    return _one_text_each(feature, feature.get("names"))


def dimension_units(feature: Feature) -> list[str] | None:
    """Return the units of a numeric feature's values, such as "rad"; None: it declares none that fit."""
    return _one_text_each(feature, feature.get("units"))


def _one_text_each(feature: Feature, declared: Any) -> list[str] | None:
    size = math.prod(feature["shape"])
    if isinstance(declared, Mapping):
        is_numbered = all(isinstance(value, int) for value in declared.values())
        declared = sorted(declared, key=lambda n: declared[n]) if is_numbered else list(declared.values())
    while isinstance(declared, list | tuple) and len(declared) == 1 and isinstance(declared[0], list | tuple):
        declared = declared[0]
    if not isinstance(declared, list | tuple) or len(declared) != size:
        return None
    return list(declared) if all(isinstance(text, str) for text in declared) else None
