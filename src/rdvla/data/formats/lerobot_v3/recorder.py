"""Record an episode step by step, as a robot acts: images go to the disk, memory holds numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdvla.data.episode import check_names, check_task, checked_values
from rdvla.data.formats.lerobot_v3.staging import (
    StagedVideos,
    write_staged_features,
    write_staged_record,
)
from rdvla.data.spec import DatasetSpec
from rdvla.errors import DatasetError


class EpisodeRecorder:
    """One episode while it is recorded; `DatasetWriter.record` makes it."""

    def __init__(self, folder: Path, spec: DatasetSpec, *, task: str, source: Mapping[str, Any]) -> None:
        check_task(task)
        self._folder, self._spec, self._task, self._source = folder, spec, task, source
        self._values: dict[str, list[NDArray[Any]]] = {name: [] for name in spec.features}
        self._images: dict[str, NDArray[np.uint8]] = {}  # the last ones
        self._videos = StagedVideos(folder, spec, list(spec.cameras))
        self._is_new: list[bool] = []
        self._discarded = False

    def __len__(self) -> int:
        return len(self._is_new)

    def add(
        self, features: Mapping[str, ArrayLike], images: Mapping[str, NDArray[np.uint8]] | None = None
    ) -> None:
        """Add a control step.

        Args:
            features: every numeric feature, name -> (size,), or a number if the size is 1.
            images: camera -> (H, W, 3) uint8 RGB, all cameras. None: they have taken no new images since the
                last step, which is held.

        Raises:
            DatasetError: naming the feature or camera that does not fit; nothing of the step is kept.
        """
        check_names("feature", features, tuple(self._spec.features))
        step = {
            name: checked_values(name, np.atleast_1d(features[name])[None], declared, first_step=len(self))
            for name, declared in self._spec.features.items()
        }
        shown = self._images if images is None else self._checked(images)
        if self._spec.cameras and not shown:
            raise DatasetError("the first step of an episode needs images")
        for name, values in step.items():
            self._values[name].append(values)
        self._is_new.append(images is not None or not self._spec.cameras)
        self._videos.add(shown, is_new=self._is_new[-1])
        self._images = shown

    def discard(self) -> None:
        """Throw the episode away, for instance because the demonstration failed."""
        self._discarded = True

    def finish(self) -> bool:
        """Complete the episode's folder; return whether it is to be kept.

        Raises:
            DatasetError: no step was added.
        """
        if self._discarded:
            return False
        if not self._is_new:
            raise DatasetError("an episode needs at least one step")
        features = {name: np.concatenate(values) for name, values in self._values.items()}
        self._videos.close()
        write_staged_features(self._folder, features, np.array(self._is_new), fps=self._spec.fps)
        write_staged_record(
            self._folder,
            task=self._task,
            length=len(self),
            source=self._source,
            statistics=self._videos.statistics(),
        )
        return True

    def close(self) -> None:
        """Let go of the files, complete or not."""
        self._videos.abandon()

    def _checked(self, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
        check_names("camera", images, tuple(self._spec.cameras))
        checked: dict[str, NDArray[np.uint8]] = {}
        for camera, size in self._spec.cameras.items():
            image = np.asarray(images[camera])
            if image.shape != (*size, 3) or image.dtype != np.uint8:
                raise DatasetError(
                    f"camera {camera!r}, step {len(self)}: expected a {(*size, 3)} uint8 image, "
                    f"got {image.shape} {image.dtype}"
                )
            checked[camera] = np.array(image)  # the driver may write into its own again
        return checked
