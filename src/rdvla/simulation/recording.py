"""One attempt of a scripted expert at one task, under noise, as an episode for a dataset.

What is executed is disturbed; what is recorded as the action is what the expert wants to do in the state
that the disturbance led to. So the data shows how to come back from mistakes (DART, Laskey et al., 2017).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data import Episode
from rdvla.simulation.environment import FIRST_EVALUATION_SEED, SimulatedTask
from rdvla.simulation.experts import Expert

BURST_STEPS = (4, 9)  # shortest and longest burst, control steps


@dataclass(frozen=True)
class NoiseConfig:
    """How what the expert does is disturbed, in proportion to the environment's `noise_scale`.

    Attributes:
        levels: standard deviations of Gaussian noise in action units; one is drawn for each episode.
        burst_probability: chance a step that a burst starts: for 4 to 9 steps a constant random action is
            executed. Episodes of level 0 stay clean.
    """

    levels: tuple[float, ...]
    burst_probability: float


@dataclass(frozen=True)
class AttemptSeeds:
    """The random numbers of one attempt, which depend on nothing but (seed, task, attempt).

    Attributes:
        scene: seed of the layout, below `FIRST_EVALUATION_SEED`.
        noise: entropy for the noise generator.
        expert: seed of what the expert leaves to chance.
    """

    scene: int
    noise: int
    expert: int

    @classmethod
    def derive(cls, *, seed: int, task: str, attempt: int) -> AttemptSeeds:
        """Derive them. The task enters by its name, so adding tasks to a configuration changes no episode."""
        sequence = np.random.SeedSequence([seed, zlib.crc32(task.encode()), attempt])
        scene, noise, expert = sequence.generate_state(3, np.uint64)
        return cls(scene=int(scene) % FIRST_EVALUATION_SEED, noise=int(noise), expert=int(expert))


class ActionNoise:
    """Disturbs the actions of one episode."""

    def __init__(self, config: NoiseConfig, scale: tuple[float, ...], generator: np.random.Generator) -> None:
        self._scale = np.asarray(scale)
        self._burst_probability = config.burst_probability
        self._generator = generator
        self.level = float(generator.choice(config.levels))
        self._burst_left = 0
        self._burst_action = np.zeros(0)

    def disturb(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is executed in place of `action` (A,), clipped to [-1, 1]."""
        if self.level == 0.0:
            return action
        executed = action.astype(np.float64)
        moved = self._scale > 0
        count, scale = int(moved.sum()), self._scale[moved]
        executed[moved] += self.level * scale * self._generator.standard_normal(count)
        if self._burst_left == 0 and self._generator.random() < self._burst_probability:
            self._burst_left = int(self._generator.integers(*BURST_STEPS, endpoint=True))
            self._burst_action = scale * self._generator.uniform(-1.0, 1.0, count)
        if self._burst_left > 0:
            self._burst_left -= 1
            executed[moved] = self._burst_action
        return np.clip(executed, -1.0, 1.0).astype(np.float32)


def record_attempt(
    *,
    env: SimulatedTask,
    expert: Expert,
    seeds: AttemptSeeds,
    noise: NoiseConfig,
    camera_stride: int,
    steps_after_success: int,
) -> Episode | None:
    """Let the expert try once; return the episode, or None when it does not succeed within the time limit.

    Cameras capture the first step and then every `camera_stride`-th, from a random phase on. Rendering costs
    several times what physics does, so images are rendered at the end, of successful attempts only.
    """
    generator = np.random.default_rng(seeds.noise)
    disturbance = ActionNoise(noise, env.noise_scale, generator)
    phase = int(generator.integers(camera_stride))
    rows: dict[str, list[Any]] = {name: [] for name in frame_features(env)}
    snapshots: list[Any] = []
    image_index: list[int] = []
    observation, _ = env.reset(seed=seeds.scene)
    steps_since_success = -1  # -1: not solved yet
    done = False
    while not done:
        step = len(image_index)
        if step == 0 or step % camera_stride == phase:
            snapshots.append(env.snapshot())
        image_index.append(len(snapshots) - 1)
        action = expert.action(env)
        rows["observation.state"].append(observation["state"])
        rows["observation.environment_state"].append(env.environment_state())
        rows["observation.environment_keypoints"].append(env.keypoints().ravel())
        rows["action"].append(action)
        observation, _, _, truncated, info = env.step(disturbance.disturb(action))
        rows["next.success"].append(info["success"])
        if info["success"] or steps_since_success >= 0:
            steps_since_success += 1
        done = truncated or steps_since_success >= steps_after_success
    if steps_since_success < 0:
        return None
    images = [env.render_cameras(snapshot) for snapshot in snapshots]
    features = frame_features(env)
    return Episode(
        features={name: np.asarray(values, dtype=features[name]["dtype"]) for name, values in rows.items()},
        images={camera: np.stack([image[camera] for image in images]) for camera in env.cameras},
        image_index=np.asarray(image_index, dtype=np.int64),
        task=env.instruction,
        source={"task": env.task, "scene_seed": seeds.scene, "noise": disturbance.level},
    )


def frame_features(env: SimulatedTask) -> dict[str, dict[str, Any]]:
    """Return the numeric features of a recorded episode, as `DatasetWriter.create` takes them."""
    return {
        "observation.state": _vector(env.state_size),
        "observation.environment_state": _vector(env.environment_state_size),
        "observation.environment_keypoints": _vector(len(env.cameras) * env.num_keypoints * 2),
        "action": _vector(env.action_size),
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }


def _vector(size: int) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (size,), "names": None}
