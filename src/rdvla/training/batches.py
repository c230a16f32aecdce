"""The batch of an update: which samples, and their tensors. Every draw is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdvla.backbone import inside_image
from rdvla.data import EpisodeDataset
from rdvla.data.features import ENVIRONMENT_STATE, KEYPOINTS
from rdvla.errors import ConfigError
from rdvla.heads import ConstantDepth, DepthDistribution, LogNormalPoisson
from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import Batch, Share
from rdvla.processing.augmentation import Augmentation
from rdvla.training.choices import FrameChoice, UniformChoice
from rdvla.training.config import DepthConfig
from rdvla.training.features import is_image
from rdvla.training.streamed_features import FeatureSource

CONSTANT = 1e-6  # a standard deviation below this means that the dimension never changed


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a fresh CPU generator for step `step` of the run with seed `seed`.

    NumPy's SeedSequence hashes the pair, so neighbouring seeds and steps give unrelated streams. Nothing is
    carried from step to step, so a resumed run draws the same as an uninterrupted run.
    """
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def depth_distribution(config: DepthConfig, *, head_mean: int) -> DepthDistribution:
    """Build the distribution that the configuration names; its mean is `head_mean` unless given."""
    mean = head_mean if config.mean is None else config.mean
    if config.distribution == "constant":
        return ConstantDepth(int(mean))
    return LogNormalPoisson(mean=mean, minimum=config.minimum, maximum=config.maximum)


@dataclass(frozen=True)
class Draw:
    """What chance decides about an update, before noise is drawn from the same generator."""

    step: int  # number of the update, from 0
    frames: Tensor  # (B,) int64, dataset frames that the samples start at
    depth: int  # r, iterations
    generator: torch.Generator  # goes on to the initial state, the noise and warm starts, in this order

    def seed(self, share: Share | None) -> int:
        """Return a seed for what draws by itself, such as dropout; each share of the batch has its own."""
        seed = self.generator.initial_seed()
        if share is None or share.first == 0:
            return seed
        return int(np.random.SeedSequence((seed, share.first)).generate_state(1, np.uint64)[0])


class Sampler:
    """Draws batches, uniformly with replacement unless another choice is given.

    Args:
        frames: (N,) dataset frames that may start a chunk, or what chooses from them.
        batch_size: B.
        seed: of the run.
        depth: distribution of r.

    Raises:
        ConfigError: there are no frames.
    """

    def __init__(
        self,
        frames: Sequence[int] | Tensor | FrameChoice,
        *,
        batch_size: int,
        seed: int,
        depth: DepthDistribution,
    ) -> None:
        self._choice = frames if isinstance(frames, FrameChoice) else UniformChoice(frames)
        self._batch_size = batch_size
        self._seed = seed
        self._depth = depth

    def draw(self, step: int) -> Draw:
        """Return the draw of update number `step`; the same for the same step, whatever was drawn before."""
        generator = step_generator(self._seed, step)
        frames = self._choice.choose(step, self._batch_size, generator=generator)
        depth = self._depth.sample(generator)
        return Draw(step=step, frames=frames, depth=depth, generator=generator)


def evenly_spread(frames: Tensor, *, at_most: int) -> Tensor:
    """Return up to `at_most` of `frames`, evenly spread over them."""
    if len(frames) <= at_most:
        return frames
    return frames[torch.linspace(0, len(frames) - 1, at_most).round().long()]


@dataclass(frozen=True)
class Standardizer:
    """Maps a vector to mean 0 and standard deviation 1, dimension by dimension."""

    mean: Tensor  # (E,)
    std: Tensor  # (E,)

    @staticmethod
    def from_statistics(statistics: Mapping[str, Mapping[str, Any]], feature: str) -> Standardizer | None:
        """Build from a feature's `mean` and `std`, or return None if the dataset lacks the feature."""
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
        features: frozen inputs by dataset frame.
        policy: its normalisers and device are used.
        image_shift: largest random shift of images in training batches, in pixels; 0: none.
        augmentation: other random changes of images in training batches.

    Raises:
        ConfigError: images are to be augmented, but the frozen inputs hold none.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        features: FeatureSource,
        *,
        policy: RDVLAPolicy,
        image_shift: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._dataset = dataset
        self._features = features
        self._policy = policy
        self._image_shift = image_shift
        self._augmentation = augmentation or Augmentation()
        if self._augmentation.is_on and not features.image_names:
            raise ConfigError(
                "data.augmentation changes images, but this run trains on features of a frozen image "
                "encoder, which are computed once: train the encoder, or leave data.augmentation out."
            )
        self._standardize = Standardizer.from_statistics(dataset.statistics, ENVIRONMENT_STATE)

    def batch(
        self, frames: Tensor, *, generator: torch.Generator | None = None, share: Share | None = None
    ) -> Batch:
        """Return the samples that start at `frames`, or a share of them.

        Args:
            frames: (B,) int64 dataset frames of the whole batch.
            generator: where augmentation is drawn from; None switches it off, as in validation.
            share: the rows that are wanted; None: all. How much they count is filled in.
        """
        device = self._policy.device
        whole = frames.numpy()
        index = whole if share is None else whole[share.first : share.first + share.size]
        features = {name: value.to(device) for name, value in self._features.get(index).items()}
        if generator is not None and self._image_shift > 0:
            features = shift_images(features, at_most=self._image_shift, generator=generator, share=share)
        keypoints = self._keypoints(whole, device)  # all of them, as they say how much the share counts
        if generator is not None and self._augmentation.is_on:
            features, keypoints = augment_images(
                features, keypoints, augmentation=self._augmentation, generator=generator, share=share
            )
        is_pad = self._dataset.action_is_pad(whole)
        if share is not None:
            share = replace(share, steps=_part(~is_pad, share))
            is_pad = share.of(is_pad)
            if keypoints is not None:
                share = replace(share, points=_part(inside_image(keypoints), share))
                keypoints = share.of(keypoints)
        state = self._dataset.state(index).to(device)
        actions = self._dataset.actions(index).to(device)
        return Batch(
            features=features,
            state=self._policy.state_normalizer.normalize(state),
            actions=self._policy.action_normalizer.normalize(actions),
            action_is_pad=is_pad.to(device),
            environment_state=self._environment_state(index, device),
            keypoints=keypoints,
            share=share,
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
        points = values.reshape(len(values), len(recorded), -1, 2)[:, chosen]
        moved = [
            fit.move(points[:, number], self._dataset.recorded_image_size(camera))
            if (fit := self._dataset.fits.get(camera)) is not None
            else points[:, number]
            for number, camera in enumerate(self._dataset.cameras)
        ]
        return torch.stack(moved, dim=1)


def share_out(batch_size: int, *, parts: int) -> list[Share]:
    """Cut a batch into `parts` even shares of consecutive rows; a small one leaves some empty."""
    ends = [batch_size * part // parts for part in range(parts + 1)]
    return [Share(first=first, size=end - first, whole=batch_size) for first, end in pairwise(ends)]


def _part(counted: Tensor, share: Share) -> float:
    """Return how much of what is True in (B, ...) is in a share."""
    return int(share.of(counted).sum()) / max(1, int(counted.sum()))


def shift_images(
    features: Mapping[str, Tensor], *, at_most: int, generator: torch.Generator, share: Share | None = None
) -> dict[str, Tensor]:
    """Shift every image by up to `at_most` pixels along each axis, repeating the border.

    Tensors that are no images (see `is_image`) pass unchanged. Each sample and camera has its own shift. Of a
    share, `features` are its rows, and shifts are drawn for the whole batch.
    """
    return {
        name: _shift(value, at_most=at_most, generator=generator, share=share) if is_image(value) else value
        for name, value in features.items()
    }


def augment_images(
    features: Mapping[str, Tensor],
    keypoints: Tensor | None,
    *,
    augmentation: Augmentation,
    generator: torch.Generator,
    share: Share | None = None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Change images, and move the keypoints in them; each sample and camera has its own changes.

    Args:
        features: with images (b, cameras, H, W, 3) among them, see `is_image`; others pass unchanged.
        keypoints: (B, cameras, P, 2) in the images of the whole batch, if there are any.
        augmentation: how far images are changed.
        generator: source of the changes, which are drawn for the whole batch.
        share: the b rows that `features` are; None: all B.
    """
    images = {name: value for name, value in features.items() if is_image(value)}
    batch, cameras, height, width, _ = next(iter(images.values())).shape
    first, whole = (0, batch) if share is None else (share.first, share.whole)
    changes = augmentation.draw(whole * cameras, generator=generator)
    own = changes.select(slice(first * cameras, (first + batch) * cameras))
    changed = {name: own.apply(value.flatten(0, 1)).view(value.shape) for name, value in images.items()}
    if keypoints is not None:
        keypoints = changes.move(keypoints.flatten(0, 1), size=(height, width)).view(keypoints.shape)
    return {**features, **changed}, keypoints


def _shift(images: Tensor, *, at_most: int, generator: torch.Generator, share: Share | None) -> Tensor:
    batch, cameras, height, width = images.shape[:4]
    flat = images.flatten(0, 1)
    first, whole = (0, batch) if share is None else (share.first, share.whole)
    shifts = torch.randint(-at_most, at_most + 1, (2, whole * cameras, 1), generator=generator)
    shifts = shifts[:, first * cameras : (first + batch) * cameras].to(images.device)
    down = (torch.arange(height, device=images.device) + shifts[0]).clamp(0, height - 1)  # (B x cameras, H)
    right = (torch.arange(width, device=images.device) + shifts[1]).clamp(0, width - 1)
    which = torch.arange(len(flat), device=images.device)[:, None, None]
    return flat[which, down[:, :, None], right[:, None, :]].reshape(images.shape)
