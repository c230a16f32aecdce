"""A benchmark for vla-eval that needs no simulator: a hand reaches a cube. vla-eval's Python imports it."""

from __future__ import annotations

from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import IMAGE_RGB, LANGUAGE, RAW


class ReachBenchmark(StepBenchmark):
    """Moves are added to the hand's position; near the cube an episode has succeeded."""

    def __init__(self, send_state: bool = False) -> None:
        super().__init__()
        self.send_state = send_state

    def get_tasks(self) -> list[dict[str, Any]]:
        return [{"name": "reach the cube", "suite": "toy"}]

    def reset(self, task: dict[str, Any]) -> Any:
        self._hand = np.array([0.1, 0.1])
        self._cube = np.random.default_rng(task.get("episode_idx", 0)).uniform(0.6, 0.9, size=2)
        return None

    def step(self, action: dict[str, Any]) -> StepResult:
        move = np.asarray(action["actions"], dtype=np.float64)
        assert move.shape == (2,)
        self._hand = self._hand + move
        done = bool(np.linalg.norm(self._hand - self._cube) < 0.05)
        return StepResult(obs=None, reward=float(done), done=done, info={})

    def make_obs(self, raw_obs: Any, task: dict[str, Any]) -> dict[str, Any]:
        image = np.zeros((32, 32, 3), dtype=np.uint8)
        image[:, :, 1] = 77
        observation: dict[str, Any] = {"images": {"agentview": image}, "task_description": task["name"]}
        if self.send_state:
            observation["states"] = np.concatenate([self._hand, self._cube])
        return observation

    def get_step_result(self, step_result: StepResult) -> dict[str, Any]:
        return {"success": step_result.done}

    def get_metadata(self) -> dict[str, Any]:
        return {"max_steps": 30}

    def get_action_spec(self) -> dict[str, Any]:
        return {"actions": RAW}

    def get_observation_spec(self) -> dict[str, Any]:
        return {"agentview": IMAGE_RGB, "language": LANGUAGE}
