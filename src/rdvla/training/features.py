"""The frozen inputs of every sample, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from rdvla.data import EpisodeDataset, FeatureCache
from rdvla.policy import RDVLAPolicy
from rdvla.processing import Observation


@dataclass(frozen=True)
class FrozenFeatures:
    """What no trainable parameter touches, by dataset row.

    A backbone may hand on one tensor under two names (the compact one: the same vision tokens at both
    levels); it is stored once.
    """

    cache: FeatureCache
    stored_as: Mapping[str, str]  # feature name -> name in the cache

    def get(self, rows: Any) -> dict[str, Tensor]:
        """Return name -> (B, ...); floating-point features in float32."""
        stored = self.cache.get(rows)
        return {name: stored[kept] for name, kept in self.stored_as.items()}


def frozen_features(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    *,
    folder: Path,
    batch_size: int,
    memory_limit: int,
    console: Console,
) -> FrozenFeatures:
    """Open the cache of the policy's frozen inputs for all samples of the dataset, computing what is missing.

    With a trainable image encoder the frozen inputs are the decoded images (uint8), so that no update
    decodes video; with a frozen backbone they are its context features.

    Args:
        policy: with its parts frozen as they will be in training.
        dataset: with the samples of training and validation.
        folder: of all caches; one cache for each backbone and dataset.
        batch_size: observations encoded at once.
        memory_limit: caches up to this many bytes are held in memory.
        console: for the progress bar.
    """

    def encode(images: dict[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
        state = torch.zeros(
            len(instructions), policy.config.state_dim
        )  # the frozen inputs do not depend on it
        return policy.frozen_inputs(Observation(images=images, state=state, instruction=instructions))

    was_training = policy.training
    policy.eval()
    first = dataset.sample_index[:1]
    sample = encode(dataset.images(first), dataset.instructions(first))
    stored_as = {name: _first_alias(name, sample) for name in sample}
    size = sum(sample[name].numel() * _stored_bytes(sample[name]) for name in set(stored_as.values()))
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("caching frozen inputs", total=len(dataset))
        cache = FeatureCache.open_or_build(
            dataset,
            dataset.sample_index,
            lambda images, instructions: _without_aliases(encode(images, instructions), stored_as),
            key=policy.cache_key(),
            directory=folder,
            batch_size=batch_size,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            in_memory=size * len(dataset) <= memory_limit,
        )
    policy.train(was_training)
    return FrozenFeatures(cache=cache, stored_as=stored_as)


def _first_alias(name: str, features: Mapping[str, Tensor]) -> str:
    return next(other for other, value in features.items() if value is features[name])


def _without_aliases(features: Mapping[str, Tensor], stored_as: Mapping[str, str]) -> dict[str, Tensor]:
    return {name: features[name] for name in set(stored_as.values())}


def _stored_bytes(value: Tensor) -> int:
    return 2 if value.is_floating_point() else value.element_size()
