"""What every simulated task offers, whichever simulator is behind it.

`SimulatedTask` owns the rules that must be the same everywhere: time limit, success, seeding, bad actions. A
simulator subclasses it, adds the abstract methods, and has an entry in `rdvla.simulation.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from rdvla.errors import ConfigError, RDVLAError, nearest
from rdvla.simulation.registry import FIRST_EVALUATION_SEED

State = dict[str, NDArray[np.float32]]
Images = dict[str, NDArray[np.uint8]]


class SimulatedTask(gymnasium.Env[State, NDArray[np.float32]], ABC):
    """One task of a simulator as a Gymnasium environment.

    `reset` and `step` return `{"state": (S,) float32}`, proprioception only, and
    `info = {"success": bool}`. Images cost far more than physics, so neither renders any: call
    `render_cameras` when a policy or a dataset needs them. Success does not end an episode unless
    `stop_on_success`; an episode counts as solved when any of its steps reports success.

    Attributes:
        task: the task's name in the simulator.
        instruction: what the task asks for, one English sentence.
        cameras: names of the cameras that `render_cameras` renders, in order.
        image_size: height and width of an image in pixels.
        max_steps: control steps after which an episode is truncated.
        control_hz: control steps per second of simulated time.
        robot_type: the robot's name, for a dataset's record.
        state_size, action_size, environment_state_size: lengths of the vectors (S, A, E).
        state_names, action_names: what each of their numbers is, for a dataset's record; empty: not said.
        num_keypoints: points of the scene that `keypoints` follows (P).
        noise_scale: how much of the noise in demonstrations each of the A actions gets; the gripper's is 0.
    """

    control_hz: float
    robot_type: str
    state_size: int
    action_size: int
    environment_state_size: int
    num_keypoints: int
    noise_scale: tuple[float, ...]
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        *,
        task: str,
        instruction: str,
        cameras: Sequence[str],
        image_size: int,
        max_steps: int,
        stop_on_success: bool,
        render_mode: str | None = None,
    ) -> None:
        if image_size < 1:
            raise ConfigError(f"image_size must be at least 1 pixel, got {image_size}")
        if max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1, got {max_steps}")
        self.task = task
        self.instruction = instruction
        self.cameras = tuple(cameras)
        self.image_size = image_size
        self.max_steps = max_steps
        self.stop_on_success = stop_on_success
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": round(self.control_hz)}
        box = gymnasium.spaces.Box
        self.action_space = box(-1.0, 1.0, (self.action_size,), np.float32)
        state = box(-np.inf, np.inf, (self.state_size,), np.float32)
        self.observation_space: Any = gymnasium.spaces.Dict({"state": state})
        self._steps: int | None = None  # None until the first reset

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002 (Gymnasium's signature)
    ) -> tuple[State, dict[str, Any]]:
        """Start an episode. The same seed gives the same scene, whatever was simulated before.

        Without a seed the scene is drawn from the environment's own generator (Gymnasium's rule), which an
        earlier seed determines; it is never an evaluation's.
        """
        super().reset(seed=seed)
        scene_seed = int(self.np_random.integers(FIRST_EVALUATION_SEED)) if seed is None else seed
        self._reset_scene(scene_seed)
        self._steps = 0
        return {"state": self._proprioception()}, {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """Execute one action (A,), clipped to [-1, 1], and return Gymnasium's five values.

        Raises `RDVLAError` before the first reset, and for an action of the wrong shape or not finite.
        """
        if self._steps is None:
            raise RDVLAError(f"{self.task}: call reset() before step()")
        action = np.asarray(action, dtype=np.float32)
        if action.shape != (self.action_size,):
            raise RDVLAError(f"{self.task}: an action has shape ({self.action_size},), got {action.shape}")
        if not np.isfinite(action).all():
            raise RDVLAError(f"{self.task}: the action is not finite: {action.tolist()}")
        reward, success = self._advance(np.clip(action, -1.0, 1.0))
        self._steps += 1
        terminated = success and self.stop_on_success
        truncated = self._steps >= self.max_steps
        return {"state": self._proprioception()}, reward, terminated, truncated, {"success": success}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the first camera's image (H, W, 3) if `render_mode="rgb_array"`, for wrappers."""
        if self.render_mode is None:
            return None
        return self.render_cameras()[self.cameras[0]]

    @abstractmethod
    def render_cameras(self, snapshot: Any = None) -> Images:
        """Render every camera: name -> (H, W, 3) uint8 RGB.

        `snapshot` renders an earlier moment of this episode; None the present.
        """

    @abstractmethod
    def snapshot(self) -> Any:
        """Return what `render_cameras` needs to render this moment later. Cheap, unlike rendering."""

    @abstractmethod
    def environment_state(self) -> NDArray[np.float32]:
        """Return the privileged state (E,) in metres: a training signal, never an observation."""

    @abstractmethod
    def keypoints(self) -> NDArray[np.float32]:
        """Return where the task's `num_keypoints` points are in the images, (cameras, P, 2).

        x to the right and y down, -1 to 1 inside the image. Privileged like the environment's state: a
        training signal, never an observation.
        """

    @abstractmethod
    def _reset_scene(self, seed: int) -> None:
        """Put the scene into the initial state that `seed` alone determines."""

    @abstractmethod
    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        """Execute one clipped action for one control step; return (reward, success)."""

    @abstractmethod
    def _proprioception(self) -> NDArray[np.float32]:
        """Return the robot's own state (S,) float32, a fresh array."""


class Expert(Protocol):
    """Acts in an episode of a task: reads the simulator's privileged state, acts through ordinary actions."""

    def action(self, env: Any) -> NDArray[np.float32]:
        """Return the action (A,) in [-1, 1] for the present state of `env`, its simulator's task."""
        ...


def check_cameras(cameras: Sequence[str] | None, known: Collection[str]) -> tuple[str, ...]:
    """Return `cameras` as a tuple, all known ones for None.

    Raises:
        ConfigError: the sequence is empty, or a name is repeated or unknown.
    """
    if cameras is None:
        return tuple(known)
    if not cameras:
        raise ConfigError(f"at least one camera is needed, of: {', '.join(known)}")
    for name in cameras:
        if name not in known:
            raise ConfigError(f"unknown camera '{name}'.{nearest(name, known)} Known: {', '.join(known)}")
    if len(set(cameras)) != len(cameras):
        raise ConfigError(f"a camera is named twice: {', '.join(cameras)}")
    return tuple(cameras)
