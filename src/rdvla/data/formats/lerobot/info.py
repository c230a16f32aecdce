"""`meta/info.json`: what a dataset says of its features, cameras and robot.

A fault in a feature or camera matters only once somebody reads it. So none stops the opening: it is kept as
the reason that is told to whom asks for the feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rdvla.data.features import Camera, Feature, camera_name, current_name, recorded_name
from rdvla.data.formats.lerobot.declared import is_inside, is_plain_template
from rdvla.data.formats.lerobot.files import INFO_PATH, DatasetFiles, plain_dtype
from rdvla.errors import DatasetError

DEFAULT_FEATURES: dict[str, Feature] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class LeRobotInfo:
    """The content of info.json that reading uses.

    Attributes:
        files: access to the dataset's files.
        content: info.json as it is.
        fps: control frequency in Hz.
        features: present name -> declaration of a numeric feature, its shape flattened to one dimension;
            "recorded_shape" is the shape in the files.
        unreadable: other features, with the reason.
        cameras: short name -> camera; its size is (0, 0) if none is declared. Depth maps are left out.
        stored: keys of the cameras whose pictures lie in the data files, not in videos.
    """

    files: DatasetFiles
    content: Mapping[str, Any]
    fps: float
    features: Mapping[str, Feature]
    unreadable: Mapping[str, str]
    cameras: Mapping[str, Camera]
    stored: frozenset[str]

    @classmethod
    def read(cls, files: DatasetFiles) -> LeRobotInfo:
        """Read info.json.

        Raises:
            DatasetError: it is missing or damaged, or holds no frames per second or no features.
        """
        content = files.json(INFO_PATH)
        path = files.root / INFO_PATH
        declared = content.get("features")
        if not isinstance(declared, dict):
            raise DatasetError(f"{path}: 'features' is missing or not valid: {declared!r:.80}")
        features: dict[str, Feature] = {}
        unreadable: dict[str, str] = {}
        cameras: dict[str, Camera] = {}
        stored: set[str] = set()
        for name, feature in declared.items():
            dtype = feature.get("dtype") if isinstance(feature, dict) else None
            if dtype in ("video", "image") and is_inside(name):
                if is_depth(feature):
                    unreadable[name] = "it holds depth maps, which rdvla does not read"
                else:
                    cameras[camera_name(name)] = Camera(name, *image_size(feature))
                    stored |= {name} if dtype == "image" else set()
            elif name not in DEFAULT_FEATURES:
                read = _numeric(feature) if isinstance(feature, dict) else "its declaration is no object"
                present = name if current_name(name) in declared else current_name(name)
                if isinstance(read, str):
                    unreadable[present] = read
                else:
                    features[present] = read
        fps = _frames_per_second(content.get("fps"), path)
        return cls(files, content, fps, features, unreadable, cameras, frozenset(stored))

    @property
    def robot_type(self) -> str | None:
        """What the dataset calls its robot; None if it does not say."""
        name = self.content.get("robot_type")
        return name if isinstance(name, str) and name.lower() not in ("", "unknown", "none") else None

    def stored_name(self, name: str) -> str:
        """Return the name that a feature has in the files: a former one in older datasets."""
        return recorded_name(name, self.content["features"])

    def template(self, name: str, default: str) -> str:
        """Return a path template of info.json; the default if it is missing or leaves the dataset."""
        found = self.content.get(name)
        return str(found) if is_plain_template(found) else default


def image_size(feature: Feature) -> tuple[int, int]:
    """Return (height, width) of a camera feature, (0, 0) if it does not say.

    Its shape is (H, W, 3), or (3, H, W) if its names or its sizes say so.
    """
    shape = _sizes(feature.get("shape"))
    if shape is None or len(shape) < 2:
        return 0, 0
    names = feature.get("names")
    named = zip(names, shape, strict=False) if isinstance(names, list) else ()
    sizes = {name: size for name, size in named if isinstance(name, str)}
    if "height" in sizes and "width" in sizes:
        return sizes["height"], sizes["width"]
    channels_first = len(shape) == 3 and shape[0] in CHANNELS and shape[2] not in CHANNELS
    return (shape[1], shape[2]) if channels_first else (shape[0], shape[1])


def is_depth(feature: Feature) -> bool:
    """Return whether a camera feature holds depth maps."""
    facts = [feature.get("video_info"), feature.get("info")]
    return any(
        isinstance(own, dict) and bool(own.get("video.is_depth_map") or own.get("is_depth_map"))
        for own in facts
    )


def _numeric(feature: Mapping[str, Any]) -> Feature | str:
    """Return a declaration with a flat shape, or why the feature cannot be read as numbers."""
    try:
        dtype = np.dtype(str(feature.get("dtype")))
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        return f"its dtype is {feature.get('dtype')!r}, which is no number"
    shape = _sizes(feature.get("shape"))
    if shape is None:
        return f"its shape in info.json is {feature.get('shape')!r}"
    flat = {"dtype": plain_dtype(dtype).name, "shape": [math.prod(shape)], "recorded_shape": shape}
    return {**feature, **flat, "names": feature.get("names")}


def _sizes(shape: Any) -> list[int] | None:
    """Return a shape as positive integers, None if it is none."""
    if not isinstance(shape, list):
        return None
    is_valid = all(
        isinstance(n, int | float) and not isinstance(n, bool) and n > 0 and n % 1 == 0 for n in shape
    )
    return [int(n) for n in shape] if is_valid else None


def _frames_per_second(value: Any, path: Path) -> float:
    try:
        fps = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        fps = math.nan
    if not 0 < fps < 1e6:
        raise DatasetError(
            f"{path}: 'fps' is missing or not valid: {value!r:.80}; it must be the frames per second"
        )
    return fps
