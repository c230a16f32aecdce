"""Attempts at demonstrations as jobs for a worker, whose outcomes outlive a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from rdvla.data import DatasetWriter
from rdvla.errors import DatasetError
from rdvla.files import write_json
from rdvla.rollout.episode import OpenEnvironment
from rdvla.simulation.demonstrations.config import ATTEMPTS_PER_TASK
from rdvla.simulation.demonstrations.recording import AttemptSeeds, NoiseConfig, record_attempt
from rdvla.simulation.environment import SimulatedTask
from rdvla.simulation.registry import make, make_expert
from rdvla.simulation.rendering import Rendering
from rdvla.workers.transport import Ask

PARCELS = "parcels"  # folder of episodes that other machines sent


@dataclass(frozen=True)
class Attempt:
    """A try at a task: the `attempt`-th (from 0) of the `task_index`-th task of the configuration."""

    task: str
    task_index: int
    attempt: int

    @property
    def number(self) -> int:
        """Where its episode comes in the dataset's order."""
        return self.task_index * ATTEMPTS_PER_TASK + self.attempt

    @classmethod
    def from_number(cls, number: int, tasks: Sequence[str]) -> Attempt:
        """Return the attempt with this `number`."""
        index, attempt = divmod(number, ATTEMPTS_PER_TASK)
        return cls(task=tasks[index], task_index=index, attempt=attempt)

    def describe(self) -> str:
        """E.g. ``recording push-v3, attempt 3``."""
        return f"recording {self.task}, attempt {self.attempt}"


@dataclass
class AttemptRunner:
    """Runs attempts and keeps their outcome: an episode in the writer's staging folder, or a note of failure.

    Every worker has a copy, which opens a simulator of its own at its first attempt and keeps the last
    simulator open. On another machine an episode becomes one file, which the pool's side brings here.
    """

    writer: DatasetWriter
    env: str
    cameras: tuple[str, ...]
    image_size: int
    camera_stride: int
    rendering: Rendering
    seed: int
    noise: NoiseConfig
    max_steps: int
    steps_after_success: int
    is_elsewhere: bool = False  # on another machine, which sends its files
    _simulator: OpenEnvironment[SimulatedTask] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._simulator = OpenEnvironment(self._make)

    def run(self, attempt: Attempt, ask: Ask) -> bool:  # noqa: ARG002 (the expert is here: nothing to ask)
        """Run an attempt, unless its outcome is there; return whether it succeeded.

        It is there if a worker died between keeping it and reporting it.
        """
        if (known := self._outcome(attempt)) is not None:
            return known
        seeds = self.seeds(attempt)
        episode = record_attempt(
            env=self._simulator.open((self.env, attempt.task)),
            expert=make_expert(self.env, attempt.task, seed=seeds.expert),
            seeds=seeds,
            noise=self.noise,
            camera_stride=self.camera_stride,
            steps_after_success=self.steps_after_success,
        )
        if episode is None:
            write_json(self._failure(attempt), {"scene_seed": seeds.scene})
            return False
        source = {**episode.source, "env": self.env, "attempt": attempt.attempt}
        try:
            self.writer.add_episode(replace(episode, source=source), number=attempt.number)
        except DatasetError:
            if not self.writer.holds(attempt.number):
                raise
        if self.is_elsewhere:
            self.writer.pack(attempt.number, self.root / PARCELS / f"{attempt.number:06d}.zip")
        return True

    def _outcome(self, attempt: Attempt) -> bool | None:
        if self.writer.holds(attempt.number):
            return True
        return False if self._failure(attempt).exists() else None

    @property
    def root(self) -> Path:
        """The folder that all files are written below."""
        return self.writer.staging

    def relocated(self, root: Path) -> Self:
        """Return a copy that writes below another folder; see `rdvla.workers.ray.WritesFiles`."""
        return replace(self, writer=self.writer.relocated(root), is_elsewhere=True)

    def unpack(self) -> None:
        """Stage the episodes that came from other machines."""
        for parcel in sorted((self.root / PARCELS).glob("[0-9]*.zip")):
            self.writer.unpack(parcel, number=int(parcel.stem))

    def seeds(self, attempt: Attempt) -> AttemptSeeds:
        """Return the random numbers of an attempt."""
        return AttemptSeeds.derive(seed=self.seed, task=attempt.task, attempt=attempt.attempt)

    def outcomes(self) -> dict[int, bool]:
        """Return the outcomes on disk: number of the attempt -> success. What has arrived is unpacked.

        Raises:
            DatasetError: an episode is damaged (named).
        """
        self.unpack()
        failed = {int(path.stem): False for path in self._failures.glob("[0-9]*.json")}
        return failed | dict.fromkeys(self.writer.finished(), True)

    def close(self) -> None:
        """Close the simulator that is open, if any."""
        self._simulator.close()

    @property
    def _failures(self) -> Path:
        return self.writer.staging / "failures"

    def _failure(self, attempt: Attempt) -> Path:
        return self._failures / f"{attempt.number:06d}.json"

    def _make(self, env: str, task: str) -> SimulatedTask:
        return make(
            env,
            task,
            cameras=self.cameras,
            image_size=self.image_size,
            max_steps=self.max_steps,
            rendering=self.rendering,
        )
