"""Frozen inputs of streamed images: computed for every batch, as all of them would not fit on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data import EpisodeDataset, FeatureCache
from rdvla.data.feature_cache import Encode, Filling
from rdvla.policy import RDVLAPolicy

IMAGES = "images"  # key of decoded images that are kept


class FeatureSource(Protocol):
    """What gives the frozen inputs of samples."""

    @property
    def image_names(self) -> tuple[str, ...]:
        """Features that are images."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        ...

    def get(self, frames: Any) -> dict[str, Tensor]:
        """Return name -> (B, ...) for (B,) dataset frames; floating-point features in float32."""
        ...


class StreamedFeatures:
    """Frozen inputs computed from images that are decoded for every batch.

    Args:
        policy: its frozen inputs; they hold images.
        dataset: gives the images, which are fetched when they are needed.
        encode: images and instructions -> all frozen inputs.
        kept: decoded images of some frames; None: there are none.
        kept_frames: (V,) these frames.
        image_names: features that are images.
    """

    def __init__(
        self,
        policy: RDVLAPolicy,
        dataset: EpisodeDataset,
        *,
        encode: Encode,
        kept: FeatureCache | None,
        kept_frames: NDArray[np.int64],
        image_names: tuple[str, ...],
    ) -> None:
        self.image_names = image_names
        self._policy = policy
        self._dataset = dataset
        self._encode = encode
        self._kept = kept
        self._kept_frames = kept_frames

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return 0 if self._kept is None else self._kept.nbytes

    def get(self, frames: Any) -> dict[str, Tensor]:
        """Return name -> (B, ...); floating-point features in float32, rounded as a cache would."""
        numbers = self._dataset.captured_at(frames)
        was_training = self._policy.training
        self._policy.eval()
        try:
            with torch.no_grad():
                found = self._encode(self._images(numbers), self._dataset.instructions(frames))
        finally:
            self._policy.train(was_training)
        return {
            name: (value.half().float() if value.is_floating_point() else value).cpu()
            for name, value in found.items()
        }

    def _images(self, frames: NDArray[np.int64]) -> dict[str, Tensor]:
        if self._kept is None or not np.isin(frames, self._kept_frames).all():
            return self._dataset.images(frames)
        stacked = self._kept.get(frames)[IMAGES]
        return {camera: stacked[:, index] for index, camera in enumerate(self._dataset.cameras)}


def kept_images(
    dataset: EpisodeDataset, frames: NDArray[np.int64], *, folder: Path, filling: Filling, in_memory: bool
) -> FeatureCache:
    """Open the decoded images of a few frames below `folder`, after decoding what is missing.

    Args:
        dataset: gives the images.
        frames: (V,) at least one, each with a new image.
        folder: of all caches.
        filling: shows how far it is.
        in_memory: hold the images in memory.
    """
    return FeatureCache.open_or_build(
        dataset,
        frames,
        lambda images, _: {IMAGES: torch.stack([images[camera] for camera in dataset.cameras], dim=1)},
        key=IMAGES,
        directory=folder,
        filling=filling,
        in_memory=in_memory,
    )
