"""MetaWorld behind Gymnasium's interface: physics, a few images, nothing privileged in observations."""

import gc

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rdvla.errors import ConfigError, RDVLAError
from rdvla.simulation import make, make_expert

pytest.importorskip("metaworld")

REST = np.array([0.0, 0.0, 0.0, -1.0], dtype=np.float32)


@pytest.fixture(scope="module")
def env():
    env = make("metaworld", "push-v3", image_size=64)
    yield env
    env.close()


def run_expert(env, *, seed, steps):
    env.reset(seed=seed)
    expert = make_expert("metaworld", env.task)
    return any(env.step(expert.action(env))[-1]["success"] for _ in range(steps))


def test_keeps_gymnasiums_rules():
    env = make("metaworld", "reach-v3", image_size=32, max_steps=20, render_mode="rgb_array")
    check_env(env, skip_close_check=True)
    env.close()


def test_a_seed_gives_the_same_scene_and_images_whatever_came_before(env):
    first, _ = env.reset(seed=7)
    scene, images = env.environment_state(), env.render_cameras()
    env.reset(seed=8)
    assert not np.allclose(env.environment_state(), scene)
    for _ in range(15):
        env.step(env.action_space.sample())
    again, _ = env.reset(seed=7)
    np.testing.assert_array_equal(again["state"], first["state"])
    np.testing.assert_array_equal(env.environment_state(), scene)
    for name, image in env.render_cameras().items():
        np.testing.assert_array_equal(image, images[name])


def test_resets_without_a_seed_draw_new_scenes_that_an_earlier_seed_determines(env):
    def scenes():
        env.reset(seed=3)
        return [(env.reset(), env.environment_state())[1] for _ in range(2)]

    first, second = scenes(), scenes()
    np.testing.assert_array_equal(first, second)
    assert not np.allclose(first[0], first[1])


def test_the_first_image_shows_the_goal_of_this_episode(env):
    env.reset(seed=1)
    env.reset(seed=2)
    before = env.render_cameras()
    still = env.snapshot()
    for name, image in env.render_cameras(still).items():
        np.testing.assert_array_equal(image, before[name])
    model, data = env.simulation_model, env.simulation_data
    np.testing.assert_allclose(data.site("goal").xpos, model.site("goal").pos)
    np.testing.assert_allclose(data.site("goal").xpos, env.environment_state()[6:9], atol=1e-6)


def test_observation_holds_proprioception_only(env):
    observation, info = env.reset(seed=4)
    state = observation["state"]
    assert set(observation) == {"state"} and state.shape == (4,) and state.dtype == np.float32
    # Another layout with the hand in the same place observes the same: nothing of the scene leaks.
    other, _ = env.reset(seed=5)
    np.testing.assert_allclose(other["state"], state, atol=1e-5)
    assert set(info) == {"success"} == set(env.step(REST)[-1])


def test_environment_state_is_object_relative_object_goal(env):
    observation, _ = env.reset(seed=6)
    privileged = env.environment_state()
    assert privileged.shape == (9,) and privileged.dtype == np.float32
    np.testing.assert_allclose(privileged[:3] + observation["state"][:3], privileged[3:6], atol=1e-6)


def test_cameras_differ_and_are_the_right_way_up(env):
    env.reset(seed=9)
    low = env.render_cameras()
    assert list(low) == ["front", "side", "wrist"]
    for image in low.values():
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.std() > 10
    assert np.abs(low["front"].astype(int) - low["side"]).mean() > 5
    assert np.abs(low["front"].astype(int) - low["wrist"]).mean() > 5


def test_cameras_are_the_right_way_up(env):
    env.reset(seed=9)
    for _ in range(8):
        env.step(np.array([0.0, 0.0, -1.0, -1.0], dtype=np.float32))
    low = hand_rows(env)
    for _ in range(16):
        env.step(np.array([0.0, 0.0, 1.0, -1.0], dtype=np.float32))
    high = hand_rows(env)
    for camera in ("front", "side"):
        assert high[camera] < low[camera] - 2


def hand_rows(env):
    """Lowest image row (0 is the top) that the gripper reaches in each camera."""
    model = env.simulation_model
    shown = env.render_cameras()
    parts = {model.body(name).id for name in ("hand", "rightclaw", "leftclaw", "rightpad", "leftpad")}
    geoms = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] in parts]
    kept = model.geom_rgba[geoms].copy()
    model.geom_rgba[geoms, 3] = 0.0
    hidden = env.render_cameras()
    model.geom_rgba[geoms] = kept
    return {name: np.nonzero((shown[name] != hidden[name]).any(-1))[0].max() for name in ("front", "side")}


def test_a_moment_renders_the_same_later(env):
    env.reset(seed=10)
    expert = make_expert("metaworld", env.task)
    for _ in range(30):
        env.step(expert.action(env))
    moment, images = env.snapshot(), env.render_cameras()
    for _ in range(10):
        env.step(expert.action(env))
    present = env.render_cameras()
    for name, image in env.render_cameras(moment).items():
        np.testing.assert_array_equal(image, images[name])
    for name, image in env.render_cameras().items():
        np.testing.assert_array_equal(image, present[name])


@pytest.mark.parametrize("task", ["reach-v3", "drawer-close-v3", "button-press-topdown-v3"])
def test_experts_succeed(task):
    env = make("metaworld", task)
    assert run_expert(env, seed=0, steps=200)
    env.close()


def test_expert_actions_stay_in_range(env):
    env.reset(seed=0)
    action = make_expert("metaworld", "push-v3").action(env)
    assert action.shape == (4,) and action.dtype == np.float32 and np.abs(action).max() <= 1


def test_success_ends_the_episode_only_on_request():
    env = make("metaworld", "reach-v3", stop_on_success=True, max_steps=150)
    env.reset(seed=0)
    expert = make_expert("metaworld", "reach-v3")
    ended = [env.step(expert.action(env))[2] for _ in range(100)]
    first = ended.index(True)
    env.stop_on_success = False
    env.reset(seed=0)
    outcomes = [env.step(expert.action(env)) for _ in range(first + 1)]
    assert outcomes[-1][-1]["success"] and not any(terminated for _, _, terminated, _, _ in outcomes)
    env.close()


def test_the_time_limit_is_ours_and_metaworlds_own_never_surfaces():
    env = make("metaworld", "reach-v3", max_steps=501)
    env.reset(seed=0)
    truncations = [env.step(REST)[3] for _ in range(502)]
    assert truncations.index(True) == 500
    env.close()


def opengl_contexts() -> int:
    from mujoco.gl_context import GLContext

    gc.collect()
    return sum(issubclass(type(each), GLContext) for each in gc.get_objects())


def test_closing_frees_the_renderer():
    env = make("metaworld", "reach-v3", cameras=["side"], image_size=32)
    env.reset(seed=0)
    before = opengl_contexts()
    env.render_cameras()
    assert opengl_contexts() == before + 1
    env.close()
    assert opengl_contexts() == before
    env.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cameras": ["frnt"]}, "Did you mean 'front'"),
        ({"cameras": ["side", "side"]}, "named twice"),
        ({"cameras": []}, "at least one camera"),
        ({"image_size": 0}, "image_size"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_impossible_options_are_named(options, expected):
    with pytest.raises(ConfigError, match=expected):
        make("metaworld", "push-v3", **options)


def test_bad_actions_are_named(env):
    env.reset(seed=0)
    with pytest.raises(RDVLAError, match=r"shape \(4,\), got \(3,\)"):
        env.step(np.zeros(3, dtype=np.float32))
    with pytest.raises(RDVLAError, match="not finite"):
        env.step(np.array([0.0, np.nan, 0.0, 0.0], dtype=np.float32))
    fresh = make("metaworld", "push-v3")
    with pytest.raises(RDVLAError, match=r"call reset\(\)"):
        fresh.step(REST)
    fresh.close()
