"""Open environments in a worker and look at what they give, before any episode is played in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rdvla.rollout.episode import Environment, MakeEnvironment, TaskKey
from rdvla.rollout.worker import RETRIES, SILENCE_SECONDS
from rdvla.workers.ends import Failed, Finished
from rdvla.workers.pool import run_jobs
from rdvla.workers.processes import LocalProcesses
from rdvla.workers.transport import Ask, Transport


@dataclass(frozen=True)
class OpeningJob:
    """An environment to open."""

    env: str
    task: str
    seed: int

    @property
    def task_key(self) -> TaskKey:
        """The simulator to build."""
        return self.env, self.task

    def describe(self) -> str:
        """E.g. ``opening metaworld``."""
        return f"opening {self.env}"


@dataclass(frozen=True)
class Opened:
    """What an environment gives and takes. What it does not say about its robot is None or empty."""

    images: dict[str, tuple[int, int]]  # camera -> (height, width) in pixels
    state_size: int
    action_size: int | None = None
    action_range: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # smallest and largest action
    control_hz: float | None = None
    robot_type: str | None = None
    environment_state_size: int | None = None  # of what the simulator alone knows
    num_keypoints: int | None = None
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # "action", "state" -> each number's name
    units: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Opener:
    """Opens an environment, resets it, looks at one observation and closes it again."""

    def __init__(self, make: MakeEnvironment[Environment]) -> None:
        self._make = make
        self._open: Environment | None = None

    def run(self, job: OpeningJob, ask: Ask) -> Opened:  # noqa: ARG002 (a runner's signature)
        """Open one environment; whatever it raises is the job's failure."""
        environment = self._open = self._make(*job.task_key)
        observation, _ = environment.reset(seed=job.seed)
        shown = environment.render_cameras()
        space = getattr(environment, "action_space", None)
        opened = Opened(
            images={camera: (int(image.shape[0]), int(image.shape[1])) for camera, image in shown.items()},
            state_size=int(np.asarray(observation["state"]).shape[0]),
            action_size=None if space is None else int(space.shape[0]),
            action_range=_range(space),
            control_hz=environment.control_hz,
            robot_type=getattr(environment, "robot_type", None),
            environment_state_size=getattr(environment, "environment_state_size", None),
            num_keypoints=getattr(environment, "num_keypoints", None),
            names=_declared(environment, "names"),
            units=_declared(environment, "units"),
        )
        self.close()
        return opened

    def close(self) -> None:
        """Close what is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


def open_each(
    jobs: Sequence[OpeningJob],
    *,
    make: MakeEnvironment[Environment],
    workers: int,
    transport: Transport | None = None,
) -> Iterator[Finished[OpeningJob, Opened] | Failed[OpeningJob]]:
    """Open every environment once, in workers, and yield what each showed or why it did not open."""
    waiting = list(jobs)
    return run_jobs(
        Opener(make),
        lambda last: waiting.pop(0) if waiting else None,  # noqa: ARG005 (any worker takes any environment)
        transport=transport or LocalProcesses(),
        workers=max(1, min(workers, len(jobs))),
        retries=RETRIES,
        silence_seconds=SILENCE_SECONDS,
    )


def _range(space: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The bounds of a space of actions, if it has finite ones."""
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    return tuple(map(float, low)), tuple(map(float, high))


def _declared(environment: Environment, what: str) -> dict[str, tuple[str, ...]]:
    """The names (or units) of actions and states that the environment declares."""
    found = {kind: tuple(getattr(environment, f"{kind}_{what}", ())) for kind in ("action", "state")}
    return {kind: values for kind, values in found.items() if values}
