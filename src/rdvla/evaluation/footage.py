"""Pictures of an episode, taken from its video."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from rdvla.evaluation.records import Episode
from rdvla.rollout.video import read_frames


def video_path(episode: Episode, folder: Path) -> Path | None:
    """Where the episode's video is; None when it has none or the file is gone.

    A results file may come from elsewhere: only what lies beside it counts.
    """
    if episode.video is None:
        return None
    path = (folder / episode.video).resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def pictures_at(episode: Episode, path: Path, steps: Sequence[int]) -> list[Image.Image]:
    """What the episode looked like at these environment steps, from the video at `path`.

    A step between two frames shows the nearer one; in a video that was cut short, the last one.
    """
    stride = episode.video_stride or 1
    last = math.ceil(episode.steps / stride)
    indices = [last if step >= episode.steps else round(step / stride) for step in steps]
    wanted = sorted(set(indices))
    found = dict(zip(wanted, read_frames(path, wanted), strict=False))
    final = max(found)
    return [found[min(index, final)] for index in indices]
