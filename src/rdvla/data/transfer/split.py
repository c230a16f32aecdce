"""Choose the episodes of the two parts that a dataset is split into."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rdvla.data.division import divide_by_task
from rdvla.data.formats.base import DatasetReader
from rdvla.data.transfer.plan import positions
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
    """Return the episodes of two parts by their numbers: the drawn or named ones are the first.

    Args:
        reader: the dataset.
        fraction: share of each task's episodes to draw; None: they are named.
        episodes: named ones.
        seed: of the draw.

    Raises:
        ConfigError: neither or both of them is given, an episode does not exist, or a part would be empty.
    """
    numbers = reader.numbers.tolist()
    if (fraction is None) == (not episodes):
        raise ConfigError("give either --fraction, such as 0.9, or --episodes, such as 0-9 12")
    if fraction is None:
        positions(reader, episodes)
        first = list(episodes)
    else:
        if not 0 < fraction < 1:
            raise ConfigError(f"--fraction must be above 0 and below 1, got {fraction:g}")
        starts = np.cumsum(reader.lengths) - reader.lengths
        tasks = dict(zip(numbers, reader.task_of_frames()[starts].tolist(), strict=True))
        first = divide_by_task(_with_single_ones_pooled(tasks), fraction, seed)[1]
    second = sorted(set(numbers) - set(first))
    if not first or not second:
        raise ConfigError(f"one of the parts would be empty: the dataset has {len(numbers)} episodes")
    return first, second


def _with_single_ones_pooled(tasks: dict[int, int]) -> dict[int, int]:
    """Return episode -> task, with the episodes that are alone with their task as one task.

    Of such a task nothing can be drawn by share; of all of them together it can.
    """
    counts = Counter(tasks.values())
    pool = max(tasks.values()) + 1
    return {episode: task if counts[task] > 1 else pool for episode, task in tasks.items()}
