"""LIBERO's tasks (robosuite 1.4, MuJoCo) as `SimulatedTask`s.

Source: Liu et al., "LIBERO: Benchmarking Knowledge Transfer for Lifelong Robot Learning" (2023).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import ConfigError, RDVLAError
from rdvla.simulation.cameras import project
from rdvla.simulation.environment import Images, SimulatedTask, check_cameras
from rdvla.simulation.libero.control import ArmController
from rdvla.simulation.libero.goals import PointsOfInterest
from rdvla.simulation.libero.problem import lay_out, open_problem
from rdvla.simulation.registry import FIRST_EVALUATION_SEED
from rdvla.simulation.rendering import CameraRenderer, Rendering

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}

_HAND = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3")  # as in published LIBERO data
SETTLING_STEPS = 10  # of the published protocol: objects of the initial states fall into place
_SETTLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
_VISUAL_GEOMS = 1  # robosuite's group of the geometry that is seen; group 0 collides
_FALLEN = 0.25  # metres; everything is drawn some 7 to 11 cm above its support
_LAYOUTS = 20
_LOST_DETAIL = 0.006  # metres; a pixel of the overview camera at 128 pixels shows about a centimetre


class LiberoEnv(SimulatedTask):
    """One LIBERO task.

    State (8,): position of the hand in metres (3), its rotation as axis times angle in radians (3), joint
    positions of the two fingers in metres (2). Action (7,), each in [-1, 1]: movement of the hand by up to
    5 cm along x, y, z, its turn by up to 0.5 rad about them, and gripper (-1 opens, +1 closes).

    Images are as in published LIBERO policies and datasets: robosuite's images, which are upside down,
    rotated by 180 degrees. So up is up, and left and right are exchanged.

    Seeds below `FIRST_EVALUATION_SEED` draw a layout from the task's regions. From that seed on they name the
    benchmark's fixed initial states: `FIRST_EVALUATION_SEED + i` is state i. The 10 settling steps of the
    published protocol are part of a reset and count towards no limit.

    Raises `MissingExtraError` without LIBERO, `ConfigError` for an unknown camera.
    """

    control_hz = 20.0
    robot_type = "panda"
    state_size = 8
    action_size = 7
    environment_state_size = 18
    num_keypoints = 5
    state_names = (*_HAND, "gripper", "gripper")
    action_names = (*_HAND, "gripper")
    noise_scale = (1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.0)

    def __init__(
        self,
        task: str,
        *,
        suite: str,
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
        self.problem, self._official_states = open_problem(suite, task)
        self.simulation_model = self.problem.sim.model._model
        self.simulation_data = self.problem.sim.data._data
        self._controller = ArmController(self.problem)
        self._points = PointsOfInterest(self.problem)
        self._renderer = CameraRenderer(
            model=self.simulation_model,
            cameras={name: CAMERAS[name] for name in self.cameras},
            image_size=image_size,
            rendering=rendering,
            geom_group=_VISUAL_GEOMS,
            lost_detail=_LOST_DETAIL,
        )
        self._replay_data: Any = None  # a second MjData: rendering the past must leave the present alone

    def render_cameras(
        self, snapshot: tuple[NDArray[np.float64], NDArray[np.float32]] | None = None
    ) -> Images:
        """Render every camera, see `SimulatedTask.render_cameras`."""
        if snapshot is None:
            images = self._renderer.render(self.simulation_data)
        else:
            images = self._render_past(*snapshot)
        return {name: np.ascontiguousarray(image[:, ::-1]) for name, image in images.items()}

    def snapshot(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return joint positions and the sites' colours (a lit stove is a coloured site)."""
        return self._controller.seen, self.simulation_model.site_rgba.copy()

    def environment_state(self) -> NDArray[np.float32]:
        """Return (18,): where the goal's things are, which conditions hold. Privileged, never an observation.

        Metres from the hand to subject, target, second subject and second target (12); the direction that
        each subject points to (4); 1 for each condition that holds (2). See `PointsOfInterest`.
        """
        relative = self._points.positions() - self._hand_position()
        parts = (relative.ravel(), self._points.directions().ravel(), self._points.met())
        return np.concatenate(parts).astype(np.float32)

    def keypoints(self) -> NDArray[np.float32]:
        """Return (cameras, 5, 2): the four points of interest and the hand in every image."""
        points = np.concatenate([self._points.positions(), self._hand_position()[None]])
        model, data = self.simulation_model, self.simulation_data
        found = np.stack([project(points, CAMERAS[name], model=model, data=data) for name in self.cameras])
        return found * np.array([-1.0, 1.0], dtype=np.float32)  # left and right are exchanged

    def close(self) -> None:
        """Free the renderer and the simulator."""
        self._renderer.close()
        self.problem.close()
        # robosuite's objects hold each other in circles, and 1.5 GB with them.
        del self.problem, self.simulation_model, self.simulation_data
        del self._controller, self._points, self._replay_data
        gc.collect()

    def _reset_scene(self, seed: int) -> None:
        official = seed - FIRST_EVALUATION_SEED
        if official >= len(self._official_states):
            raise ConfigError(
                f"{self.task} has {len(self._official_states)} official initial states: seeds from "
                f"{FIRST_EVALUATION_SEED} to {FIRST_EVALUATION_SEED + len(self._official_states) - 1}, "
                f"got {seed}. Evaluate at most that many episodes a task"
            )
        if official < 0:
            self._draw_scene(seed)
        else:
            # It holds no fixtures: the seed still draws their positions, within a centimetre or two.
            lay_out(self.problem, seed)
            self._settle(self._official_states[official])

    def _draw_scene(self, seed: int) -> None:
        """Draw a layout in which everything stays where it was put.

        In some of the benchmark's layouts two things overlap, and the simulator throws one off the table.
        """
        for attempt in range(_LAYOUTS):
            lay_out(self.problem, (seed, attempt) if attempt else seed)
            if self._settle() < _FALLEN:
                return
        raise RDVLAError(f"{self.task}: something falls off the table in {_LAYOUTS} layouts of seed {seed}")

    def _settle(self, state: NDArray[np.float64] | None = None) -> float:
        """Let everything come to rest, from a state of the simulator or as it is; return the deepest fall."""
        import mujoco

        self._controller.reset()
        if state is not None:
            self.problem.sim.set_state_from_flattened(state)
        mujoco.mj_forward(self.simulation_model, self.simulation_data)
        before = self._heights()
        for _ in range(SETTLING_STEPS):
            self._advance(_SETTLE)
        return float((before - self._heights()).max())

    def _heights(self) -> NDArray[np.float64]:
        """Return where the movable things are above the floor, in metres."""
        bodies = [self.problem.obj_body_id[name] for name in self.problem.objects_dict]
        heights: NDArray[np.float64] = self.simulation_data.xpos[bodies, 2].copy()
        return heights

    def _advance(self, action: NDArray[Any]) -> tuple[float, bool]:
        self._controller.execute(action.astype(np.float64))
        self.problem._post_process()
        success = bool(self.problem._check_success())
        return float(success), success

    def _proprioception(self) -> NDArray[np.float32]:
        robot = self.problem.robots[0]
        data = self.simulation_data
        rotation = axis_angle(data.body(robot.robot_model.eef_name).xquat)
        fingers = data.qpos[robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([self._hand_position(), rotation, fingers]).astype(np.float32)

    def _hand_position(self) -> NDArray[np.float64]:
        position: NDArray[np.float64] = self.simulation_data.site_xpos[self.problem.robots[0].eef_site_id]
        return position

    def _render_past(self, positions: NDArray[np.float64], colours: NDArray[np.float32]) -> Images:
        import mujoco

        model = self.simulation_model
        if self._replay_data is None:
            self._replay_data = mujoco.MjData(model)
        self._replay_data.qpos[:] = positions
        mujoco.mj_kinematics(model, self._replay_data)
        mujoco.mj_comPos(model, self._replay_data)  # lights and cameras may follow it
        mujoco.mj_camlight(model, self._replay_data)
        present = model.site_rgba.copy()
        model.site_rgba[:] = colours
        try:
            return self._renderer.render(self._replay_data)
        finally:
            model.site_rgba[:] = present


def axis_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation vector (3,) in radians of a unit quaternion (w, x, y, z), as published policies expect it.

    The angle is 2 acos(w), from 0 to 2 pi: the shorter way round is not chosen.
    """
    w = float(np.clip(quaternion[0], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if sine < 1e-8:
        return np.zeros(3)
    vector: NDArray[np.float64] = quaternion[1:] * (2.0 * np.arccos(w) / sine)
    return vector
