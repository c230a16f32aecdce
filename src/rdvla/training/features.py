"""The frozen inputs of every sample, computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from rdvla.data import EpisodeDataset, FeatureCache, ImageCache
from rdvla.data.feature_cache import Encode, Filling
from rdvla.data.missing_shards import MissingShards
from rdvla.policy import RDVLAPolicy
from rdvla.progress import Progress
from rdvla.training.arithmetic import arithmetic, differing
from rdvla.training.streamed_features import IMAGES, FeatureSource, StreamedFeatures, kept_images
from rdvla.types import Observation

FEATURES = "features"  # kind of a cache, next to IMAGES


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

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(cache.nbytes for cache in (self.cache, self.images) if cache is not None)

    def get(self, frames: Any) -> dict[str, Tensor]:
        """Return name -> (B, ...); floating-point features in float32."""
        stored = {} if self.cache is None else self.cache.get(frames)
        features = {name: stored[kept] for name, kept in self.stored_as.items()}
        if self.images is not None:
            stacked = self.images.stacked(frames)
            features |= dict.fromkeys(self.image_names, stacked)
        return features


@dataclass(frozen=True)
class CacheOptions:
    """Where frozen inputs are cached, and how they are computed."""

    folder: Path  # of all caches; one cache per backbone and dataset
    batch_size: int  # observations per batch
    memory_limit: int  # bytes; caches up to this size are held in memory, larger ones are mapped
    console: Console  # for the progress bars
    # Computes the missing shards of a kind of cache in another way than here; None: here.
    fill: Callable[[str, MissingShards], None] | None = None

    def filling(self, kind: str, task: str, *, total: int, progress: Progress, **known: Any) -> Filling:
        """Return how a cache is filled, with a bar for it.

        Args:
            kind: of the cache.
            task: what is done, for the bar.
            total: frames of the dataset.
            progress: to show the bar in.
            known: other fields of `Filling`.
        """
        bar = progress.add_task(task, total=total)
        return Filling(
            fill=None if self.fill is None else partial(self.fill, kind),
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
            say=self.say,
            **known,
        )

    def say(self, sentence: str) -> None:
        """Print a sentence for the user."""
        self.console.print(f"note: {sentence}", soft_wrap=True, highlight=False, markup=False)


@dataclass(frozen=True)
class FrozenInputs:
    """What is computed of every frame, and kept."""

    sample: Mapping[str, Tensor]  # of one frame, by name
    image_names: tuple[str, ...]  # of those that are the images themselves
    stored_as: Mapping[str, str]  # name of a feature that is not -> name in the cache
    encode: Encode  # images and instructions -> the features that are kept

    @classmethod
    def of(cls, policy: RDVLAPolicy, dataset: EpisodeDataset) -> FrozenInputs:
        """Compute those of the first frame; the policy is as it will be in training, but in `eval` mode."""
        first = dataset.sample_index[:1]
        sample = _encode(policy, dataset.images(first), dataset.instructions(first))
        image_names = tuple(name for name, value in sample.items() if is_image(value))
        others = {name: value for name, value in sample.items() if name not in image_names}
        stored_as = {name: _first_alias(name, others) for name in others}
        kept = sorted(set(stored_as.values()))

        def encode(shown: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
            features = _encode(policy, shown, instructions)
            return {name: features[name] for name in kept}

        return cls(sample, image_names, stored_as, encode)

    @property
    def image_bytes(self) -> int:
        """Bytes of one frame's images, if they are kept."""
        return sum(self.sample[name].nbytes for name in self.image_names[:1])

    @property
    def feature_bytes(self) -> int:
        """Bytes of one frame's features, as they are stored."""
        kept = [self.sample[name] for name in set(self.stored_as.values())]
        return sum(value.numel() * _stored_bytes(value) for value in kept)


def frozen_features(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    options: CacheOptions,
    *,
    validation: NDArray[np.int64] | None = None,
) -> FeatureSource:
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
    inputs = FrozenInputs.of(policy, dataset)
    if dataset.is_streamed and inputs.image_names:
        policy.train(was_training)
        return _streamed(policy, dataset, options, inputs, validation)
    images = None
    if inputs.image_names or (
        not dataset.is_streamed and ImageCache.exists(dataset, directory=options.folder)
    ):
        images = _cached_images(dataset, options, inputs)
    cache = _cached_features(policy, dataset, options, inputs, images) if inputs.stored_as else None
    policy.train(was_training)
    return FrozenFeatures(inputs.stored_as, cache, images if inputs.image_names else None, inputs.image_names)


def computed_by(policy: RDVLAPolicy, *, batch_size: int) -> dict[str, Any]:
    """Return what decides the last bits of a policy's features."""
    return {**arithmetic(policy.device), "batch size": batch_size}


def _encode(policy: RDVLAPolicy, images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
    state = torch.zeros(len(instructions), policy.config.state_dim)  # the frozen inputs do not depend on it
    return policy.frozen_inputs(Observation(images=images, state=state, instruction=instructions))


def _streamed(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    options: CacheOptions,
    inputs: FrozenInputs,
    validation: NDArray[np.int64] | None,
) -> StreamedFeatures:
    frames = np.zeros(0, dtype=np.int64) if validation is None else dataset.captured_at(validation)
    kept = None
    if len(frames):
        with Progress(options.console, transient=True) as progress:
            # Here alone: other processes fill the images of all frames.
            local = replace(options, fill=None)
            kept = kept_images(
                dataset,
                frames,
                folder=options.folder,
                filling=local.filling(IMAGES, "images of validation", total=len(frames), progress=progress),
                in_memory=0 < inputs.image_bytes * len(frames) <= options.memory_limit,
            )
    return StreamedFeatures(
        policy,
        dataset,
        encode=lambda images, instructions: _encode(policy, images, instructions),
        kept=kept,
        kept_frames=frames,
        image_names=inputs.image_names,
    )


def _cached_images(dataset: EpisodeDataset, options: CacheOptions, inputs: FrozenInputs) -> ImageCache:
    with Progress(options.console, transient=True) as progress:
        return ImageCache.open_or_build(
            dataset,
            directory=options.folder,
            filling=options.filling(IMAGES, "decoding images", total=len(dataset), progress=progress),
            in_memory=_fits(inputs.image_bytes, dataset, options),
        )


def _cached_features(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    options: CacheOptions,
    inputs: FrozenInputs,
    images: ImageCache | None,
) -> FeatureCache:
    key, used = policy.cache_key(), computed_by(policy, batch_size=options.batch_size)
    with Progress(options.console, transient=True) as progress:
        filling = options.filling(
            FEATURES, "caching frozen inputs", total=len(dataset), progress=progress,
            frame_bytes=inputs.feature_bytes, computed_by=used,
        )  # fmt: skip
        cache = FeatureCache.open_or_build(
            dataset,
            dataset.sample_index,
            inputs.encode,
            key=key,
            directory=options.folder,
            images=None if images is None else images.images,
            batch_size=options.batch_size,
            filling=filling,
            in_memory=_fits(inputs.feature_bytes, dataset, options),
        )
    if others := differing(cache.computed_by, used):
        options.say(
            f"cached features were computed with {others}, so they differ by rounding from what would be "
            f"computed now. To compute them anew, remove {options.folder / key}-*."
        )
    return cache


def _fits(row_bytes: int, dataset: EpisodeDataset, options: CacheOptions) -> bool:
    return 0 < row_bytes * len(dataset) <= options.memory_limit


def _first_alias(name: str, features: Mapping[str, Tensor]) -> str:
    return next(other for other, value in features.items() if value is features[name])


def _stored_bytes(value: Tensor) -> int:
    return 2 if value.is_floating_point() else value.element_size()
