"""Split a dataset by episodes, so that no episode is seen in training and validation."""

from __future__ import annotations

import numpy as np

from rdvla.data.dataset import EpisodeDataset
from rdvla.errors import ConfigError


def split_episodes(
    dataset: EpisodeDataset, validation_fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Divide the dataset's episodes into training and validation, task by task.

    Every task gives about `validation_fraction` of its episodes to validation (rounded to the nearest number;
    at least one if the fraction is above 0 and the task has two or more). The same dataset, fraction and seed
    give the same split, and adding a task does not change the split of the others.

    Args:
        dataset: its chosen `episodes` are divided.
        validation_fraction: 0 (no validation) up to, but not including, 1.
        seed: of the draw.

    Returns:
        training episodes and validation episodes, each ascending.

    Raises:
        ConfigError: the fraction is out of range.
    """
    if not 0 <= validation_fraction < 1:
        raise ConfigError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}")
    by_task: dict[int, list[int]] = {}
    for episode in dataset.episodes.tolist():
        by_task.setdefault(dataset.episode_task(episode), []).append(episode)
    training: list[int] = []
    validation: list[int] = []
    for task, episodes in by_task.items():
        count = round(validation_fraction * len(episodes))
        if validation_fraction > 0 and len(episodes) > 1:
            count = min(max(count, 1), len(episodes) - 1)
        order = np.random.default_rng([seed, task]).permutation(len(episodes))
        validation += [episodes[i] for i in order[:count]]
        training += [episodes[i] for i in order[count:]]
    return sorted(training), sorted(validation)
