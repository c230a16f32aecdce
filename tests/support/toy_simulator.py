"""A simulator in one file and an entry of the table: a point walks to a goal in a plane.

Importing this registers it; worker processes import it for `make_toy`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rdvla.simulation.environment import Images, SimulatedTask, check_cameras
from rdvla.simulation.registry import SIMULATORS, Simulator, TaskSuite, make

SUITE = TaskSuite(
    instructions={"left": "walk to the left", "right": "walk to the right"},
    sets={"both": ("left", "right")},
    default_tasks=("both",),
    step_limits={"published": 12},
    default_step_limit="published",
    cameras=("front",),
    noise_levels=(0.0,),
    burst_probability=0.0,
)


class ToyEnv(SimulatedTask):
    """State (4,): position (2), goal (2). Action (4,): movement in the first two, in tenths."""

    control_hz = 20.0
    robot_type = "point"
    state_size = action_size = 4
    environment_state_size = 3
    num_keypoints = 1
    noise_scale = (1.0, 1.0, 0.0, 0.0)

    def __init__(
        self, task: str, *, instruction: str, cameras: Any = None, image_size: int, max_steps: int,
        stop_on_success: bool = False, render_mode: str | None = None, rendering: str = "fast",
    ) -> None:  # fmt: skip
        super().__init__(
            task=task, instruction=instruction, image_size=image_size, max_steps=max_steps,
            cameras=check_cameras(cameras, SUITE.cameras),
            stop_on_success=stop_on_success, render_mode=render_mode,
        )  # fmt: skip
        self.goal = np.array([-0.5 if task == "left" else 0.5, 0.0], dtype=np.float32)
        self.position = np.zeros(2, dtype=np.float32)

    def render_cameras(self, snapshot: Any = None) -> Images:
        x, y = self.position if snapshot is None else snapshot
        image = np.zeros((self.image_size, self.image_size, 3), dtype=np.uint8)
        image[..., 0], image[..., 1] = np.clip(128 + 100 * x, 0, 255), np.clip(128 + 100 * y, 0, 255)
        return dict.fromkeys(self.cameras, image)

    def snapshot(self) -> Any:
        return self.position.copy()

    def environment_state(self) -> np.ndarray:
        return np.array([*self.position, 0], dtype=np.float32)

    def keypoints(self) -> np.ndarray:
        return self.position[None, None].copy()

    def _reset_scene(self, seed: int) -> None:
        self.position = np.random.default_rng(seed).uniform(-0.1, 0.1, 2).astype(np.float32)

    def _advance(self, action: np.ndarray) -> tuple[float, bool]:
        self.position = self.position + 0.1 * action[:2]
        distance = float(np.abs(self.position - self.goal).max())
        return -distance, distance < 0.05

    def _proprioception(self) -> np.ndarray:
        return np.array([*self.position, *self.goal], dtype=np.float32)


class ToyExpert:
    """Walks straight to the goal."""

    def __init__(self, task: str, *, seed: int = 0) -> None:
        self.task = task

    def action(self, env: ToyEnv) -> np.ndarray:
        step = np.clip(10 * (env.goal - env.position), -1, 1)
        return np.array([*step, 0, 0], dtype=np.float32)


def make_toy(env: str, task: str) -> SimulatedTask:
    return make(env, task, image_size=32)


def make_named(env: str, task: str) -> SimulatedTask:
    environment = make_toy(env, task)
    environment.state_names = ("x", "y", "goal_x", "goal_y")
    return environment


SIMULATORS["toy"] = Simulator(
    extra="eval", suite=f"{__name__}:SUITE", environment=f"{__name__}:ToyEnv", expert=f"{__name__}:ToyExpert"
)
