"""Count successes of the scripted LIBERO experts: `python -m benchmarks.libero_experts --env libero_goal`.

Run every task of the suites on random layouts, under the noise of demonstrations, and write successes,
control steps and seconds per task as JSON. The same command continues an interrupted measurement.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.files import read_json, write_json
from rdvla.rollout import run_episode
from rdvla.simulation import make, make_expert, step_limit, tasks
from rdvla.simulation.demonstrations.recording import ActionNoise, AttemptSeeds, NoiseConfig, NoisyExpert
from rdvla.simulation.environment import Expert, SimulatedTask

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


@dataclass
class TaskResult:
    """The episodes of a task.

    Attributes:
        env: the suite.
        task: the task's name.
        max_steps: after how many control steps an episode ended.
        steps: control steps until the first success, per solved episode.
        failed: scene seeds of the episodes that were not solved.
        seconds: time for all episodes with their resets, without opening the simulator.
        planning_seconds: the share of it that the expert took.
    """

    env: str
    task: str
    max_steps: int
    steps: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    seconds: float = 0.0
    planning_seconds: float = 0.0

    @property
    def episodes(self) -> int:
        """How many episodes were run."""
        return len(self.steps) + len(self.failed)

    def row(self) -> dict[str, Any]:
        """Return the result as numbers for a table."""
        means = {"mean_steps": mean(self.steps), "most_steps": max(self.steps)} if self.steps else {}
        return {"solved": len(self.steps), "episodes": self.episodes, **means, **asdict(self)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", nargs="+", default=list(SUITES[:4]), choices=SUITES)
    parser.add_argument("--tasks", nargs="+", help="numbers of the tasks within their suite; all by default")
    parser.add_argument("--episodes", type=int, default=10, help="random layouts per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation in action units")
    parser.add_argument("--bursts", type=float, default=0.01, help="probability per step that a burst starts")
    parser.add_argument("--max-steps", type=int, help="of an episode; by default the suite's published limit")
    parser.add_argument("--output", type=Path, default=Path("runs/bench/libero_experts.json"))
    options = parser.parse_args(arguments)
    noise = NoiseConfig(levels=(options.noise,), burst_probability=options.bursts)
    settings = {"noise": options.noise, "bursts": options.bursts, "seed": options.seed}
    numbers = None if options.tasks is None else {int(number) for number in options.tasks}
    rows = _measured(options.output, settings)
    for env in options.env:
        chosen = [name for number, name in enumerate(tasks(env)) if numbers is None or number in numbers]
        limit = options.max_steps or step_limit(env)
        for task in chosen:
            if any((row["env"], row["task"]) == (env, task) for row in rows):
                continue
            result = measure(
                env, task, episodes=options.episodes, seed=options.seed, noise=noise, max_steps=limit
            )
            rows.append(result.row())
            write_json(options.output, {**settings, "tasks": rows})
            print(_line(result), flush=True)
        own = [row for row in rows if row["env"] == env]
        solved, run = sum(row["solved"] for row in own), sum(row["episodes"] for row in own)
        print(f"{env}: {solved} of {run}", flush=True)


def _measured(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the tasks that a file already holds; none if there is no file."""
    if not path.exists():
        return []
    written = read_json(path)
    rows: list[dict[str, Any]] = written.pop("tasks")
    if written != settings:
        raise SystemExit(f"{path} was measured with {written}, not {settings}: name another output")
    return rows


def measure(
    env: str, task: str, *, episodes: int, seed: int, noise: NoiseConfig, max_steps: int
) -> TaskResult:
    """Let the expert solve a task on `episodes` random layouts."""
    result = TaskResult(env, task, max_steps)
    simulator = make(env, task, max_steps=max_steps)
    for attempt in range(episodes):
        seeds = AttemptSeeds.derive(seed=seed, task=task, attempt=attempt)
        disturbance = ActionNoise(noise, simulator.noise_scale, np.random.default_rng(seeds.noise))
        expert = _TimedExpert(make_expert(env, task, seed=seeds.expert))
        actor = NoisyExpert(expert, disturbance)
        started = time.perf_counter()
        end = run_episode(simulator, actor, seed=seeds.scene)
        result.seconds += time.perf_counter() - started
        result.planning_seconds += expert.seconds
        if end.success:
            result.steps.append(end.steps)
        else:
            result.failed.append(seeds.scene)
    simulator.close()
    return result


class _TimedExpert:
    def __init__(self, expert: Expert) -> None:
        self._expert, self.seconds = expert, 0.0

    def action(self, env: SimulatedTask) -> NDArray[np.float32]:
        started = time.perf_counter()
        action = self._expert.action(env)
        self.seconds += time.perf_counter() - started
        return action


def _line(result: TaskResult) -> str:
    row = result.row()
    steps = f"{row['mean_steps']:5.0f} steps" if result.steps else ""
    return f"{result.task[:90]:<90} {row['solved']:>3} of {row['episodes']:<3} {steps}"


if __name__ == "__main__":
    main()
