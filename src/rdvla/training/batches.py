"""From dataset rows to the tensors of one update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rdvla.data import EpisodeDataset
from rdvla.data.features import ENVIRONMENT_STATE, KEYPOINTS
from rdvla.policy import RDVLAPolicy
from rdvla.training.features import FrozenFeatures, is_image

Statistics = Mapping[str, Mapping[str, Any]]
CONSTANT = 1e-6  # a standard deviation below this means that the dimension never changed


@dataclass(frozen=True)
class Batch:
    """B samples, on the device that trains; actions and states in the policy's normalised units."""

    rows: Tensor  # (B,) int64, dataset rows, kept for error messages
    features: dict[str, Tensor]  # what no trainable parameter touches, each (B, ...)
    state: Tensor  # (B, S)
    actions: Tensor  # (B, K, A)
    action_is_pad: Tensor  # (B, K) bool, True past the episode's end
    environment_state: Tensor | None  # (B, E), standardised; None where the dataset has none
    keypoints: Tensor | None  # (B, cameras, P, 2) in the images, -1..1; None where the dataset has none

    @property
    def size(self) -> int:
        """B."""
        return len(self.rows)


@dataclass(frozen=True)
class Standardizer:
    """Maps a vector to mean 0 and standard deviation 1, dimension by dimension."""

    mean: Tensor  # (E,)
    std: Tensor  # (E,)

    @staticmethod
    def from_statistics(statistics: Statistics, feature: str) -> Standardizer | None:
        """Build from a feature's `mean` and `std`, or return None where the dataset lacks the feature."""
        if feature not in statistics:
            return None
        mean, std = (
            torch.as_tensor(statistics[feature][key], dtype=torch.float32) for key in ("mean", "std")
        )
        return Standardizer(mean=mean, std=torch.where(std > CONSTANT, std, torch.ones_like(std)))

    def __call__(self, values: Tensor) -> Tensor:
        """(..., E) -> (..., E)."""
        return (values - self.mean) / self.std


class BatchSource:
    """Assembles batches from a dataset and a cache of frozen inputs.

    Args:
        dataset: actions, states and their statistics.
        features: frozen inputs by dataset row.
        policy: its normalisers and device are used.
        image_shift: largest random shift, in pixels, of images in training batches; 0: none.
    """

    def __init__(
        self, dataset: EpisodeDataset, features: FrozenFeatures, *, policy: RDVLAPolicy, image_shift: int = 0
    ) -> None:
        self._dataset = dataset
        self._features = features
        self._policy = policy
        self._image_shift = image_shift
        self._standardize = Standardizer.from_statistics(dataset.statistics, ENVIRONMENT_STATE)

    def batch(self, rows: Tensor, *, generator: torch.Generator | None = None) -> Batch:
        """Return the samples that start at `rows`.

        Args:
            rows: (B,) int64 dataset rows.
            generator: where augmentation is drawn from; None switches it off, as in validation.
        """
        device = self._policy.device
        index = rows.numpy()
        features = {name: value.to(device) for name, value in self._features.get(index).items()}
        if generator is not None and self._image_shift > 0:
            features = shift_images(features, at_most=self._image_shift, generator=generator)
        state = self._dataset.state(index).to(device)
        actions = self._dataset.actions(index).to(device)
        return Batch(
            rows=rows,
            features=features,
            state=self._policy.state_normalizer.normalize(state),
            actions=self._policy.action_normalizer.normalize(actions),
            action_is_pad=self._dataset.action_is_pad(index).to(device),
            environment_state=self._environment_state(index, device),
            keypoints=self._keypoints(index, device),
        )

    def _environment_state(self, index: Any, device: torch.device) -> Tensor | None:
        values = self._dataset.environment_state(index)
        if values is None or self._standardize is None:
            return None
        return self._standardize(values).to(device)

    def _keypoints(self, index: Any, device: torch.device) -> Tensor | None:
        if KEYPOINTS not in self._dataset.statistics:
            return None
        recorded = self._dataset.recorded_cameras
        chosen = [recorded.index(camera) for camera in self._dataset.cameras]
        values = torch.as_tensor(self._dataset.column(KEYPOINTS)[index], device=device)
        return values.reshape(len(values), len(recorded), -1, 2)[:, chosen]


def non_finite_rows(batch: Batch) -> list[str]:
    """Return a sentence for each part of a batch that holds NaN or infinity, naming the dataset rows."""
    parts = {"state": batch.state, "action": batch.actions, "environment state": batch.environment_state}
    parts |= {f"input {name!r}": value for name, value in batch.features.items()}
    sentences = []
    for name, value in parts.items():
        if value is not None and value.is_floating_point():
            bad = ~value.flatten(1).isfinite().all(dim=1).cpu()
            if bool(bad.any()):
                sentences.append(f"the {name} is not finite in rows {sorted(set(batch.rows[bad].tolist()))}")
    return sentences


def shift_images(
    features: Mapping[str, Tensor], *, at_most: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Shift every image by up to `at_most` pixels along each axis, repeating the border.

    What is no image (see `is_image`) passes unchanged. Each sample and camera has its own shift.
    """
    return {
        name: _shift(value, at_most=at_most, generator=generator) if is_image(value) else value
        for name, value in features.items()
    }


def _shift(images: Tensor, *, at_most: int, generator: torch.Generator) -> Tensor:
    height, width = images.shape[2:4]
    flat = images.flatten(0, 1)
    shifts = torch.randint(-at_most, at_most + 1, (2, len(flat), 1), generator=generator).to(images.device)
    down = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)  # (B x cameras, H)
    right = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)
    which = torch.arange(len(flat), device=images.device)[:, None, None]
    return flat[which, down[:, :, None], right[:, None, :]].reshape(images.shape)
