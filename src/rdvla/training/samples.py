"""Samples of a dataset as a policy would see them on a robot."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.training.inference import check_robot, robot_of
from rdvla.types import Observation


def open_samples(
    policy: RDVLAPolicy, dataset: str, *, camera_names: Mapping[str, str] | None = None
) -> EpisodeDataset:
    """Open a dataset with the policy's cameras and sizes.

    Images come as they were recorded, and the policy makes them square. A policy that does not know in which
    shape its images were recorded gets square ones in its own size.

    Args:
        policy: its cameras and sizes are taken.
        dataset: folder or hub id.
        camera_names: other names for the dataset's cameras, as {"image": "agentview"}; if not given, those of
            the policy's training, whose action and state features are taken as well.

    Raises:
        ConfigError: it is another robot's: names, units or sizes differ, or images have other proportions.
        DatasetError: the dataset is missing or damaged.
    """
    config = policy.config
    trained_on = policy.records.get(TRAINING, {}).get("config", {}).get("data", {})
    opened = EpisodeDataset(
        dataset,
        chunk_size=config.head.chunk_size,
        cameras=config.cameras,
        camera_names=camera_names or trained_on.get("cameras", {}),
        action=tuple(trained_on.get("action", ())),
        state=tuple(trained_on.get("state", ())),
        fits={camera: fit for camera, fit in config.fits.fits.items() if camera not in config.camera_sizes},
    )
    for name, wanted, found in (
        ("state", config.state_dim, opened.state_dim),
        ("action", config.head.action_dim, opened.action_dim),
    ):
        if wanted != found:
            raise ConfigError(f"{opened.name} has {name}s of {found} numbers, the policy takes {wanted}")
    check_robot(config.robot, robot_of(opened), of=opened.name)
    for camera in config.cameras:
        config.fits.check_shape(camera, opened.recorded_image_size(camera), of=opened.name)
    return opened


def spread_frames(dataset: EpisodeDataset, *, at_most: int) -> NDArray[np.int64]:
    """Return the frames of up to `at_most` samples, evenly spread over the dataset."""
    index = np.linspace(0, len(dataset) - 1, min(at_most, len(dataset)))
    frames: NDArray[np.int64] = dataset.sample_index[index.astype(np.int64)]
    return frames


def observe(dataset: EpisodeDataset, frames: NDArray[np.int64]) -> Observation:
    """Return the observations at some frames."""
    return Observation(
        images=dataset.images(frames), state=dataset.state(frames), instruction=dataset.instructions(frames)
    )
