"""One demonstration in memory, and checks that every episode of a dataset must pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.features import FORMER_NAMES, IMAGE_IS_NEW, NUMERIC_DTYPES, Feature, current_name
from rdvla.errors import ConfigError, DatasetError, nearest

CAMERA_NAME = re.compile(r"\w[\w.-]*")
# The writer adds these itself.
RESERVED_FEATURES = (
    IMAGE_IS_NEW, "timestamp", "frame_index", "episode_index", "index", "task_index",
)  # fmt: skip


@dataclass(frozen=True)
class Episode:
    """One episode of T control steps.

    Attributes:
        features: every numeric feature of the dataset, name -> (T, size), or (T,) for a feature of size 1.
        images: camera name ("front") -> (N, H, W, 3) uint8 RGB, the N distinct captures.
        task: the natural-language instruction.
        image_index: (T,) integers into the captures, the same for all cameras: step t shows capture
            `image_index[t]`. It starts at 0 and rises by 0 or 1; a camera slower than the control holds its
            image. None: one capture per step.
        source: anything JSON can hold that says where the episode comes from (environment, seed, noise).
    """

    features: Mapping[str, NDArray[Any]]
    images: Mapping[str, NDArray[np.uint8]]
    task: str
    image_index: NDArray[np.integer[Any]] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """What is fixed for a whole dataset.

    Attributes:
        fps: control frequency in Hz, an integer as LeRobot wants it.
        features: numeric features, name -> {"dtype", "shape": [size], "names": [...] or None}.
        cameras: camera names; each becomes the video feature `observation.images.<name>`.
        image_size: (height, width) in pixels.
        robot_type: free text, e.g. "sawyer".
        camera_sizes: camera -> (height, width) of those whose images have another size.
    """

    fps: int
    features: Mapping[str, Feature]
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    robot_type: str | None
    camera_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.fps, bool) or not isinstance(self.fps, int) or self.fps < 1:
            raise ConfigError(f"fps must be a positive integer number of frames per second, got {self.fps!r}")
        for camera in self.cameras:
            height, width = self.size_of(camera)
            if height < 16 or width < 16:
                raise ConfigError(f"image_size must be at least 16 pixels, got {height} x {width} ({camera})")
        if not all(CAMERA_NAME.fullmatch(camera) for camera in self.cameras):
            raise ConfigError(
                f"a camera name may hold letters, digits, '_', '-' and '.': {list(self.cameras)}"
            )
        if len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"a camera is named twice: {list(self.cameras)}")
        for name, feature in self.features.items():
            _check_feature(name, feature)

    def size_of(self, camera: str) -> tuple[int, int]:
        """Return (height, width) of a camera's images, in pixels."""
        return self.camera_sizes.get(camera, self.image_size)

    def as_json(self) -> dict[str, Any]:
        """Return the specification as plain JSON values."""
        others = {camera: list(size) for camera, size in self.camera_sizes.items()}
        return {
            "fps": self.fps,
            "features": {name: plain_feature(feature) for name, feature in self.features.items()},
            "cameras": list(self.cameras),
            "image_size": list(self.image_size),
            "robot_type": self.robot_type,
            **({"camera_sizes": others} if others else {}),
        }


def plain_feature(feature: Feature) -> dict[str, Any]:
    """Return a declaration as plain JSON values."""
    names = feature.get("names")
    return {
        "dtype": feature["dtype"],
        "shape": [int(size) for size in feature["shape"]],
        "names": list(names) if names is not None else None,
    }


def _check_feature(name: str, feature: Feature) -> None:
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
    shape = feature.get("shape", ())
    if len(shape) != 1 or int(shape[0]) < 1:
        raise ConfigError(f"feature {name!r}: shape must be (size,), got {tuple(shape)}")
    names = feature.get("names")
    if names is not None and len(names) != int(shape[0]):
        raise ConfigError(f"feature {name!r}: {len(names)} names for {int(shape[0])} values")


@dataclass(frozen=True)
class CheckedEpisode:
    """An episode whose arrays fit the dataset; features are (T, size), `image_index` is (T,) int64."""

    features: dict[str, NDArray[Any]]
    images: dict[str, NDArray[np.uint8]]
    image_index: NDArray[np.int64]
    task: str
    source: dict[str, Any]

    @property
    def length(self) -> int:
        """T, the number of control steps."""
        return len(self.image_index)


def check_episode(episode: Episode, spec: DatasetSpec) -> CheckedEpisode:
    """Check an episode against the dataset's specification.

    Raises:
        DatasetError: naming the feature or camera whose length, shape, dtype or values do not fit.
    """
    if not isinstance(episode.task, str) or not episode.task.strip():
        raise DatasetError(f"an episode needs a task (its instruction as text), got {episode.task!r}")
    _check_names("feature", episode.features, tuple(spec.features))
    _check_names("camera", episode.images, spec.cameras)
    lengths = {name: len(values) for name, values in episode.features.items()}
    if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DatasetError(f"an episode needs at least one step and features of equal length, got {lengths}")
    length = next(iter(lengths.values()))
    features = {
        name: _checked_values(name, episode.features[name], spec.features[name]) for name in spec.features
    }
    image_index = _checked_image_index(episode, length)
    images = {}
    for camera in spec.cameras:
        images[camera] = _checked_images(
            camera, episode.images[camera], spec.size_of(camera), int(image_index[-1]) + 1
        )
    return CheckedEpisode(features, images, image_index, episode.task, dict(episode.source))


def _check_names(kind: str, given: Mapping[str, Any], expected: tuple[str, ...]) -> None:
    for name in given:
        if name not in expected:
            raise DatasetError(
                f"{kind} {name!r} is not in the dataset.{nearest(current_name(name), expected)}"
            )
    missing = [name for name in expected if name not in given]
    if missing:
        raise DatasetError(f"the episode lacks the {kind} {missing[0]!r}")


def _checked_values(name: str, values: NDArray[Any], feature: Feature) -> NDArray[Any]:
    array = np.asarray(values)
    size = int(feature["shape"][0])
    if array.ndim == 1 and size == 1:
        array = array[:, None]
    if array.shape != (len(array), size):
        raise DatasetError(f"{name}: expected shape (T, {size}), got {array.shape}")
    if array.dtype != np.dtype(feature["dtype"]):
        raise DatasetError(f"{name}: expected dtype {feature['dtype']}, got {array.dtype}; convert it first")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        step = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise DatasetError(f"{name}: the value at step {step} is not finite")
    return array


def _checked_image_index(episode: Episode, length: int) -> NDArray[np.int64]:
    if episode.image_index is None:
        return np.arange(length, dtype=np.int64)
    index = np.asarray(episode.image_index)
    if index.shape != (length,) or index.dtype.kind not in "iu":
        raise DatasetError(f"image_index: expected ({length},) integers, got {index.dtype} {index.shape}")
    index = index.astype(np.int64)
    if index[0] != 0 or not np.isin(np.diff(index), (0, 1)).all():
        raise DatasetError("image_index: it must start at 0 and rise by 0 or 1 from step to step")
    return index


def _checked_images(
    camera: str, images: NDArray[np.uint8], size: tuple[int, int], captures: int
) -> NDArray[np.uint8]:
    array = np.asarray(images)
    expected = (captures, *size, 3)
    if array.shape != expected or array.dtype != np.uint8:
        raise DatasetError(
            f"camera {camera!r}: expected {expected} uint8 images (one for each capture in image_index), "
            f"got {array.shape} {array.dtype}"
        )
    return array
