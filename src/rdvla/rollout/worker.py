"""An episode in its worker: the simulator is here, the policy answers from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdvla.rollout.episode import Decision, Environment, MakeEnvironment, Moment, OpenEnvironment, play
from rdvla.rollout.jobs import EpisodeJob
from rdvla.rollout.transport import Ask
from rdvla.rollout.video import Film


@dataclass(frozen=True)
class Query:
    """An observation that waits for actions."""

    images: dict[str, NDArray[np.uint8]]  # camera -> (H, W, 3)
    state: NDArray[np.float32]  # (S,), real units
    instruction: str


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


class EpisodeRunner:
    """Plays the episodes that a worker is given, and keeps the last simulator open."""

    def __init__(self, make: MakeEnvironment[Environment]) -> None:
        self._open = OpenEnvironment(make)

    def run(self, job: EpisodeJob, ask: Ask) -> EpisodeResult:
        """Play one episode; `ask` turns a `Query` into a `Reply`."""
        return play_job(job, self._open.at(job.place), ask)

    def close(self) -> None:
        """Close the simulator."""
        self._open.close()


def play_job(job: EpisodeJob, environment: Environment, ask: Callable[[Query], Reply]) -> EpisodeResult:
    """Play one episode, and write its video if the job names one.

    Images are rendered when the policy is queried, not in every step; a video needs some more.
    """
    film = None if job.video is None else Film(environment.control_hz, fps=job.video_fps)
    end = play(
        environment,
        _RemotePolicy(ask),
        seed=job.seed,
        max_steps=job.max_steps,
        recorders=() if film is None else (film,),
    )
    if film is not None and job.video is not None:
        film.write(job.video)
    return EpisodeResult(end.success, end.steps, end.executed, None if film is None else film.stride)


class _RemotePolicy:
    def __init__(self, ask: Callable[[Query], Reply]) -> None:
        self._ask = ask

    def act(self, moment: Moment[Environment]) -> Decision:
        reply = self._ask(Query(moment.images, moment.state, moment.environment.instruction))
        return Decision(reply.actions, depth=reply.depth)
