"""What the rollout and its environment processes tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.evaluation.setting import Setting

Place = tuple[str, str]  # environment and task: what a simulator is built for


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    env: str
    task: str
    setting: Setting
    seed: int
    max_steps: int
    video: Path | None = None
    video_fps: int = 20

    @property
    def place(self) -> Place:
        """Where it plays."""
        return self.env, self.task

    @property
    def key(self) -> tuple[str, str, Setting, int]:
        """What tells it from all other episodes of a run."""
        return self.env, self.task, self.setting, self.seed


@dataclass(frozen=True)
class Query:
    """An observation that waits for a chunk of actions."""

    images: dict[str, NDArray[np.uint8]]  # camera -> (H, W, 3)
    state: NDArray[np.float32]  # (S,), real units
    instruction: str


@dataclass(frozen=True)
class Reply:
    """The actions to execute before the next query."""

    actions: NDArray[np.float32]  # (n, A), real units
    depth: int  # iterations that the policy used, for the video


@dataclass(frozen=True)
class Finished:
    """An episode that ran to its end."""

    success: bool
    steps: int
    executed: list[int]  # actions executed after each query
    video_stride: int | None  # environment steps between the frames of its video


@dataclass(frozen=True)
class Failed:
    """An episode in which an exception was raised: neither a success nor a failure of the policy."""

    type: str
    message: str
    traceback: str
