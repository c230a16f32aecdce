"""The frozen inputs of every sample, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from rdvla.data import EpisodeDataset, FeatureCache, ImageCache
from rdvla.policy import RDVLAPolicy
from rdvla.progress import Progress
from rdvla.types import Observation

IMAGES = "images"  # key of decoded images that are kept


def is_image(value: Tensor) -> bool:
    """Whether a frozen input is the camera images themselves, (B, cameras, H, W, 3) uint8.

    Only a trainable image encoder leaves them in the frozen inputs.
    """
    return value.dtype == torch.uint8 and value.ndim == 5 and value.shape[-1] == 3


@dataclass(frozen=True)
class FrozenFeatures:
    """What no trainable parameter touches, by dataset frame.

    A backbone may hand on a tensor under two names, as the compact backbone does with its vision tokens. Such
    a tensor is stored once. Images come from the image cache, which does not depend on the policy.
    """

    stored_as: Mapping[str, str]  # feature name -> name in the cache
    cache: FeatureCache | None  # None: there are no features but images
    images: ImageCache | None  # None: no feature is images
    image_names: tuple[str, ...]  # features that are images

    def get(self, frames: Any) -> dict[str, Tensor]:
        """Return name -> (B, ...); floating-point features in float32."""
        stored = {} if self.cache is None else self.cache.get(frames)
        features = {name: stored[kept] for name, kept in self.stored_as.items()}
        if self.images is not None:
            stacked = self.images.stacked(frames)
            features |= dict.fromkeys(self.image_names, stacked)
        return features


class StreamedFeatures:
    """Frozen inputs computed from images that are decoded for every batch: they would not fit on the disk.

    Args:
        policy: its frozen inputs; they hold images.
        dataset: gives the images, which are fetched when they are needed.
        kept: decoded images of the frames that are validated on; None: there are none.
        kept_frames: (V,) these frames.
        image_names: features that are images.
    """

    def __init__(
        self,
        policy: RDVLAPolicy,
        dataset: EpisodeDataset,
        *,
        kept: FeatureCache | None,
        kept_frames: NDArray[np.int64],
        image_names: tuple[str, ...],
    ) -> None:
        self.image_names = image_names
        self._policy = policy
        self._dataset = dataset
        self._kept = kept
        self._kept_frames = kept_frames

    def get(self, frames: Any) -> dict[str, Tensor]:
        """Return name -> (B, ...); floating-point features in float32, rounded as a cache would."""
        numbers = self._dataset.captured_at(frames)
        was_training = self._policy.training
        self._policy.eval()
        try:
            with torch.no_grad():
                found = _encode(self._policy, self._images(numbers), self._dataset.instructions(frames))
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


class FrozenInputs(Protocol):
    """What gives the frozen inputs of samples."""

    @property
    def image_names(self) -> tuple[str, ...]:
        """Features that are images."""
        ...

    def get(self, frames: Any) -> dict[str, Tensor]:
        """Return name -> (B, ...) for (B,) dataset frames; floating-point features in float32."""
        ...


@dataclass(frozen=True)
class CacheOptions:
    """Where frozen inputs are cached, and how they are computed."""

    folder: Path  # of all caches; one cache per backbone and dataset
    batch_size: int  # observations per batch
    memory_limit: int  # bytes; caches up to this size are held in memory, larger ones are mapped
    console: Console  # for the progress bars


def frozen_features(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    options: CacheOptions,
    *,
    validation: NDArray[np.int64] | None = None,
) -> FrozenInputs:
    """Open the caches of the policy's frozen inputs for all samples, computing what is missing.

    With a trainable image encoder the frozen inputs are the decoded images (uint8), so no update decodes
    video. With a frozen backbone they are its context features, computed from decoded images if an earlier
    run left those in the same folder. Streamed images are decoded for every batch instead; only those of
    validation are kept.

    Args:
        policy: frozen as it will be in training.
        dataset: with the samples of training and validation.
        options: folder and sizes.
        validation: (V,) frames that are validated on again and again.
    """
    was_training = policy.training
    policy.eval()
    first = dataset.sample_index[:1]
    sample = _encode(policy, dataset.images(first), dataset.instructions(first))
    image_names = tuple(name for name, value in sample.items() if is_image(value))
    size = sum(sample[name].nbytes for name in image_names[:1])
    if dataset.is_streamed and image_names:
        policy.train(was_training)
        frames = np.zeros(0, dtype=np.int64) if validation is None else dataset.captured_at(validation)
        kept = _kept_images(dataset, frames, options, size=size) if len(frames) else None
        return StreamedFeatures(policy, dataset, kept=kept, kept_frames=frames, image_names=image_names)
    images = None
    if not dataset.is_streamed and (image_names or ImageCache.exists(dataset, directory=options.folder)):
        images = _cached_images(dataset, options, in_memory=_fits(size, dataset, options))
    others = {name: value for name, value in sample.items() if name not in image_names}
    stored_as = {name: _first_alias(name, others) for name in others}
    cache = _cached_features(policy, dataset, options, stored_as, sample, images) if others else None
    policy.train(was_training)
    return FrozenFeatures(stored_as, cache, images if image_names else None, image_names)


def _encode(policy: RDVLAPolicy, images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
    state = torch.zeros(len(instructions), policy.config.state_dim)  # the frozen inputs do not depend on it
    return policy.frozen_inputs(Observation(images=images, state=state, instruction=instructions))


def _kept_images(
    dataset: EpisodeDataset, frames: NDArray[np.int64], options: CacheOptions, *, size: int
) -> FeatureCache:
    with Progress(options.console, transient=True) as progress:
        task = progress.add_task("images of validation", total=len(frames))
        return FeatureCache.open_or_build(
            dataset,
            frames,
            lambda images, _: {IMAGES: torch.stack([images[camera] for camera in dataset.cameras], dim=1)},
            key=IMAGES,
            directory=options.folder,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            in_memory=0 < size * len(frames) <= options.memory_limit,
        )


def _cached_images(dataset: EpisodeDataset, options: CacheOptions, *, in_memory: bool) -> ImageCache:
    with Progress(options.console, transient=True) as progress:
        task = progress.add_task("decoding images", total=len(dataset))
        return ImageCache.open_or_build(
            dataset,
            directory=options.folder,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            in_memory=in_memory,
        )


def _cached_features(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    options: CacheOptions,
    stored_as: Mapping[str, str],
    sample: Mapping[str, Tensor],
    images: ImageCache | None,
) -> FeatureCache:
    kept = sorted(set(stored_as.values()))
    size = sum(sample[name].numel() * _stored_bytes(sample[name]) for name in kept)

    def encode(shown: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
        features = _encode(policy, shown, instructions)
        return {name: features[name] for name in kept}

    with Progress(options.console, transient=True) as progress:
        task = progress.add_task("caching frozen inputs", total=len(dataset))
        return FeatureCache.open_or_build(
            dataset,
            dataset.sample_index,
            encode,
            key=policy.cache_key(),
            directory=options.folder,
            images=None if images is None else images.images,
            batch_size=options.batch_size,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            in_memory=_fits(size, dataset, options),
        )


def _fits(row_bytes: int, dataset: EpisodeDataset, options: CacheOptions) -> bool:
    return 0 < row_bytes * len(dataset) <= options.memory_limit


def _first_alias(name: str, features: Mapping[str, Tensor]) -> str:
    return next(other for other, value in features.items() if value is features[name])


def _stored_bytes(value: Tensor) -> int:
    return 2 if value.is_floating_point() else value.element_size()
