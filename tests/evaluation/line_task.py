"""A one-dimensional task without a simulator; worker processes import this, so it needs no torch."""

from __future__ import annotations

import os

import numpy as np

TASKS = ["near", "far"]


class LineTask:
    """Walk along a line to a goal that the seed places; the image's brightness tells the position."""

    def __init__(self, task: str) -> None:
        self.instruction = f"walk to the {task} mark"
        self.goal = 3.0 if task == "near" else 6.0
        self.position = 0.0

    def reset(self, *, seed: int | None = None) -> tuple[dict, dict]:
        self.position = np.random.default_rng(seed).uniform(-0.5, 0.5)
        return self._observation(), {}

    def step(self, action):
        self.position += float(action[0])
        success = self.position >= self.goal
        return self._observation(), 0.0, False, False, {"success": success}

    def render_cameras(self):
        level = np.clip(self.position * 20 + 40, 0, 255)
        return {"front": np.full((16, 16, 3), level, dtype=np.uint8)}

    def _observation(self):
        return {"state": np.array([self.position], dtype=np.float32)}


class RaisingTask(LineTask):
    """Raises in the first step of every second seed."""

    def reset(self, *, seed: int | None = None):
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action):
        if self.seed % 2:
            raise ArithmeticError(f"no physics for seed {self.seed}")
        return super().step(action)


class DyingTask(RaisingTask):
    """Takes its process down with it on every second seed."""

    def step(self, action):
        if self.seed % 2:
            os._exit(9)
        return super().step(action)


def make_line(task: str) -> LineTask:
    return LineTask(task)


def make_raising(task: str) -> RaisingTask:
    return RaisingTask(task)


def make_dying(task: str) -> DyingTask:
    return DyingTask(task)
