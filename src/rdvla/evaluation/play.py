"""One episode in an environment process: ask for a chunk of actions, run it, ask again.

Images are rendered where the policy is queried, not at every step; more frames are rendered only for a video.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdvla.evaluation.environment import Environment
from rdvla.evaluation.messages import Finished, Job, Query, Reply
from rdvla.evaluation.video import Frame, write_video

Images = dict[str, NDArray[np.uint8]]


def play(job: Job, environment: Environment, ask: Callable[[Query], Reply]) -> Finished:
    """Play one episode; success is reached at any step and ends it.

    Args:
        job: the episode.
        environment: of the job's task; it is reset here.
        ask: returns the actions for an observation.
    """
    playing = _Playing(job, environment)
    while not playing.ended:
        playing.execute(ask(playing.look()))
    return playing.finish()


class _Playing:
    """An episode in progress."""

    def __init__(self, job: Job, environment: Environment) -> None:
        self._job, self._environment = job, environment
        self._film = None if job.video is None else _Film(environment.control_hz, fps=job.video_fps)
        self._observation, _ = environment.reset(seed=job.seed)
        self._images: Images | None = None  # of the present moment, where it has been rendered
        self._steps = 0
        self._executed: list[int] = []
        self._success = False
        self.ended = False

    def look(self) -> Query:
        """What the policy gets to see."""
        state = np.asarray(self._observation["state"], dtype=np.float32)
        return Query(self._present(), state, self._environment.instruction)

    def execute(self, reply: Reply) -> None:
        """Run the actions, or as many as the episode lasts."""
        before = self._steps
        for action in reply.actions:
            if self._film is not None and self._steps % self._film.stride == 0:
                self._film.frames.append(self._frame(reply.depth))
            self._observation, _, terminated, truncated, info = self._environment.step(action)
            self._images = None
            self._steps += 1
            self._success = self._success or bool(info["success"])
            if self._success or terminated or truncated or self._steps >= self._job.max_steps:
                self.ended = True
                break
        self._executed.append(self._steps - before)
        if self.ended and self._film is not None:
            self._film.frames.append(self._frame(reply.depth))

    def finish(self) -> Finished:
        """Write the video, if there is one, and tell how the episode went."""
        if self._film is not None and self._job.video is not None:
            self._film.write(self._job.video)
        stride = None if self._film is None else self._film.stride
        return Finished(self._success, self._steps, self._executed, stride)

    def _present(self) -> Images:
        if self._images is None:
            self._images = self._environment.render_cameras()
        return self._images

    def _frame(self, depth: int) -> Frame:
        image = next(iter(self._present().values()))
        return Frame(image=image, depth=depth, step=self._steps, success=self._success)


class _Film:
    """The frames of a video: of as many steps as come closest to `fps` frames a second of simulated time."""

    def __init__(self, control_hz: float, *, fps: int) -> None:
        self.stride = max(1, round(control_hz / fps))
        self.frames: list[Frame] = []
        self._rate = Fraction(control_hz).limit_denominator(1000) / self.stride

    def write(self, path: Path) -> None:
        """Write the video, at the speed of simulated time."""
        write_video(path, self.frames, fps=self._rate)
