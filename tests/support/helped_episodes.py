"""Episodes of any simulated task in which a scripted person drives with the expert, recorded as a dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdvla.control import Desk
from rdvla.evaluation import EvaluationConfig
from rdvla.evaluation.recording import recording
from rdvla.rollout import Attendance, EpisodeJob, OpeningJob, Setting, open_each, roll_out
from rdvla.simulation import make, make_expert
from rdvla.types import Prediction
from tests.support.thread_workers import ThreadWorkers


class Standstill:
    """A policy that wants nothing: no movement, whatever it sees."""

    def __init__(self, action_dim: int, *, chunk: int = 8):
        self.shape = (chunk, action_dim)

    def initial_state(self, batch_size, generator=None):
        return torch.randn(batch_size, self.shape[0], 2, generator=generator)

    def actions(self, states):
        return torch.zeros(len(states), *self.shape)

    def predict(self, observation, *, stop=None, initial_state=None):
        states = torch.as_tensor(np.asarray(observation.state))
        batch = len(states)
        return Prediction(
            actions=self.actions(states),
            depth=torch.full((batch,), 3),
            converged=torch.ones(batch, dtype=torch.bool),
            state=initial_state,
        )


class NearSighted(Standstill):
    """Walks to the toy's goal, which the state names, but only from nearby."""

    def __init__(self):
        super().__init__(4)

    def actions(self, states):
        chunks = super().actions(states)
        left = states[:, 2:4] - states[:, :2]
        for index in range(self.shape[0]):
            step = (10 * left).clamp(-1, 1) * (left.abs().amax(dim=1, keepdim=True) < 0.25)
            chunks[:, index, :2] = step
            left = left - 0.1 * step
        return chunks


@dataclass
class Executed:
    """What a simulator was told, as it saw it."""

    states: list[np.ndarray] = field(default_factory=list)  # before the action
    actions: list[np.ndarray] = field(default_factory=list)
    successes: list[bool] = field(default_factory=list)  # after it
    images: list[dict] = field(default_factory=list)  # before it


@dataclass
class Help:
    """Drives from some steps to others with the expert; `None` drives to the end."""

    spans: tuple[tuple[int, int | None], ...]
    desk: Desk = field(default_factory=lambda: Desk(command_seconds=600))
    executed: dict[int, Executed] = field(default_factory=dict)  # by seed

    def drives(self, step: int) -> bool:
        return any(first <= step and (last is None or step < last) for first, last in self.spans)

    def make(self, env: str, task: str, *, image_size: int, cameras: Any = None):
        """Build the task; its worker's thread does what the person does, after every step."""
        environment = make(env, task, image_size=image_size, cameras=cameras)
        expert = make_expert(env, task)
        reset, step = environment.reset, environment.step
        log = Executed()
        now: dict[str, Any] = {}

        def helped_reset(*, seed=None, options=None):
            nonlocal log
            observation, info = reset(seed=seed)
            log = self.executed[seed] = Executed()
            now.update(state=observation["state"], seed=seed, steps=0)
            return observation, info

        def helped_step(action):
            log.states.append(now["state"])
            log.images.append(environment.render_cameras())
            log.actions.append(np.array(action))
            result = step(action)
            now.update(state=result[0]["state"], steps=now["steps"] + 1)
            log.successes.append(result[4]["success"])
            self._act(environment, expert, now)
            return result

        environment.reset, environment.step = helped_reset, helped_step
        return environment

    def _act(self, environment: Any, expert: Any, now: dict[str, Any]) -> None:
        for robot in self.desk.robots():
            if robot.endswith(f"seed {now['seed']}"):
                phase = "correcting" if self.drives(now["steps"]) else "autonomous"
                self.desk.change(robot, phase)
                if phase == "correcting":
                    self.desk.steer(robot, expert.action(environment))


def play_and_record(
    root: Path, person: Help, policy: Any, *, env: str, task: str, seeds: range, steps: int,
    image_size: int = 32, cameras: Any = None, autonomous: bool = False, execution: str = "fixed:8",
) -> dict[int, Any]:  # fmt: skip
    """Play episodes in threads, with a person, and record them; return the results by seed."""

    def build(name, task):
        return person.make(name, task, image_size=image_size, cameras=cameras)

    opening = [OpeningJob(env, task, seeds[0])]
    (opened,) = open_each(opening, make=build, workers=1, transport=ThreadWorkers())
    config = EvaluationConfig(
        policy="runs/walker", output=str(root.parent / "run"), env=env, seed=1_000_000,
        record=str(root), record_autonomous=autonomous,
    )  # fmt: skip
    jobs = [
        EpisodeJob(env=env, task=task, setting=Setting("fixed:3", execution), seed=seed, max_steps=steps)
        for seed in seeds
    ]
    from rich.console import Console

    console = Console(quiet=True)
    with recording(config, {env: opened.result}, fingerprint="abc", console=console) as recorded:
        outcomes = list(
            roll_out(
                policy, jobs, make=build, workers=1, transport=ThreadWorkers(),
                attendance=Attendance(person.desk, recorded),
            )
        )  # fmt: skip
    for outcome in outcomes:
        assert hasattr(outcome.end, "result"), outcome.end.traceback
    return {outcome.end.job.seed: outcome.end.result for outcome in outcomes}
