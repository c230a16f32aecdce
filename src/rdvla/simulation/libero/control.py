"""LIBERO's arm controller: the same forces in a fraction of the time.

The benchmark moves the arm by operational space control (Khatib, 1987), 25 physics steps for each control
step. Its own implementation (robosuite 1.4, `controllers/osc.py`) computes the whole forward dynamics three
times for each of them, and keeps some sixty observables up to date meanwhile. Here the forces are computed
between the two halves of one physics step, from the quantities that its first half has just left in the
simulator's data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

MAX_MOVE = 0.05  # metres along an axis that an action of 1 asks for
MAX_TURN = 0.5  # radians about an axis that an action of 1 asks for
_STIFFNESS = 150.0
_DAMPING = 2.0 * np.sqrt(_STIFFNESS)  # critical
_REST_STIFFNESS = 10.0  # of the pull towards the initial joint angles, in the null space
_REST_DAMPING = 2.0 * np.sqrt(_REST_STIFFNESS)
_FINGER_SPEED = 0.01  # share of the gripper's half range that its target moves in a physics step
_FINGERS = np.array([-1.0, 1.0])


class ArmController:
    """Turns actions into the arm's torques and the gripper's targets, for a robosuite environment.

    Attributes:
        seen: joint positions (nq,) that the simulator's poses, and so images and observations, belong to.
            They are one physics step (2 ms) old, as in robosuite.
    """

    def __init__(self, problem: Any) -> None:
        robot = problem.robots[0]
        self._model = problem.sim.model._model
        self._data = problem.sim.data._data
        self._site = int(robot.eef_site_id)
        self._joints = _as_slice(robot._ref_joint_pos_indexes)
        self._velocities = _as_slice(robot._ref_joint_vel_indexes)
        self._motors = _as_slice(robot._ref_joint_actuator_indexes)
        self._grippers = _as_slice(robot._ref_joint_gripper_actuator_indexes)
        self._least_torque, self._most_torque = robot.torque_limits
        gripper_range = self._model.actuator_ctrlrange[self._grippers]
        self._gripper_centre = gripper_range.mean(axis=1)
        self._gripper_half_range = (gripper_range[:, 1] - gripper_range[:, 0]) / 2
        self._substeps = int(problem.control_timestep / problem.model_timestep)
        nv = self._model.nv
        self._jacobian = np.zeros((6, nv))
        self._mass = np.zeros((nv, nv))
        self._fingers = np.zeros(2)
        self._goal_rotation = np.eye(3)
        self.seen = self._data.qpos.copy()
        # Where the hand starts and the torques that hold it there, until the first step.
        self._initial: tuple[Vector, Vector] | None = None
        self._rest = np.asarray(robot.init_qpos)

    def reset(self) -> None:
        """Start an episode from the robot's initial pose, before an initial state changes it.

        Until an action turns the hand, its goal is the rotation that it has now. The gripper's target is half
        open, wherever its fingers are. As in robosuite, the first control step still starts from the initial
        pose: its goal is relative to it, and its first torques only hold it.
        """
        position, self._goal_rotation = self._hand()
        self._initial = position, self._data.qfrc_bias[self._velocities].copy()
        self._fingers = np.zeros(2)

    def execute(self, action: Vector) -> None:
        """Simulate one control step of an action (7,) in [-1, 1]."""
        import mujoco

        model, data = self._model, self._data
        mujoco.mj_step1(model, data)
        position, rotation = self._hand()
        torques = None
        if self._initial is not None:
            position, torques = self._initial
            self._initial = None
        goal_position = position + MAX_MOVE * action[:3]
        if action[3:6].any():  # otherwise it keeps turning towards its last goal
            self._goal_rotation = rotation_matrix(MAX_TURN * action[3:6]) @ rotation
        opening = _FINGERS * _FINGER_SPEED * np.sign(action[6])
        for substep in range(self._substeps):
            if substep > 0:
                mujoco.mj_step1(model, data)
            if torques is None or substep > 0:
                torques = self._torques(goal_position, self._goal_rotation)
            data.ctrl[self._motors] = np.minimum(np.maximum(torques, self._least_torque), self._most_torque)
            self._fingers = np.minimum(np.maximum(self._fingers + opening, -1.0), 1.0)
            data.ctrl[self._grippers] = self._gripper_centre + self._gripper_half_range * self._fingers
            self.seen = data.qpos.copy()
            mujoco.mj_step2(model, data)

    def _hand(self) -> tuple[Vector, Vector]:
        """Position (3,) and rotation (3, 3) of the point between the fingertips."""
        data = self._data
        return data.site_xpos[self._site].copy(), data.site_xmat[self._site].reshape(3, 3).copy()

    def _torques(self, goal_position: Vector, goal_rotation: Vector) -> Vector:
        """Joint torques (7,) in N m: Khatib (1987), position and orientation decoupled as in robosuite."""
        import mujoco

        model, data = self._model, self._data
        position, rotation = data.site_xpos[self._site], data.site_xmat[self._site].reshape(3, 3)
        mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        mujoco.mj_fullM(model, self._mass, data.qM)
        jacobian = self._jacobian[:, self._velocities]
        mass = self._mass[self._velocities, self._velocities]
        speed = data.qvel[self._velocities]

        twist = jacobian @ speed
        force = _STIFFNESS * (goal_position - position) - _DAMPING * twist[:3]
        torque = _STIFFNESS * _rotation_error(goal_rotation, rotation) - _DAMPING * twist[3:]

        mobility = _solve(mass, jacobian.T)  # M⁻¹ Jᵀ, (7, 6)
        inverse_inertia = jacobian @ mobility
        wrench = np.empty(6)
        wrench[:3] = _solve(inverse_inertia[:3, :3], force)
        wrench[3:] = _solve(inverse_inertia[3:, 3:], torque)
        to_rest = _REST_STIFFNESS * (self._rest - data.qpos[self._joints]) - _REST_DAMPING * speed
        rest = mass @ to_rest
        seen_by_hand = _solve(inverse_inertia, mobility.T @ rest)
        # Task torques, gravity and Coriolis forces, and (1 - J̄ J)ᵀ rest, which the hand does not feel.
        torques: Vector = jacobian.T @ (wrench - seen_by_hand) + data.qfrc_bias[self._velocities] + rest
        return torques


def _as_slice(indices: Sequence[int]) -> slice:
    """Successive indices as a slice: indexing with it copies nothing."""
    first, last = int(indices[0]), int(indices[-1])
    assert list(indices) == list(range(first, last + 1)), indices
    return slice(first, last + 1)


def _solve(matrix: Vector, right: Vector) -> Vector:
    """Solve with a symmetric positive definite matrix: LAPACK without numpy's overhead, 4 times faster."""
    from scipy.linalg.lapack import dposv

    _, solution, failed = dposv(matrix, right)
    if failed:
        raise np.linalg.LinAlgError("the arm is in a singular configuration")
    answer: Vector = solution
    return answer


def rotation_matrix(axis_angle: Vector) -> Vector:
    """Return the rotation matrix (3, 3) of a rotation vector (3,) in radians, by Rodrigues' formula."""
    angle = float(np.linalg.norm(axis_angle))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = axis_angle / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    rotation: Vector = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)
    return rotation


def _rotation_error(goal: Vector, present: Vector) -> Vector:
    """The axis of the remaining turn, times the sine of its angle, (3,)."""
    left: Vector = goal @ present.T
    axis: Vector = np.array([left[2, 1] - left[1, 2], left[0, 2] - left[2, 0], left[1, 0] - left[0, 1]])
    half: Vector = 0.5 * axis
    return half
