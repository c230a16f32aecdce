"""Depth along episodes: which queries of a task take the most iterations, with pictures of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdvla.evaluation.records import Episode
from rdvla.rollout.video import read_frames

POINTS = 200  # along an episode


@dataclass(frozen=True)
class DepthProfile:
    """Iterations along several episodes, with an episode's length as the unit of time."""

    time: NDArray[np.float64]  # (POINTS,) 0 at the start, 1 at the end
    median: NDArray[np.float64]  # (POINTS,) over the episodes
    low: NDArray[np.float64]  # (POINTS,) lower quartile
    high: NDArray[np.float64]  # (POINTS,) upper quartile
    episodes: int
    successful: bool  # whether these are the successful episodes; False: none was, and these are all


def depth_profile(episodes: Sequence[Episode]) -> DepthProfile | None:
    """Return the profile of one task under one setting; None if no episode ended by itself.

    Failed episodes ran into the time limit, so the same share of the episode is another moment of the task.
    They are left out if any episode succeeded, and so is every episode in which a person drove.
    """
    alone = [each for each in episodes if each.error is None and not each.driven_steps]
    ended = [each for each in alone if each.depths and each.steps > 0]
    successful = [each for each in ended if each.success]
    chosen = successful or ended
    if not chosen:
        return None
    time = (np.arange(POINTS) + 0.5) / POINTS
    values = np.stack([_depth_along(each, time) for each in chosen])
    low, median, high = np.percentile(values, [25, 50, 75], axis=0)
    return DepthProfile(
        time=time, median=median, low=low, high=high, episodes=len(chosen), successful=bool(successful)
    )


def query_steps(episode: Episode) -> list[int]:
    """Return the environment step at which each query was made."""
    return list(accumulate(episode.executed, initial=0))[: len(episode.depths)]


def deepest_queries(episode: Episode, count: int) -> list[int]:
    """Return the queries with the most iterations, in order of time.

    At most `count`, no two next to each other, none with fewer iterations than the mean.
    """
    chosen: list[int] = []
    mean = sum(episode.depths) / len(episode.depths)
    above = [query for query, depth in enumerate(episode.depths) if depth >= mean]
    for query in sorted(above, key=lambda index: (-episode.depths[index], index)):
        if len(chosen) < count and all(abs(query - other) > 1 for other in chosen):
            chosen.append(query)
    return sorted(chosen)


def video_path(episode: Episode, folder: Path) -> Path | None:
    """Return where the episode's video is; None if it has none or the file is gone.

    A results file may come from elsewhere: only files in its own folder count.
    """
    if episode.video is None:
        return None
    path = (folder / episode.video).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def pictures_at(episode: Episode, path: Path, steps: Sequence[int]) -> list[Image.Image]:
    """Return pictures of the episode at these environment steps, from the video at `path`.

    A step between two frames shows the nearer frame; in a video that was cut short, the last frame.
    """
    stride = episode.video_stride or 1
    last = math.ceil(episode.steps / stride)
    indices = [last if step >= episode.steps else round(step / stride) for step in steps]
    wanted = sorted(set(indices))
    found = dict(zip(wanted, read_frames(path, wanted), strict=False))
    final = max(found)
    return [found[min(index, final)] for index in indices]


def _depth_along(episode: Episode, time: NDArray[np.float64]) -> NDArray[np.float64]:
    """Iterations of the query whose actions ran at each time, (POINTS,)."""
    ends = np.cumsum(episode.executed)
    running = np.searchsorted(ends, time * episode.steps, side="right")
    return np.asarray(episode.depths, dtype=np.float64)[np.minimum(running, len(episode.depths) - 1)]
