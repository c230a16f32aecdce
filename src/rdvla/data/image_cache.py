"""The images of a dataset, decoded once for every policy that trains on them.

Decoding video takes far longer than reading the same pixels from a mapped file. The cache depends on the
dataset, the cameras, the size of their images and `sample_every` only, so policies of any kind share it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rdvla.data.dataset import EpisodeDataset
from rdvla.data.feature_cache import Encoder, FeatureCache, Filling
from rdvla.data.feature_plan import CachePlan
from rdvla.data.frames import Frames

KEY = "images"
DECODED_AT_ONCE = 32  # frames


def image_encoder(dataset: EpisodeDataset) -> Encoder:
    """Return what leaves images as they are, one camera after the other in the dataset's order."""
    cameras = list(dataset.cameras)

    def stack(images: dict[str, Tensor], _instructions: list[str]) -> dict[str, Tensor]:
        return {KEY: torch.stack([images[camera] for camera in cameras], dim=1)}

    return Encoder(dataset, dataset.images, stack, DECODED_AT_ONCE, torch.float16)


def image_plan(dataset: EpisodeDataset, *, directory: Path) -> CachePlan:
    """Return the files that a dataset's images are kept in."""
    return CachePlan.of(dataset, dataset.sample_index, key=KEY, directory=directory)


class ImageCache:
    """Decoded images of the frames that chunks start at (`dataset.sample_index`), as uint8."""

    def __init__(self, dataset: EpisodeDataset, cache: FeatureCache) -> None:
        self._cameras = list(dataset.cameras)
        self._cache = cache

    @classmethod
    def open_or_build(
        cls,
        dataset: EpisodeDataset,
        *,
        directory: Path | str,
        filling: Filling | None = None,
        in_memory: bool = False,
    ) -> ImageCache:
        """Open the dataset's images below `directory`, after decoding the missing ones.

        The arguments are those of `FeatureCache.open_or_build`.

        Raises:
            DatasetError: a video or a file of the cache is damaged; it is named.
        """
        cache = FeatureCache.open_or_build(
            dataset,
            dataset.sample_index,
            image_encoder(dataset).encode,
            key=KEY,
            directory=directory,
            batch_size=DECODED_AT_ONCE,
            filling=filling,
            in_memory=in_memory,
        )
        return cls(dataset, cache)

    @staticmethod
    def exists(dataset: EpisodeDataset, *, directory: Path | str) -> bool:
        """Return whether all of the dataset's images are there."""
        return image_plan(dataset, directory=Path(directory)).is_complete

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self._cache.nbytes

    def stacked(self, frames: Frames) -> Tensor:
        """Return (B, cameras, H, W, 3) uint8, the cameras in the dataset's order."""
        return self._cache.get(frames)[KEY]

    def images(self, frames: Frames) -> dict[str, Tensor]:
        """Return camera name -> (B, H, W, 3) uint8, as `EpisodeDataset.images`."""
        stacked = self.stacked(frames)
        return {camera: stacked[:, index] for index, camera in enumerate(self._cameras)}
