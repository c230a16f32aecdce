"""The environment's side of a rollout: a process that plays one episode at a time and asks for action chunks.

Images are rendered where the policy is queried, not at every step; more frames are rendered only for a video.
"""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.evaluation.environment import Environment, MakeEnvironment
from rdvla.evaluation.setting import Setting
from rdvla.evaluation.video import Frame, write_video

VIDEO_STRIDE = 4  # environment steps between the frames of a video: 20 frames a second at 80 Hz control
VIDEO_FPS = 20


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    task: str
    setting: Setting
    seed: int
    max_steps: int
    video: Path | None = None


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


@dataclass(frozen=True)
class Failed:
    """An episode in which an exception was raised: neither a success nor a failure of the policy."""

    type: str
    message: str
    traceback: str


@dataclass
class _Progress:
    steps: int = 0
    success: bool = False
    ended: bool = False
    executed: list[int] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)


def serve(connection: Connection, make: MakeEnvironment) -> None:
    """Process entry point: play every `Job` that arrives, with one environment kept for each task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears ctrl-c and closes the connection
    environments: dict[str, Environment] = {}
    while (job := _receive(connection)) is not None:
        try:
            if job.task not in environments:
                environments[job.task] = make(job.task)
            outcome: Finished | Failed = play(job, environments[job.task], connection)
        except (EOFError, BrokenPipeError):  # the parent has gone
            return
        except Exception as error:  # noqa: BLE001  # whatever the episode raised is reported to the parent
            environments.pop(job.task, None)  # it may be in a broken state
            outcome = Failed(type(error).__name__, str(error), traceback.format_exc())
        connection.send(outcome)


def play(job: Job, environment: Environment, connection: Connection) -> Finished:
    """Play one episode; success is reached at any step and ends it."""
    observation, _ = environment.reset(seed=job.seed)
    progress = _Progress()
    while not progress.ended:
        images = environment.render_cameras()
        state = np.asarray(observation["state"], dtype=np.float32)
        connection.send(Query(images, state, environment.instruction))
        reply: Reply = connection.recv()
        observation = _execute(job, environment, reply, progress)
    if job.video is not None:
        write_video(job.video, progress.frames, fps=VIDEO_FPS)
    return Finished(progress.success, progress.steps, progress.executed)


def _execute(job: Job, environment: Environment, reply: Reply, progress: _Progress) -> dict[str, Any]:
    observation: dict[str, Any] = {}
    executed = 0
    for action in reply.actions:
        if job.video is not None and progress.steps % VIDEO_STRIDE == 0:
            progress.frames.append(_frame(environment, progress, reply.depth))
        observation, _, terminated, truncated, info = environment.step(action)
        executed += 1
        progress.steps += 1
        progress.success = progress.success or bool(info["success"])
        out_of_time = progress.steps >= job.max_steps
        if progress.success or terminated or truncated or out_of_time:
            progress.ended = True
            break
    progress.executed.append(executed)
    if progress.ended and job.video is not None:
        progress.frames.append(_frame(environment, progress, reply.depth))
    return observation


def _frame(environment: Environment, progress: _Progress, depth: int) -> Frame:
    image = next(iter(environment.render_cameras().values()))
    return Frame(image=image, depth=depth, step=progress.steps, success=progress.success)


def _receive(connection: Connection) -> Job | None:
    """The next episode, or None when the parent has gone."""
    try:
        job: Job = connection.recv()
    except EOFError:
        return None
    return job
