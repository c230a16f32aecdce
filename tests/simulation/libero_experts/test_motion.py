"""Motions of a simple arm: it goes a third of the way to the commanded pose in each control step."""

import numpy as np
import pytest

from rdvla.simulation.libero.control import rotation_matrix
from rdvla.simulation.libero.expert.geometry import angle_between, pointing, pointing_down
from rdvla.simulation.libero.expert.motion import (
    CLOSED,
    OPEN,
    POSITION_UNIT,
    Arm,
    Progress,
    Slack,
    funnel,
    rise_first,
)
from rdvla.simulation.libero.expert.pick_place import straighten

START = np.array([-0.2, 0.0, 1.2])


class FakeWorld:
    """A hand that follows actions with a lag and sags a little, with fingers that take eight steps."""

    def __init__(self, sag=0.0):
        self.position, self.rotation, self.opening = START.copy(), pointing_down(0.0), 0.08
        self.sag = np.array([0.0, 0.0, -sag])

    @property
    def hand(self):
        return self.position.copy(), self.rotation.copy()

    def execute(self, action):
        self.position += (POSITION_UNIT * action[:3] + self.sag) / 3
        half_turn = pytest.importorskip("scipy.spatial.transform").Rotation.from_rotvec(action[3:6] / 6)
        self.rotation = half_turn.as_matrix() @ self.rotation
        self.opening = float(np.clip(self.opening - 0.01 * np.sign(action[6]), 0.0, 0.08))


def run(world, motion, disturb=lambda step, action: action):
    """Execute a motion; return (its result, the actions it asked for)."""
    actions = []
    while True:
        try:
            action = next(motion)
        except StopIteration as end:
            return end.value, np.array(actions)
        assert action.dtype == np.float32 and action.shape == (7,) and (np.abs(action) <= 1).all()
        actions.append(action)
        world.execute(disturb(len(actions), action))


def test_moves_arrive_at_position_and_orientation():
    world = FakeWorld(sag=0.01)
    goal = START + np.array([0.2, -0.1, -0.15])
    arrived, actions = run(world, Arm(world).move(goal, pointing_down(1.0), tolerance=0.004))
    assert arrived and np.linalg.norm(world.position - goal) < 0.004
    assert angle_between(world.rotation, pointing_down(1.0)) < 0.15
    assert len(actions) < 60


def test_a_move_says_when_it_is_held_up():
    world = FakeWorld()
    world.execute = lambda _: None
    arrived, actions = run(world, Arm(world).move(START + np.array([0.2, 0, 0])))
    assert not arrived and len(actions) < 20


def test_reaching_crosses_high_and_comes_down_straight():
    world = FakeWorld(sag=0.005)
    goal = START + np.array([0.25, 0.1, -0.3])
    path = []
    motion = Arm(world).reach(goal, pointing_down(0.5), height=1.2)
    arrived, _ = run(world, motion, lambda _, action: (path.append(world.position.copy()), action)[1])
    assert arrived
    low = np.array([place for place in path if place[2] < goal[2] + 0.03])
    assert np.linalg.norm(low[:, :2] - goal[:2], axis=1).max() < 0.02


def test_reaching_recovers_from_bursts():
    world = FakeWorld()
    goal = START + np.array([0.2, 0.0, -0.25])
    burst = np.array([1, 1, -0.3, 0.3, 0, 0, -1.0], np.float32)
    motion = Arm(world).reach(goal, height=1.15)
    arrived, actions = run(world, motion, lambda step, action: burst if 15 <= step < 24 else action)
    assert arrived and np.linalg.norm(world.position - goal) < 0.006
    assert actions[23][2] > 0.3  # pushed aside near the goal, it first rises


def test_a_hand_that_comes_to_rest_just_above_its_goal_does_not_press_on():
    world = FakeWorld()
    goal = START + np.array([0.2, 0.0, -0.25])
    palm_on_top = goal[2] + 0.01
    execute = world.execute

    def held_up(action):
        execute(action)
        world.position[2] = max(world.position[2], palm_on_top)

    world.execute = held_up
    resting = []
    motion = Arm(world).reach(goal, height=1.15)
    arrived, _ = run(world, motion, lambda _, action: (resting.append(world.position[2]), action)[1])
    assert arrived and resting.count(palm_on_top) < 5


def test_closing_waits_for_the_fingers_and_releasing_leaves():
    world = FakeWorld()
    arm = Arm(world)
    _, actions = run(world, arm.close(START))
    assert (actions[:, 6] == CLOSED).all() and 8 <= len(actions) <= 12 and world.opening == pytest.approx(0.0)
    _, actions = run(world, arm.release(rise=0.08))
    assert (actions[:, 6] == OPEN).all() and world.position[2] > START[2] + 0.04


def test_resting_keeps_the_grippers_command():
    arm = Arm(FakeWorld())
    arm.gripper = CLOSED
    np.testing.assert_array_equal(arm.rest(), [0, 0, 0, 0, 0, 0, CLOSED])


def test_the_funnel_widens_upwards():
    assert funnel(0.004, slack=0.006) == 0 and funnel(0.0, -0.1, slack=0.006) == 0
    heights = [funnel(beside, slack=0.006) for beside in (0.01, 0.02, 0.05)]
    assert heights == sorted(heights) and heights[0] > 0
    assert funnel(0.0, 0.5, slack=0.006) > 0


def test_a_low_hand_rises_before_it_moves_sideways():
    target = np.array([0.3, 0.2, 1.0])
    far_below = rise_first(np.array([0.0, 0.0, 0.8]), target)
    np.testing.assert_array_equal(far_below, [0, 0, 1.0])
    np.testing.assert_allclose(rise_first(np.array([0.0, 0.0, 1.1]), target), target)


def test_slack_grows_only_while_a_near_hand_gets_no_nearer():
    slack = Slack(0.006)
    assert slack.of(0.3) == slack.of(0.3) == 0.006
    assert slack.of(0.02) == 0.006
    assert slack.of(0.02) > 0.006


def test_progress_counts_steps_without_any():
    watch = Progress(patience=3)
    assert not any(watch.stuck(cost) for cost in (1.0, 0.9, 0.9, 0.9, 0.9))
    assert watch.stuck(0.9)
    assert not watch.stuck(0.5)


def test_being_pushed_away_is_not_being_stuck():
    watch = Progress(patience=3)
    assert not any(watch.stuck(cost) for cost in (0.10, 0.02, 0.08, 0.14, 0.12, 0.10, 0.08, 0.06, 0.04))


@pytest.mark.parametrize("yaw", [-1.2, 0.0, 1.5])
def test_straightening_takes_the_tilt_away_and_leaves_the_wrist(yaw):
    world = FakeWorld()
    world.rotation = rotation_matrix(np.array([0.3, 0.1, 0.0])) @ pointing_down(yaw)
    arm = Arm(world)
    straighten(arm)
    assert angle_between(arm.rotation, pointing_down(yaw)) < 0.1


def test_straightening_a_level_hand_turns_its_wrist_back():
    world = FakeWorld()
    world.rotation = pointing(np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    arm = Arm(world)
    straighten(arm)
    assert abs(arm.rotation[:, 0] @ pointing_down(0.0)[:, 0]) == pytest.approx(1.0)
    assert arm.rotation[2, 2] == pytest.approx(-1.0)
