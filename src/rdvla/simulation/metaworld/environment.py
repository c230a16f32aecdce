"""MetaWorld's 50 tasks (metaworld 3.1, MuJoCo) as `SimulatedTask`s, and its scripted experts.

Source: Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement
Learning" (2020).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import missing_extra
from rdvla.simulation.cameras import FreeCamera, project
from rdvla.simulation.environment import Images, SimulatedTask, check_cameras
from rdvla.simulation.rendering import CameraRenderer, Rendering, choose_gl_backend

# MetaWorld's own cameras see the table from afar; these two are close to it. The wrist camera is its own.
CAMERAS: dict[str, FreeCamera | str] = {
    "front": FreeCamera(lookat=(0.0, 0.68, 0.10), distance=0.95, azimuth=-125.0, elevation=-30.0),
    "side": FreeCamera(lookat=(0.0, 0.68, 0.10), distance=0.95, azimuth=-20.0, elevation=-45.0),
    "wrist": "gripperPOV",
}

# Half of the scene's triangles belong to these bodies, which never come near the objects. Without them an
# image takes half the time; only the front view loses a few pixels, at its upper edge.
HIDDEN_BODIES = ("pedestal", "base", "head", "right_l0", "right_l1")

# Where things are in MetaWorld's full observation (39,): see SawyerXYZEnv._get_obs.
_HAND, _GRIPPER, _OBJECT, _GOAL = slice(0, 3), slice(0, 4), slice(4, 7), slice(36, 39)


class MetaWorldEnv(SimulatedTask):
    """One MetaWorld task.

    State (4,): position of the hand in metres (3), opening of the gripper from 0 to 1. Action (4,), each in
    [-1, 1]: movement of the hand by up to 1 cm along x, y, z, and gripper effort (positive closes).

    Raises `MissingExtraError` without the metaworld package, `ConfigError` for an unknown camera.
    """

    control_hz = 80.0
    robot_type = "sawyer"
    state_size = 4
    action_size = 4
    environment_state_size = 9
    state_names = ("x", "y", "z", "gripper")
    action_names = ("x", "y", "z", "gripper")
    num_keypoints = 3
    noise_scale = (1.0, 1.0, 1.0, 0.0)

    def __init__(
        self,
        task: str,
        *,
        instruction: str,
        cameras: Sequence[str] | None = None,
        image_size: int = 128,
        max_steps: int,
        stop_on_success: bool = False,
        render_mode: str | None = None,
        rendering: Rendering = "fast",
    ) -> None:
        super().__init__(
            task=task,
            instruction=instruction,
            cameras=check_cameras(cameras, CAMERAS),
            image_size=image_size,
            max_steps=max_steps,
            stop_on_success=stop_on_success,
            render_mode=render_mode,
        )
        self._simulator = _build_simulator(task)
        if rendering != "full":
            _hide_bodies(self.simulation_model)
        self._renderer = CameraRenderer(
            model=self.simulation_model,
            cameras={name: CAMERAS[name] for name in self.cameras},
            image_size=image_size,
            rendering=rendering,
        )
        self._replay_data: Any = None  # a second MjData: rendering the past must leave the present alone
        self._full_observation = np.zeros(39)

    @property
    def simulation_model(self) -> Any:
        """MuJoCo's model of the scene."""
        return self._simulator.model

    @property
    def simulation_data(self) -> Any:
        """MuJoCo's state of the scene."""
        return self._simulator.data

    def render_cameras(self, snapshot: NDArray[np.float64] | None = None) -> Images:
        """Render every camera, see `SimulatedTask.render_cameras`."""
        if snapshot is None:
            return self._renderer.render(self.simulation_data)
        import mujoco

        if self._replay_data is None:
            self._replay_data = mujoco.MjData(self.simulation_model)
        model, data = self.simulation_model, self._replay_data
        mujoco.mj_setState(model, data, snapshot, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        return self._renderer.render(data)

    def snapshot(self) -> NDArray[np.float64]:
        """Return MuJoCo's integration state, a flat vector that is valid until the next reset."""
        import mujoco

        model = self.simulation_model
        state = np.empty(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(model, self.simulation_data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return state

    def environment_state(self) -> NDArray[np.float32]:
        """Return (9,) metres: object relative to the hand, object, goal. Privileged, never an observation."""
        full = self._full_observation
        parts = (full[_OBJECT] - full[_HAND], full[_OBJECT], full[_GOAL])
        return np.concatenate(parts).astype(np.float32)

    def keypoints(self) -> NDArray[np.float32]:
        """Return (cameras, 3, 2): object, goal and hand in every camera's image, see `SimulatedTask`."""
        full = self._full_observation
        points = np.stack([full[_OBJECT], full[_GOAL], full[_HAND]])
        model, data = self.simulation_model, self.simulation_data
        return np.stack([project(points, CAMERAS[name], model=model, data=data) for name in self.cameras])

    def full_observation(self) -> NDArray[np.float64]:
        """Return MetaWorld's own observation (39,), object and goal included: for scripted experts only."""
        return self._full_observation.copy()

    def close(self) -> None:
        """Free the renderer and the simulator."""
        self._renderer.close()
        self._replay_data = None
        self._simulator.close()

    def _reset_scene(self, seed: int) -> None:
        import mujoco

        # MetaWorld ignores reset(seed=...): its layouts come from the generator that seed() sets.
        self._simulator.seed(seed)
        self._full_observation, _ = self._simulator.reset()
        # Tasks place their goal marker in the model after the last kinematics update; without this one the
        # first image would show the marker of the episode before.
        mujoco.mj_forward(self.simulation_model, self.simulation_data)

    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool]:
        self._full_observation, reward, _, _, info = self._simulator.step(action)
        return float(reward), bool(info["success"] > 0.5)

    def _proprioception(self) -> NDArray[np.float32]:
        return self._full_observation[_GRIPPER].astype(np.float32)


class MetaWorldExpert:
    """The benchmark's policy for a task. Raises `MissingExtraError` without the metaworld package."""

    def __init__(self, task: str, *, seed: int = 0) -> None:  # noqa: ARG002 (nothing is left to chance)
        choose_gl_backend()
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise missing_extra("metaworld", "metaworld") from error
        # The experts ask for more than the action range far from their target and say so at every step.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
        policy: Any = ENV_POLICY_MAP[task]
        self._policy = policy()

    def action(self, env: MetaWorldEnv) -> NDArray[np.float32]:
        """Return the expert's action (4,) in [-1, 1]."""
        action = np.asarray(self._policy.get_action(env.full_observation()), dtype=np.float32)
        return np.clip(action, -1.0, 1.0)


def _build_simulator(task: str) -> Any:
    """Return MetaWorld's environment of `task`, its goal observable, with a new layout at each reset."""
    choose_gl_backend()
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    except ImportError as error:
        raise missing_extra("metaworld", "metaworld") from error
    # The constructor resets once, with numpy's global generator unless it gets a seed.
    build: Any = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-goal-observable"]
    simulator: Any = build(seed=0)
    simulator._freeze_rand_vec = False
    simulator.seeded_rand_vec = True
    # The time limit is SimulatedTask's; MetaWorld's own would raise at its 501st step.
    simulator.max_path_length = np.inf
    return simulator


def _hide_bodies(model: Any) -> None:
    """Make the geometry of `HIDDEN_BODIES` fully transparent, which MuJoCo then leaves out of the scene."""
    for geom in range(model.ngeom):
        if model.body(model.geom_bodyid[geom]).name in HIDDEN_BODIES:
            model.geom_rgba[geom, 3] = 0.0
