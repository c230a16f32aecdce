"""Divide episodes into two parts by drawing, the same for every task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rdvla.errors import ConfigError


def divide_by_task(task_of: Mapping[int, int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Draw about `fraction` of each task's episodes for the second part (rounded).

    A task with two or more gives at least one to either part if the fraction is above 0. The same episodes,
    fraction and seed give the same parts, and a new task does not change those of the others.

    Args:
        task_of: episode -> number of its task.
        fraction: 0 (none) up to, but not including, 1.
        seed: of the draw.

    Returns:
        The episodes of both parts, each ascending.

    Raises:
        ConfigError: the fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"validation_fraction must be at least 0 and below 1, got {fraction}")
    by_task: dict[int, list[int]] = {}
    for episode, task in task_of.items():
        by_task.setdefault(task, []).append(episode)
    first: list[int] = []
    second: list[int] = []
    for task, episodes in by_task.items():
        count = round(fraction * len(episodes))
        if fraction > 0 and len(episodes) > 1:
            count = min(max(count, 1), len(episodes) - 1)
        order = np.random.default_rng([seed, task]).permutation(len(episodes))
        second += [episodes[i] for i in order[:count]]
        first += [episodes[i] for i in order[count:]]
    return sorted(first), sorted(second)
