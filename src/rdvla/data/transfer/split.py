"""Choose the episodes of the two parts that a dataset is split into."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from rdvla.data.division import divide_by_task
from rdvla.data.formats.base import DatasetReader
from rdvla.errors import ConfigError

RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_episodes(texts: Sequence[str]) -> list[int]:
    """Return the numbers in texts such as "0-9", "12" and "3,5-7", ascending and without repetitions.

    Raises:
        ConfigError: a text is neither a number nor a range.
    """
    found: set[int] = set()
    for text in (part for each in texts for part in each.split(",") if part.strip()):
        match = RANGE.fullmatch(text.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ConfigError(f"--episodes takes numbers and ranges such as 0-9 12, got {text!r}")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(found)


def divide(
    reader: DatasetReader, *, fraction: float | None, episodes: Sequence[int], seed: int
) -> tuple[list[int], list[int]]:
    """Return the episodes of two parts: the drawn or named ones are the first.

    Args:
        reader: the dataset.
        fraction: share of each task's episodes to draw; None: they are named.
        episodes: named ones.
        seed: of the draw.

    Raises:
        ConfigError: neither or both of them is given, an episode does not exist, or a part would be empty.
    """
    total = len(reader.lengths)
    if (fraction is None) == (not episodes):
        raise ConfigError("give either --fraction, such as 0.9, or --episodes, such as 0-9 12")
    if fraction is None:
        wrong = [episode for episode in episodes if not 0 <= episode < total]
        if wrong:
            raise ConfigError(f"--episodes: there are the episodes 0 to {total - 1}, not {wrong[0]}")
        first = list(episodes)
    else:
        if not 0 < fraction < 1:
            raise ConfigError(f"--fraction must be above 0 and below 1, got {fraction:g}")
        starts = np.cumsum(reader.lengths) - reader.lengths
        tasks = dict(enumerate(reader.task_of_frames()[starts].tolist()))
        first = divide_by_task(tasks, fraction, seed)[1]
    second = sorted(set(range(total)) - set(first))
    if not first or not second:
        raise ConfigError(f"one of the parts would be empty: the dataset has {total} episodes")
    return first, second
