"""What is fixed for a dataset that is written: rate, features with names and units, cameras with sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdvla.data.features import (
    FORMER_NAMES,
    IMAGE_IS_NEW,
    NUMERIC_DTYPES,
    Feature,
    current_name,
    dimension_names,
    dimension_units,
)
from rdvla.errors import ConfigError

ImageSize = int | tuple[int, int]  # side of a square, or (height, width), in pixels
CAMERA_NAME = re.compile(r"\w[\w.-]*")
# The writer adds these itself.
RESERVED_FEATURES = (
    IMAGE_IS_NEW, "timestamp", "frame_index", "episode_index", "index", "task_index",
)  # fmt: skip


@dataclass(frozen=True)
class DatasetSpec:
    """What is fixed for a whole dataset.

    Attributes:
        fps: control frequency in Hz, an integer as LeRobot wants it.
        features: numeric features, name -> {"dtype", "shape": [size], "names": [...] or None}; "units" may be
            added.
        cameras: name -> (height, width) in pixels; each becomes a video feature `observation.images.<name>`.
        robot_type: free text, e.g. "sawyer".
        rendering: how a simulator drew the images; None: a real robot's, or unknown.
        crf: x264's constant rate factor, from 0 (lossless) to 51 (unrecognisable); None: by the images' size.
    """

    fps: int
    features: Mapping[str, Feature]
    cameras: Mapping[str, tuple[int, int]]
    robot_type: str | None
    rendering: str | None = None
    crf: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fps, bool) or not isinstance(self.fps, int) or self.fps < 1:
            raise ConfigError(f"fps must be a positive integer number of frames per second, got {self.fps!r}")
        if self.crf is not None and not 0 <= self.crf <= 51:
            raise ConfigError(f"crf must be from 0 (lossless) to 51, got {self.crf}")
        for camera, size in self.cameras.items():
            if not CAMERA_NAME.fullmatch(camera):
                raise ConfigError(f"a camera name may hold letters, digits, '_', '-' and '.': {camera!r}")
            if min(size) < 1:
                raise ConfigError(f"the images of {camera!r} need at least one pixel, got {size}")
        for name, feature in self.features.items():
            check_feature(name, feature)

    def as_json(self) -> dict[str, Any]:
        """Return the specification as plain JSON values."""
        return {
            "fps": self.fps,
            "features": {name: plain_feature(feature) for name, feature in self.features.items()},
            "cameras": {name: list(size) for name, size in self.cameras.items()},
            "robot_type": self.robot_type,
            "rendering": self.rendering,
            "crf": self.crf,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DatasetSpec:
        """Return the specification that `as_json` gave, also in an older version.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: these are not its values.
        """
        cameras = values["cameras"]
        if not isinstance(cameras, Mapping):  # an older version had one size for all
            cameras = dict.fromkeys(cameras, values["image_size"])
        return cls(
            values["fps"],
            {current_name(name): feature for name, feature in values["features"].items()},
            {name: (size[0], size[1]) for name, size in cameras.items()},
            values["robot_type"],
            values.get("rendering"),
            values.get("crf"),
        )

    def differences(self, other: DatasetSpec) -> list[str]:
        """Return what two specifications contradict each other in; what one leaves open is no difference."""
        found = [] if self.fps == other.fps else ["fps"]
        found += [] if [*self.cameras.items()] == [*other.cameras.items()] else ["cameras"]
        pairs = [(self.features.get(name), other.features.get(name)) for name in self.features]
        if self.features.keys() != other.features.keys() or not all(map(_agree, *zip(*pairs, strict=True))):
            found.append("features")
        for name in ("robot_type", "rendering", "crf"):
            mine, theirs = getattr(self, name), getattr(other, name)
            found += [] if None in (mine, theirs) or mine == theirs else [name]
        return found


def camera_sizes(
    cameras: Sequence[str], image_size: ImageSize | Mapping[str, ImageSize]
) -> dict[str, tuple[int, int]]:
    """Return camera -> (height, width).

    Args:
        cameras: their names.
        image_size: of all cameras, or of each by its name; a number is the side of a square.

    Raises:
        ConfigError: a camera is named twice, or has no size.
    """
    if len(set(cameras)) != len(cameras):
        raise ConfigError(f"a camera is named twice: {list(cameras)}")
    sizes = image_size if isinstance(image_size, Mapping) else dict.fromkeys(cameras, image_size)
    unknown = [name for name in sizes if name not in cameras]
    missing = [name for name in cameras if name not in sizes]
    if unknown or missing:
        what = f"names {unknown[0]!r}, which is no camera" if unknown else f"lacks camera {missing[0]!r}"
        raise ConfigError(f"image_size {what}; the cameras are {list(cameras)}")
    return {name: _height_and_width(sizes[name]) for name in cameras}


def _height_and_width(size: ImageSize) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def plain_feature(feature: Feature) -> dict[str, Any]:
    """Return a declaration as plain JSON values."""
    units = {"units": list(feature["units"])} if feature.get("units") is not None else {}
    return {
        "dtype": feature["dtype"],
        "shape": [int(size) for size in feature["shape"]],
        "names": _plain(feature.get("names")),
        **units,
    }


def _plain(names: Any) -> Any:
    if isinstance(names, Mapping):  # LeRobot's {"motors": [...]}
        return {name: _plain(value) for name, value in names.items()}
    return [_plain(name) for name in names] if isinstance(names, list | tuple) else names


def _agree(mine: Feature, theirs: Feature) -> bool:
    a, b = plain_feature(mine), plain_feature(theirs)
    return all(
        a.get(fact) == b.get(fact) or (fact in ("names", "units") and None in (a.get(fact), b.get(fact)))
        for fact in ("dtype", "shape", "names", "units")
    )


def check_feature(name: str, feature: Feature) -> None:
    """Refuse a feature that cannot be written; raise ConfigError with the reason."""
    if name in RESERVED_FEATURES or "/" in name:
        raise ConfigError(
            f"feature {name!r}: the name is reserved (or holds a '/'); the writer adds it itself"
        )
    if name in FORMER_NAMES:
        raise ConfigError(
            f"feature {name!r}: LeRobot's policies take everything below 'observation.' as an input, so this "
            f"is called {FORMER_NAMES[name]!r}"
        )
    dtype = feature.get("dtype")
    if dtype not in NUMERIC_DTYPES:
        raise ConfigError(f"feature {name!r}: dtype {dtype!r} is not one of {', '.join(NUMERIC_DTYPES)}")
    if "image" in name:
        raise ConfigError(
            f"feature {name!r}: LeRobot takes every feature with 'image' in its name for pictures; "
            "use another word"
        )
    if dtype == "bool" and name.startswith("observation."):
        raise ConfigError(
            f"feature {name!r}: LeRobot's policies take it as an input and cannot normalise a bool; declare "
            "it as float32, or leave out 'observation.'"
        )
    shape = feature.get("shape", ())
    if len(shape) != 1 or int(shape[0]) < 1:
        raise ConfigError(f"feature {name!r}: shape must be (size,), got {tuple(shape)}")
    for fact, found in (("names", dimension_names(feature)), ("units", dimension_units(feature))):
        if feature.get(fact) is not None and found is None:
            raise ConfigError(f"feature {name!r}: {fact} must be {int(shape[0])} texts, got {feature[fact]}")
