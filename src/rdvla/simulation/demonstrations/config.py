"""What demonstrations to generate. Imports no simulator and no video package: the command line reads it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from rdvla.errors import ConfigError
from rdvla.simulation.rendering import Rendering
from rdvla.workers import WorkerChoice, parse_workers

ATTEMPTS_PER_TASK = 10_000  # an attempt's number is task_index * this + attempt


@dataclass(frozen=True)
class DemonstrationConfig:
    """Demonstrations of a scripted expert: environment x tasks x episodes, under noise."""

    output: Path = Path("demos")  # folder of the dataset; must not exist yet
    env: str = "metaworld"  # name of the simulator
    tasks: tuple[str, ...] = ()  # tasks or sets of them, such as MT10; none: the simulator's default
    episodes_per_task: int = 50  # successful episodes to keep
    cameras: tuple[str, ...] = ()  # names; none: all of the simulator's cameras
    image_size: int = 128  # pixels, height and width
    camera_stride: int = 3  # control steps between camera captures; frames between hold the last image
    rendering: Rendering = "fast"  # mirrors: a stove's plate reflects; full: as the simulator renders
    seed: int = 0  # determines every random number
    noise_levels: tuple[float, ...] = ()  # std of action noise, drawn per episode; none: the simulator's
    burst_probability: float | None = None  # per step, of a burst of a random action; null: the simulator's
    max_steps: int | None = None  # an attempt without success fails here; null: the simulator's default limit
    steps_after_success: int = 12  # control steps recorded after the first success
    max_attempts_per_episode: int = 10  # give up if a task needs more on average
    workers: int | str | None = None  # processes; null: one per core; ray, or ray:16: on a Ray cluster
    ray: str = "auto"  # that cluster: auto, the one this machine belongs to; HOST:PORT; local: started here

    def __post_init__(self) -> None:
        counts = ("episodes_per_task", "image_size", "camera_stride", "max_attempts_per_episode")
        for name in (*counts, "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("seed", "steps_after_success"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        parse_workers(1 if self.workers is None else self.workers, ray=self.ray)
        if not all(0 <= level < math.inf for level in self.noise_levels):
            raise ConfigError(f"noise_levels must be finite and 0 or more, got {list(self.noise_levels)}")
        if self.burst_probability is not None and not 0 <= self.burst_probability <= 1:
            raise ConfigError(f"burst_probability must be from 0 to 1, got {self.burst_probability}")
        if self.episodes_per_task * self.max_attempts_per_episode > ATTEMPTS_PER_TASK:
            raise ConfigError(
                f"episodes_per_task x max_attempts_per_episode must be at most {ATTEMPTS_PER_TASK}, "
                f"got {self.episodes_per_task} x {self.max_attempts_per_episode}"
            )

    @property
    def worker_choice(self) -> WorkerChoice:
        """Where attempts run."""
        return parse_workers(_available_cores() if self.workers is None else self.workers, ray=self.ray)


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
