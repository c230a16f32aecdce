"""An attempt of a scripted expert at a task, under noise, as an episode for a dataset.

Noise disturbs the executed actions. The recorded action is the expert's own in the state that the disturbance
led to, so the data shows how to recover from mistakes (DART, Laskey et al., 2017).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdvla.data import Episode
from rdvla.data.features import ACTION, ENVIRONMENT_STATE, KEYPOINTS, STATE
from rdvla.rollout.episode import Decision, TimeStep, run_episode
from rdvla.simulation.environment import Expert, SimulatedTask
from rdvla.simulation.registry import FIRST_EVALUATION_SEED

BURST_STEPS = (4, 9)  # shortest and longest burst, control steps


@dataclass(frozen=True)
class NoiseConfig:
    """How executed actions are disturbed, in proportion to the environment's `noise_scale`.

    Attributes:
        levels: standard deviations of Gaussian noise in action units, drawn per episode.
        burst_probability: probability per step that a burst starts: 4 to 9 steps of a constant random action.
            Episodes of level 0 stay clean.
    """

    levels: tuple[float, ...]
    burst_probability: float


@dataclass(frozen=True)
class AttemptSeeds:
    """The random numbers of an attempt, which depend on nothing but (seed, task, attempt).

    Attributes:
        scene: seed of the layout, below `FIRST_EVALUATION_SEED`.
        noise: entropy for the noise generator.
        expert: seed for all that the expert leaves to chance.
    """

    scene: int
    noise: int
    expert: int

    @classmethod
    def derive(cls, *, seed: int, task: str, attempt: int) -> AttemptSeeds:
        """Derive the seeds. The task enters by name, so more tasks in a configuration change no episode."""
        sequence = np.random.SeedSequence([seed, zlib.crc32(task.encode()), attempt])
        scene, noise, expert = sequence.generate_state(3, np.uint64)
        return cls(scene=int(scene) % FIRST_EVALUATION_SEED, noise=int(noise), expert=int(expert))


class ActionNoise:
    """Disturbs the actions of an episode."""

    def __init__(self, config: NoiseConfig, scale: tuple[float, ...], generator: np.random.Generator) -> None:
        self._scale = np.asarray(scale)
        self._burst_probability = config.burst_probability
        self._generator = generator
        self.level = float(generator.choice(config.levels))
        self._burst_left = 0
        self._burst_action = np.zeros(0)

    def disturb(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the action to execute in place of `action` (A,), clipped to [-1, 1]."""
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


class NoisyExpert:
    """Acts as an expert under noise: an `Actor`."""

    def __init__(self, expert: Expert, noise: ActionNoise) -> None:
        self._expert, self._noise = expert, noise

    def act(self, now: TimeStep[SimulatedTask]) -> Decision:
        """Return the expert's action as intended, and disturbed as executed."""
        action = self._expert.action(now.environment)
        return Decision(actions=self._noise.disturb(action)[None], intended=action[None])


class FrameRecorder:
    """Records the frames of a dataset's episode: a `Recorder`.

    Cameras capture the first step and then every `camera_stride`-th, with a given phase. Rendering costs
    several times what physics does, so only snapshots are taken until `images` is called.
    """

    def __init__(self, env: SimulatedTask, *, camera_stride: int, phase: int) -> None:
        self._env, self._stride, self._phase = env, camera_stride, phase
        self._features = frame_features(env)
        self._values: dict[str, list[Any]] = {name: [] for name in self._features}
        self._snapshots: list[Any] = []
        self._image_index: list[int] = []

    def before_step(self, now: TimeStep[SimulatedTask], decision: Decision, index: int) -> None:
        """Take what is seen before the action, and the action as it was intended."""
        env = now.environment
        if now.step == 0 or now.step % self._stride == self._phase:
            self._snapshots.append(env.snapshot())
        self._image_index.append(len(self._snapshots) - 1)
        intended = decision.actions if decision.intended is None else decision.intended
        self._values[STATE].append(now.state)
        self._values[ENVIRONMENT_STATE].append(env.environment_state())
        self._values[KEYPOINTS].append(env.keypoints().ravel())
        self._values[ACTION].append(intended[index])

    def after_step(self, now: TimeStep[SimulatedTask], *, ended: bool) -> None:  # noqa: ARG002
        """Take whether the action led to success."""
        self._values["next.success"].append(now.success)
        self._values["next.reward"].append(now.success)

    def features(self) -> dict[str, NDArray[Any]]:
        """Return the numeric features, (frames, ...) each."""
        return {
            name: np.asarray(values, dtype=self._features[name]["dtype"])
            for name, values in self._values.items()
        }

    def images(self) -> dict[str, NDArray[np.uint8]]:
        """Render the captures: camera -> (captures, H, W, 3)."""
        captures = [self._env.render_cameras(snapshot) for snapshot in self._snapshots]
        return {camera: np.stack([images[camera] for images in captures]) for camera in self._env.cameras}

    def image_index(self) -> NDArray[np.int64]:
        """Return which capture each frame shows."""
        return np.asarray(self._image_index, dtype=np.int64)


def record_attempt(
    *,
    env: SimulatedTask,
    expert: Expert,
    seeds: AttemptSeeds,
    noise: NoiseConfig,
    camera_stride: int,
    steps_after_success: int,
) -> Episode | None:
    """Let the expert try once; return the episode, or None if it does not succeed within the time limit.

    The phase of the camera captures is random. Images are rendered for successful attempts only.
    """
    generator = np.random.default_rng(seeds.noise)
    disturbance = ActionNoise(noise, env.noise_scale, generator)
    recorder = FrameRecorder(env, camera_stride=camera_stride, phase=int(generator.integers(camera_stride)))
    end = run_episode(
        env,
        NoisyExpert(expert, disturbance),
        seed=seeds.scene,
        steps_after_success=steps_after_success,
        recorders=(recorder,),
    )
    if not end.success:
        return None
    return Episode(
        features=recorder.features(),
        images=recorder.images(),
        image_index=recorder.image_index(),
        task=env.instruction,
        source={"task": env.task, "scene_seed": seeds.scene, "noise": disturbance.level},
    )


class FrameSizes(Protocol):
    """What decides the features of frames; every `SimulatedTask` says it."""

    @property
    def state_size(self) -> int:
        """S."""
        ...

    @property
    def state_names(self) -> tuple[str, ...]:
        """S names, or none."""
        ...

    @property
    def action_size(self) -> int:
        """A."""
        ...

    @property
    def action_names(self) -> tuple[str, ...]:
        """A names, or none."""
        ...

    @property
    def environment_state_size(self) -> int:
        """E."""
        ...

    @property
    def num_keypoints(self) -> int:
        """P, in each camera."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Their names."""
        ...


def frame_features(env: FrameSizes) -> dict[str, dict[str, Any]]:
    """Return the numeric features of a recorded episode, as `DatasetWriter.create` takes them."""
    return {
        STATE: _vector(env.state_size, env.state_names),
        ENVIRONMENT_STATE: _vector(env.environment_state_size),
        KEYPOINTS: _vector(len(env.cameras) * env.num_keypoints * 2),
        ACTION: _vector(env.action_size, env.action_names),
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
        "next.reward": _vector(1),  # 1 for success, which LeRobot's policies that learn values read
    }


def _vector(size: int, names: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (size,), "names": list(names) or None}
