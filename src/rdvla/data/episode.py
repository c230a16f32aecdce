"""One demonstration in memory, and checks that every episode of a dataset must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdvla.data.clips import Clip
from rdvla.data.features import Feature, current_name
from rdvla.data.spec import DatasetSpec
from rdvla.errors import DatasetError, nearest


@dataclass(frozen=True)
class Episode:
    """One episode of T control steps.

    Attributes:
        features: every numeric feature of the dataset, name -> (T, size), or (T,) for a feature of size 1.
        images: camera name ("front") -> (N, H, W, 3) uint8 RGB, the N distinct captures; or a clip of a video
            file with one picture for every step, which is copied.
        task: the natural-language instruction.
        image_index: (T,) integers into the captures, the same for all cameras: step t shows capture
            `image_index[t]`. It starts at 0 and rises by 0 or 1; a camera slower than the control holds its
            image. None: one capture per step.
        source: anything JSON can hold that says where the episode comes from (environment, seed, noise).
    """

    features: Mapping[str, NDArray[Any]]
    images: Mapping[str, NDArray[np.uint8] | Clip]
    task: str
    image_index: NDArray[np.integer[Any]] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckedEpisode:
    """An episode whose arrays fit the dataset; features are (T, size), `image_index` is (T,) int64."""

    features: dict[str, NDArray[Any]]
    images: dict[str, NDArray[np.uint8] | Clip]
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
    check_task(episode.task)
    check_names("feature", episode.features, tuple(spec.features))
    check_names("camera", episode.images, tuple(spec.cameras))
    lengths = {name: len(values) for name, values in episode.features.items()}
    if not lengths or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DatasetError(f"an episode needs at least one step and features of equal length, got {lengths}")
    length = next(iter(lengths.values()))
    features = {
        name: checked_values(name, episode.features[name], spec.features[name]) for name in spec.features
    }
    image_index = _checked_image_index(episode, length)
    images: dict[str, NDArray[np.uint8] | Clip] = {}
    for camera, size in spec.cameras.items():
        given = episode.images[camera]
        if isinstance(given, Clip):
            images[camera] = _checked_clip(camera, given, size, length)
        else:
            images[camera] = _checked_images(camera, given, size, int(image_index[-1]) + 1)
    return CheckedEpisode(features, images, image_index, episode.task, dict(episode.source))


def check_task(task: str) -> None:
    """Check that an episode says what it does; raise DatasetError if not."""
    if not isinstance(task, str) or not task.strip():
        raise DatasetError(f"an episode needs a task (its instruction as text), got {task!r}")


def check_names(kind: str, given: Mapping[str, Any], expected: tuple[str, ...]) -> None:
    """Check that features or cameras are those of the dataset; raise DatasetError naming the first if not."""
    for name in given:
        if name not in expected:
            raise DatasetError(
                f"{kind} {name!r} is not in the dataset.{nearest(current_name(name), expected)}"
            )
    missing = [name for name in expected if name not in given]
    if missing:
        raise DatasetError(f"the episode lacks the {kind} {missing[0]!r}")


def checked_values(name: str, values: ArrayLike, feature: Feature, *, first_step: int = 0) -> NDArray[Any]:
    """Return a feature's values over T steps as (T, size) in the declared type.

    Raises:
        DatasetError: the shape is another, the type cannot hold them, or one is not finite.
    """
    array = np.asarray(values)
    size = int(feature["shape"][0])
    if array.ndim == 1 and size == 1:
        array = array[:, None]
    if array.shape != (len(array), size):
        raise DatasetError(f"{name}: expected shape (T, {size}), got {array.shape}")
    array = _as_declared(name, array, np.dtype(feature["dtype"]))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        step = first_step + int(np.argwhere(~np.isfinite(array))[0, 0])
        raise DatasetError(f"{name}: the value at step {step} is not finite")
    return array


def _as_declared(name: str, array: NDArray[Any], declared: np.dtype[Any]) -> NDArray[Any]:
    """Round float64 to a declared float32, as robots' drivers give it; anything else must lose nothing."""
    kinds = (array.dtype.kind, declared.kind)
    if set(kinds) <= set("fiub"):
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, or not equal
            converted = array.astype(declared)
        if kinds == ("f", "f") or np.array_equal(converted, array):
            return converted
    raise DatasetError(
        f"{name}: expected dtype {declared}, got {array.dtype} with values that it cannot hold; convert them "
        "first, or declare the feature with another dtype"
    )


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


def _checked_clip(camera: str, clip: Clip, size: tuple[int, int], length: int) -> Clip:
    if clip.count != length or clip.size() != size:
        raise DatasetError(
            f"camera {camera!r}: expected {length} pictures of {size[0]} x {size[1]} pixels, {clip.path} has "
            f"{clip.count} of {clip.size()[0]} x {clip.size()[1]}"
        )
    return clip


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
