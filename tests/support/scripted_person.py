"""Someone who steps in at fixed steps of the line task, and a recorder that keeps what was executed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from rdvla.control import Desk
from rdvla.rollout import Attendance, Recording, roll_out
from rdvla.types import Prediction
from tests.support.line_task import LineTask
from tests.support.thread_workers import ThreadWorkers


class Frame(NamedTuple):
    seed: int
    step: int
    position: float
    action: float
    wanted: float
    origin: Any


@dataclass
class Stage:
    """A desk, what happens there after some step of an episode, and the frames of all episodes.

    Workers must be threads: they share the desk. What happens, happens before the worker asks again.
    """

    desk: Desk = field(default_factory=lambda: Desk(command_seconds=600))
    script: dict[int, Any] = field(default_factory=dict)  # step -> function of the robot's name
    frames: list[Frame] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)  # Answered of every query
    driven_positions: list[float] = field(default_factory=list)
    at_query: dict[int, Any] = field(default_factory=dict)  # number -> function of the robot's name
    at_end: Any = None

    def answered(self, query):
        self.seen.append(query)
        act = self.at_query.get(query.number)
        if act is not None:
            act(query.job.robot)

    def driven(self, job, observation):
        self.driven_positions.append(float(observation.state[0]))

    def ended(self, end):
        if self.at_end is not None:
            self.at_end(end)

    def change(self, phase, *, steer=None, cause="person"):
        """Return a function that brings a robot into a phase, and steers it."""

        def act(robot):
            self.desk.change(robot, phase, cause=cause)
            if steer is not None:
                self.desk.steer(robot, [steer])

        return act

    def steer(self, action):
        return lambda robot: self.desk.steer(robot, [action])

    def play(self, policy, jobs, *, workers=1, autonomous=False, numbers=range(1000), **options):
        """Run jobs in threads; return the outcomes by seed."""
        stage = self

        class Scripted(LineTask):
            def reset(self, *, seed=None):
                self.steps, self.seed = 0, seed
                return super().reset(seed=seed)

            def step(self, action):
                result = super().step(action)
                self.steps += 1
                act = stage.script.get(self.steps)
                if act is not None:
                    act(next(name for name in stage.desk.robots() if name.endswith(f"seed {self.seed}")))
                return result

        @contextmanager
        def recorder(job, environment):
            yield FrameRecorder(stage.frames, job.seed)

        outcomes = roll_out(
            policy,
            jobs,
            make=lambda env, task: Scripted(task),
            workers=workers,
            transport=ThreadWorkers(),
            spectator=self,
            attendance=Attendance(self.desk, Recording(recorder, iter(numbers), autonomous)),
            **options,
        )
        return {outcome.end.job.seed: outcome for outcome in outcomes}


class FrameRecorder:
    def __init__(self, frames, seed):
        self.frames, self.seed = frames, seed

    def before_step(self, now, decision, index):
        origin = decision.origin
        self.frames.append(
            Frame(
                self.seed,
                now.step,
                float(now.state[0]),
                float(decision.actions[index, 0]),
                float(origin.policy_actions[index, 0]),
                origin,
            )
        )

    def after_step(self, now, *, ended):
        pass


class EchoPolicy:
    """Wants to move by a hundredth of the position, and a thousandth more for each later action."""

    def initial_state(self, batch_size, generator=None):
        return torch.randn(batch_size, 8, 1, generator=generator)

    def predict(self, observation, *, stop=None, initial_state=None):
        positions = torch.as_tensor(np.asarray(observation.state))[:, :1]
        batch = len(positions)
        later = 0.001 * torch.arange(8)
        return Prediction(
            actions=(0.01 * positions + later)[..., None],
            depth=torch.full((batch,), 2),
            converged=torch.ones(batch, dtype=torch.bool),
            state=initial_state,
        )
