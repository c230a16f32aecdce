"""An episode in its worker: the simulator is here, the policy answers from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rdvla.rollout.episode import (
    Decision,
    Environment,
    MakeEnvironment,
    OpenEnvironment,
    TimeStep,
    run_episode,
)
from rdvla.rollout.jobs import EpisodeJob
from rdvla.rollout.pool import Failed, Finished
from rdvla.rollout.transport import Ask
from rdvla.rollout.video import Film
from rdvla.types import Observation


@dataclass(frozen=True)
class Reply:
    """The actions to execute before the next query."""

    actions: NDArray[np.float32]  # (n, A), real units
    depth: int  # iterations that the policy used, for the video


@dataclass(frozen=True)
class EpisodeResult:
    """An episode that ran to its end."""

    success: bool
    steps: int
    executed: list[int]  # actions executed after each query
    video_stride: int | None  # environment steps between the frames of its video
    video_speed: float | None  # of the video, times the robot's own


@dataclass(frozen=True)
class ServedQueries:
    """What an episode saw of its policy server."""

    milliseconds: list[float] = field(default_factory=list)  # of each query, from asking to the answer
    ended_by: list[str] = field(default_factory=list)  # converged, max_depth, deadline; empty: it did not say


@dataclass(frozen=True)
class Outcome:
    """How an episode ended, and what happened at its queries."""

    end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]
    depths: list[int]  # iterations of each query; empty if a server does not say
    served: ServedQueries | None = None  # None: no server answered them


class EpisodeRunner:
    """Runs a worker's episodes, and keeps the last simulator open."""

    def __init__(self, make: MakeEnvironment[Environment]) -> None:
        self._simulator = OpenEnvironment(make)

    def run(self, job: EpisodeJob, ask: Ask) -> EpisodeResult:
        """Run an episode; `ask` turns an `Observation` into a `Reply`."""
        return run_episode_job(job, self._simulator.open(job.task_key), ask)

    def close(self) -> None:
        """Close the simulator."""
        self._simulator.close()


def run_episode_job(
    job: EpisodeJob, environment: Environment, ask: Callable[[Observation], Reply]
) -> EpisodeResult:
    """Run an episode, and write its video if the job asks for it.

    Images are rendered when the policy is queried, not in every step; a video needs some more.
    """
    film = (
        None
        if job.video is None
        else Film(environment.control_hz, fps=job.video_fps, max_steps=job.max_steps)
    )
    end = run_episode(
        environment,
        _RemotePolicy(ask),
        seed=job.seed,
        max_steps=job.max_steps,
        recorders=() if film is None else (film,),
    )
    if film is not None and job.video is not None:
        film.write(job.video)
    stride, speed = (None, None) if film is None else (film.stride, film.speed)
    return EpisodeResult(end.success, end.steps, end.executed, stride, speed)


class _RemotePolicy:
    def __init__(self, ask: Callable[[Observation], Reply]) -> None:
        self._ask = ask

    def act(self, now: TimeStep[Environment]) -> Decision:
        reply = self._ask(Observation(now.images, now.state, now.environment.instruction))
        return Decision(reply.actions, depth=reply.depth)
