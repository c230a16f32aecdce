"""Attempts at demonstrations as jobs that a worker process can run and whose outcome outlives a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rdvla.data import DatasetWriter
from rdvla.errors import RDVLAError
from rdvla.files import write_json
from rdvla.simulation.environment import SimulatedTask
from rdvla.simulation.recording import AttemptSeeds, NoiseConfig, record_attempt
from rdvla.simulation.registry import make, make_expert
from rdvla.simulation.rendering import Rendering

ATTEMPTS_PER_TASK = 10_000  # an attempt's number is task_index * this + attempt


@dataclass(frozen=True)
class Attempt:
    """One try at one task: the `attempt`-th (from 0) of the `task_index`-th task of the configuration."""

    task: str
    task_index: int
    attempt: int

    @property
    def number(self) -> int:
        """The place of its episode in the dataset's order."""
        return self.task_index * ATTEMPTS_PER_TASK + self.attempt

    @classmethod
    def from_number(cls, number: int, tasks: Sequence[str]) -> Attempt:
        """The inverse of `number`."""
        index, attempt = divmod(number, ATTEMPTS_PER_TASK)
        return cls(task=tasks[index], task_index=index, attempt=attempt)


@dataclass
class AttemptRunner:
    """Runs attempts and keeps their outcome: an episode in the writer's staging folder, or a note of failure.

    It is sent to worker processes; each opens a simulator of its own at its first attempt.
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
    _open: SimulatedTask | None = field(default=None, repr=False)

    def __call__(self, attempt: Attempt) -> bool:
        """Run one attempt; return whether it succeeded.

        Any exception is raised as an `RDVLAError` that names the attempt.
        """
        seeds = AttemptSeeds.derive(seed=self.seed, task=attempt.task, attempt=attempt.attempt)
        try:
            return self._run(attempt, seeds)
        except Exception as error:
            raise RDVLAError(
                f"{attempt.task}, attempt {attempt.attempt} (scene seed {seeds.scene}) raised "
                f"{type(error).__name__}: {error}"
            ) from error

    def outcomes(self) -> dict[int, bool]:
        """Return what is on disk: number of the attempt -> success.

        Raises `DatasetError` naming an episode that is damaged.
        """
        failed = {int(path.stem): False for path in self._failures.glob("[0-9]*.json")}
        return failed | dict.fromkeys(self.writer.finished(), True)

    def close(self) -> None:
        """Close the simulator that is open, if any."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def _failures(self) -> Path:
        return self.writer.staging / "failures"

    def _run(self, attempt: Attempt, seeds: AttemptSeeds) -> bool:
        episode = record_attempt(
            env=self._environment(attempt.task),
            expert=make_expert(self.env, attempt.task, seed=seeds.expert),
            seeds=seeds,
            noise=self.noise,
            camera_stride=self.camera_stride,
            steps_after_success=self.steps_after_success,
        )
        if episode is None:
            write_json(self._failures / f"{attempt.number:06d}.json", {"scene_seed": seeds.scene})
            return False
        source = {**episode.source, "env": self.env, "attempt": attempt.attempt}
        self.writer.add_episode(replace(episode, source=source), number=attempt.number)
        return True

    def _environment(self, task: str) -> SimulatedTask:
        """Return the task's simulator; only the last one is kept, as some simulators take 2 GB each."""
        if self._open is None or self._open.task != task:
            self.close()
            self._open = make(
                self.env,
                task,
                cameras=self.cameras,
                image_size=self.image_size,
                max_steps=self.max_steps,
                rendering=self.rendering,
            )
        return self._open
