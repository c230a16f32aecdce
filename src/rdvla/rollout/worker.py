"""An episode in its worker: the simulator is here, the policy answers from elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rdvla.files import os_error_sentence
from rdvla.rollout.attended import AttendedActor, MakeRecorder
from rdvla.rollout.episode import (
    Decision,
    Environment,
    EpisodeEnd,
    MakeEnvironment,
    OpenEnvironment,
    Origin,
    Recorder,
    TimeStep,
    run_episode,
)
from rdvla.rollout.jobs import EpisodeJob, ServedQueries
from rdvla.rollout.video import Film
from rdvla.types import Observation
from rdvla.workers.ends import Failed, Finished
from rdvla.workers.transport import Ask

RETRIES = 2  # times that an episode is played again after the death of its worker
SILENCE_SECONDS = 600.0  # after which a worker counts as dead; to open a simulator may take minutes


@dataclass(frozen=True)
class Reply:
    """The actions to execute before the next query."""

    actions: NDArray[np.float32]  # (n, A), real units
    depth: int  # iterations that the policy used, for the video
    origin: Origin | None = None  # None: nobody attends the episode


@dataclass(frozen=True)
class EpisodeResult:
    """An episode that ran to its end."""

    success: bool
    steps: int
    executed: list[int]  # actions executed after each query; without those of a person
    video_stride: int | None  # environment steps between the frames of its video
    video_speed: float | None  # of the video, times the robot's own
    driven_steps: int = 0  # environment steps of a person
    interventions: int = 0  # times that a person took over and acted
    video_problem: str | None = None  # why its video could not be written


@dataclass(frozen=True)
class Outcome:
    """How an episode ended, and what happened at its queries."""

    end: Finished[EpisodeJob, EpisodeResult] | Failed[EpisodeJob]
    depths: list[int]  # iterations of each query; empty if a server does not say
    served: ServedQueries | None = None  # None: no server answered them


class WritesVideos:
    """A runner that writes its episodes' videos, or elsewhere on another machine.

    Attributes:
        root: folder below which they are.
    """

    def __init__(self) -> None:
        self.root = Path("/")
        self._elsewhere: Path | None = None

    def relocated(self, root: Path) -> Self:
        """Return a copy that writes below another folder, under the same names."""
        other = copy.copy(self)
        other._elsewhere = root
        return other

    def _here(self, job: EpisodeJob) -> EpisodeJob:
        """Return the job with the place where its video is to be written."""
        if job.video is None or self._elsewhere is None:
            return job
        return replace(job, video=self._elsewhere / job.video.relative_to(self.root))


class EpisodeRunner(WritesVideos):
    """Runs a worker's episodes, and keeps the last simulator open.

    Args:
        make: build a simulator.
        attended: ask before every step, so a person may step in.
        make_recorder: record attended episodes; None: they are not recorded.
    """

    def __init__(
        self,
        make: MakeEnvironment[Environment],
        *,
        attended: bool = False,
        make_recorder: MakeRecorder | None = None,
    ) -> None:
        super().__init__()
        self._simulator = OpenEnvironment(make)
        self._attended, self._make_recorder = attended, make_recorder

    def run(self, job: EpisodeJob, ask: Ask) -> EpisodeResult:
        """Run an episode; `ask` turns an `Observation` (a `Present` if it is attended) into a `Reply`."""
        environment, job = self._simulator.open(job.task_key), self._here(job)
        if self._attended:
            return _run_attended(job, environment, ask, self._make_recorder)
        return run_episode_job(job, environment, ask)

    def close(self) -> None:
        """Close the simulator."""
        self._simulator.close()

    def unwritten(self, result: EpisodeResult, problem: str) -> EpisodeResult:
        """Return a result whose video could not be written: the episode counts all the same."""
        return replace(result, video_problem=problem)


def run_episode_job(
    job: EpisodeJob, environment: Environment, ask: Callable[[Observation], Reply]
) -> EpisodeResult:
    """Run an episode, and write its video if the job asks for it.

    Images are rendered when the policy is queried, not in every step; a video needs some more.
    """
    film = _film(job, environment)
    end = run_episode(
        environment,
        _RemotePolicy(ask),
        seed=job.seed,
        max_steps=job.max_steps,
        recorders=() if film is None else (film,),
    )
    return _result(job, end, film)


def _run_attended(
    job: EpisodeJob, environment: Environment, ask: Ask, make_recorder: MakeRecorder | None
) -> EpisodeResult:
    film, actor = _film(job, environment), AttendedActor(ask, environment)
    with ExitStack() as recording:
        recorders: list[Recorder[Environment]] = [actor] if film is None else [actor, film]
        if make_recorder is not None:
            recorders.append(recording.enter_context(make_recorder(job, environment)))
        end = run_episode(
            environment,
            actor,
            seed=job.seed,
            max_steps=job.max_steps,
            recorders=recorders,
            goes_on=actor.goes_on,
        )
    return with_person(_result(job, end, film), actor.driven)


def with_person(result: EpisodeResult, driven: Sequence[bool]) -> EpisodeResult:
    """Return a result that tells a person's steps from the policy's.

    Args:
        result: that counts all steps as the policy's.
        driven: whether a person made each decision, in order.
    """
    own = [count for count, person in zip(result.executed, driven, strict=True) if not person]
    return replace(
        result,
        executed=own,
        driven_steps=result.steps - sum(own),
        interventions=sum(now and not before for before, now in pairwise([False, *driven])),
    )


def _film(job: EpisodeJob, environment: Environment) -> Film | None:
    if job.video is None:
        return None
    return Film(environment.control_hz, fps=job.video_fps, max_steps=job.max_steps)


def _result(job: EpisodeJob, end: EpisodeEnd, film: Film | None) -> EpisodeResult:
    if film is None or job.video is None:
        return EpisodeResult(end.success, end.steps, end.executed, None, None)
    problem: str | None = None
    try:
        film.write(job.video)
    except OSError as error:  # such as of a full disk
        problem = os_error_sentence(error, path=job.video)
    except Exception as error:  # noqa: BLE001  # of a codec: the episode counts without its video
        problem = f"{job.video}: {type(error).__name__}: {error}"
    return EpisodeResult(end.success, end.steps, end.executed, film.stride, film.speed, video_problem=problem)


class _RemotePolicy:
    def __init__(self, ask: Callable[[Observation], Reply]) -> None:
        self._ask = ask

    def act(self, now: TimeStep[Environment]) -> Decision:
        reply = self._ask(Observation(now.images, now.state, now.environment.instruction))
        return Decision(reply.actions, depth=reply.depth)
