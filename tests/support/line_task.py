"""A one-dimensional task without a simulator; worker processes import this, so it needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

TASKS = ["near", "far"]


class LineTask:
    """Walk along a line to a goal that the seed places; the image's brightness tells the position."""

    control_hz = 80.0

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

    def close(self) -> None:
        pass

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


class MortalTask(LineTask):
    """Takes its process down with it whatever the seed."""

    def step(self, action):
        os._exit(9)


class OnceDyingTask(LineTask):
    """Takes its process down with it in the first attempt at every seed."""

    def __init__(self, task: str, folder: Path) -> None:
        super().__init__(task)
        self.folder = folder

    def reset(self, *, seed: int | None = None):
        self.seed = seed
        return super().reset(seed=seed)

    def step(self, action):
        try:
            (self.folder / f"died-{self.instruction}-{self.seed}").touch(exist_ok=False)
        except FileExistsError:
            return super().step(action)
        os._exit(9)


class LoggingTask(LineTask):
    """Writes down when it is opened and closed, and by which process."""

    def __init__(self, log: Path, env: str, task: str) -> None:
        super().__init__(task)
        self.log, self.name = log, f"{env}/{task}"
        self._write("open")

    def close(self) -> None:
        self._write("close")

    def _write(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {what} {self.name}\n")


def make_line(env: str, task: str) -> LineTask:
    return LineTask(task)


def make_raising(env: str, task: str) -> RaisingTask:
    return RaisingTask(task)


def make_dying(env: str, task: str) -> DyingTask:
    return DyingTask(task)


def make_logging(env: str, task: str, *, log: Path) -> LoggingTask:
    return LoggingTask(log, env, task)


def make_mortal(env: str, task: str) -> LineTask:
    return MortalTask(task)


def make_once_dying(env: str, task: str, *, folder: Path) -> LineTask:
    return OnceDyingTask(task, folder)


def make_closed(env: str, task: str) -> LineTask:
    raise OSError("no display")
