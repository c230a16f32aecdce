"""One recorded attempt: what is executed, what is recorded, and what it is seeded with. No rendering."""

import numpy as np
import pytest

from rdvla.simulation.demonstrations.recording import ActionNoise, AttemptSeeds, NoiseConfig, record_attempt
from rdvla.simulation.environment import SimulatedTask
from rdvla.simulation.registry import FIRST_EVALUATION_SEED

QUIET = NoiseConfig(levels=(0.0,), burst_probability=0.0)


class LineTask(SimulatedTask):
    """A point that has to move along x until it has gone one unit; images show the step number."""

    control_hz = 10.0
    robot_type = "point"
    state_size = 2
    action_size = 3
    environment_state_size = 1
    num_keypoints = 1
    noise_scale = (1.0, 1.0, 0.0)

    def __init__(self, max_steps=40):
        super().__init__(
            task="line",
            instruction="move along the line",
            cameras=("top",),
            image_size=16,
            max_steps=max_steps,
            stop_on_success=False,
        )
        self.executed = []
        self.rendered = 0

    def _reset_scene(self, seed):
        self.position = np.zeros(2)
        self.executed = []

    def _advance(self, action):
        self.executed.append(action)
        self.position += 0.1 * action[:2]
        return 0.0, bool(self.position[0] >= 1.0)

    def _proprioception(self):
        return self.position.astype(np.float32)

    def environment_state(self):
        return np.array([1.0 - self.position[0]], dtype=np.float32)

    def keypoints(self):
        return np.array([[[self.position[0], 0.0]]], dtype=np.float32)

    def snapshot(self):
        return len(self.executed)

    def render_cameras(self, snapshot=None):
        self.rendered += 1
        return {"top": np.full((16, 16, 3), snapshot, dtype=np.uint8)}


class StraightExpert:
    def action(self, env):
        return np.array([1.0, 0.0, 1.0], dtype=np.float32)


def attempt(env, *, noise=QUIET, number=0, camera_stride=3, steps_after_success=4):
    seeds = AttemptSeeds.derive(seed=0, task="line", attempt=number)
    return record_attempt(
        env=env,
        expert=StraightExpert(),
        seeds=seeds,
        noise=noise,
        camera_stride=camera_stride,
        steps_after_success=steps_after_success,
    )


def test_rows_hold_state_before_and_success_after_each_action():
    episode = attempt(LineTask())
    steps = 10 + 4  # to success and after it
    assert episode.task == "move along the line"
    assert {name: values.shape for name, values in episode.features.items()} == {
        "observation.state": (steps, 2),
        "privileged.environment_state": (steps, 1),
        "privileged.environment_keypoints": (steps, 2),
        "action": (steps, 3),
        "next.success": (steps,),
        "next.reward": (steps,),
    }
    np.testing.assert_allclose(episode.features["observation.state"][:, 0], 0.1 * np.arange(steps), atol=1e-6)
    np.testing.assert_array_equal(episode.features["next.success"], np.arange(steps) >= 9)
    np.testing.assert_array_equal(episode.features["next.reward"], episode.features["next.success"])


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_images_are_captured_at_the_first_step_and_then_at_every_strideth(stride):
    for number in range(6):
        episode = attempt(LineTask(), number=number, camera_stride=stride)
        captured = episode.images["top"][:, 0, 0, 0].astype(int)  # the image shows the step of its capture
        assert captured[0] == 0 and (np.diff(captured)[1:] == stride).all() and np.diff(captured)[0] <= stride
        shown = captured[episode.image_index]
        age = np.arange(len(shown)) - shown
        assert (age >= 0).all() and age.max() < stride


def test_noise_disturbs_what_is_executed_and_not_what_is_recorded():
    env = LineTask(max_steps=200)
    episode = attempt(env, noise=NoiseConfig(levels=(0.5,), burst_probability=0.1))
    executed = np.stack(env.executed)
    np.testing.assert_array_equal(episode.features["action"], np.tile([1.0, 0.0, 1.0], (len(executed), 1)))
    assert np.std(executed[:, 1]) > 0.2
    np.testing.assert_array_equal(executed[:, 2], 1.0)  # the gripper is left alone
    assert np.abs(executed).max() <= 1.0
    assert episode.source["noise"] == 0.5


def test_bursts_hold_one_action_for_four_to_nine_steps():
    noise = ActionNoise(
        NoiseConfig(levels=(1e-9,), burst_probability=0.05), (1.0, 1.0, 0.0), np.random.default_rng(0)
    )
    actions = [tuple(noise.disturb(np.zeros(3, dtype=np.float32))[:2]) for _ in range(3000)]
    runs = np.diff([0, *(i for i in range(1, 3000) if actions[i] != actions[i - 1]), 3000])
    held = runs[runs > 1]
    assert len(held) > 30 and held.min() >= 4 and held.max() <= 9


def test_level_zero_leaves_the_action_untouched():
    noise = ActionNoise(
        NoiseConfig(levels=(0.0,), burst_probability=1.0), (1.0, 1.0, 0.0), np.random.default_rng(0)
    )
    action = np.array([0.3, -0.2, 1.0], dtype=np.float32)
    np.testing.assert_array_equal(noise.disturb(action), action)


def test_a_failed_attempt_renders_nothing():
    env = LineTask(max_steps=5)
    assert attempt(env) is None
    assert env.rendered == 0


def test_seeds_depend_on_seed_task_and_attempt_and_stay_below_evaluations():
    def derive(seed, task, number):
        return AttemptSeeds.derive(seed=seed, task=task, attempt=number)

    assert derive(1, "push-v3", 2) == derive(1, "push-v3", 2)
    others = [derive(2, "push-v3", 2), derive(1, "reach-v3", 2), derive(1, "push-v3", 3)]
    assert len({derive(1, "push-v3", 2), *others}) == 4
    scenes = [derive(0, "push-v3", number).scene for number in range(2000)]
    assert all(0 <= scene < FIRST_EVALUATION_SEED for scene in scenes)
    assert len(set(scenes)) > 1990
