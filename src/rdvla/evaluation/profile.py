"""How the depth of the queries runs along an episode: which moments of a task take the most iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from rdvla.evaluation.records import Episode

POINTS = 200  # places along an episode


@dataclass(frozen=True)
class DepthProfile:
    """Iterations along several episodes, with an episode's length as the unit of time."""

    time: NDArray[np.float64]  # (POINTS,) 0 at the start, 1 at the end
    median: NDArray[np.float64]  # (POINTS,) over the episodes
    low: NDArray[np.float64]  # (POINTS,) lower quartile
    high: NDArray[np.float64]  # (POINTS,) upper quartile
    episodes: int
    successful: bool  # whether these are the successful episodes; else none was, and they are all


def depth_profile(episodes: Sequence[Episode]) -> DepthProfile | None:
    """The profile of one task under one setting; None where no episode ended by itself.

    Episodes that failed ran into the time limit, so that their moments do not fall on those of the others:
    they are left out where any episode succeeded.
    """
    ended = [one for one in episodes if one.error is None and one.depths and one.steps > 0]
    successful = [one for one in ended if one.success]
    chosen = successful or ended
    if not chosen:
        return None
    time = (np.arange(POINTS) + 0.5) / POINTS
    values = np.stack([_depth_along(one, time) for one in chosen])
    low, median, high = np.percentile(values, [25, 50, 75], axis=0)
    return DepthProfile(
        time=time, median=median, low=low, high=high, episodes=len(chosen), successful=bool(successful)
    )


def query_steps(episode: Episode) -> list[int]:
    """The environment step at which each query was made."""
    return list(accumulate(episode.executed, initial=0))[: len(episode.depths)]


def longest_thoughts(episode: Episode, count: int) -> list[int]:
    """The queries with the most iterations, in order of time.

    At most `count`, no two next to each other, none with fewer iterations than the mean.
    """
    chosen: list[int] = []
    mean = sum(episode.depths) / len(episode.depths)
    above = [query for query, depth in enumerate(episode.depths) if depth >= mean]
    for query in sorted(above, key=lambda one: (-episode.depths[one], one)):
        if len(chosen) < count and all(abs(query - other) > 1 for other in chosen):
            chosen.append(query)
    return sorted(chosen)


def _depth_along(episode: Episode, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Iterations of the query whose actions ran at each time, (POINTS,)."""
    ends = np.cumsum(episode.executed)
    running = np.searchsorted(ends, time * episode.steps, side="right")
    return np.asarray(episode.depths, dtype=np.float64)[np.minimum(running, len(episode.depths) - 1)]
