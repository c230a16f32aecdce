"""The images of all cameras, of rows that may lie in several datasets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.images import CameraReader
from rdvla.data.parts import Part, split_by_part
from rdvla.errors import ConfigError


class CameraImages:
    """Reads images from where each dataset keeps them. Every process and thread needs its own.

    Attributes:
        cameras: their names, in order.
        size: side in pixels that images are scaled to; None: they stay as they are.
    """

    def __init__(self, parts: Sequence[Part], cameras: Sequence[str], *, size: int | None) -> None:
        """Open nothing yet; raises ConfigError where images are to be scaled and are not square."""
        self._parts = parts
        self.cameras = list(cameras)
        self.size = size if size and self._must_be_scaled(size) else None
        self._readers = [
            {camera: CameraReader(part.metadata, part.cameras[camera], size=self.size) for camera in cameras}
            for part in parts
        ]

    def copy(self) -> CameraImages:
        """The same images through files of its own."""
        return CameraImages(self._parts, self.cameras, size=self.size)

    def read(
        self, rows: NDArray[np.int64], *, episodes: NDArray[np.int64], times: NDArray[np.float64]
    ) -> dict[str, Tensor]:
        """Camera name -> (B, H, W, 3) uint8 RGB.

        Args:
            rows: (B,) numbered through all datasets, as are the episodes.
            episodes: (B,) of each row.
            times: (B,) in the episode, in seconds.

        Raises:
            DatasetError: naming the video or data file that is missing or damaged.
        """
        found: dict[str, list[NDArray[np.uint8]]] = {camera: [] for camera in self.cameras}
        order: list[NDArray[np.int64]] = []
        for number, places in split_by_part(self._parts, rows):
            part = self._parts[number]
            order.append(places)
            for camera, reader in self._readers[number].items():
                images = reader.read(
                    rows=rows[places] - part.first_row,
                    episodes=episodes[places] - part.first_episode,
                    times=times[places],
                )
                found[camera].append(images)
        if len(order) == 1:
            return {camera: torch.from_numpy(images[0]) for camera, images in found.items()}
        back = np.argsort(np.concatenate(order))
        return {camera: torch.from_numpy(np.concatenate(images)[back]) for camera, images in found.items()}

    def _must_be_scaled(self, size: int) -> bool:
        sizes = {camera: self._parts[0].image_size(camera) for camera in self.cameras}
        for camera, (height, width) in sizes.items():
            if height != width:
                raise ConfigError(
                    f"the images of {camera!r} are {width}x{height} and cannot be scaled to {size}x{size} "
                    "without distorting them"
                )
        return any(own != (size, size) for own in sizes.values())
