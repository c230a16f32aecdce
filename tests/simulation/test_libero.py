"""LIBERO behind Gymnasium's interface, against the benchmark's own code."""

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from rdvla.errors import ConfigError, MissingExtraError, RDVLAError
from rdvla.simulation import (
    default_tasks,
    make,
    make_expert,
    official_states,
    resolve_tasks,
    step_limit,
    tasks,
)
from rdvla.simulation.registry import FIRST_EVALUATION_SEED as OFFICIAL

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
REST = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)
BOWL_BY_PLATE = "pick_up_the_black_bowl_next_to_the_plate_and_place_it_on_the_plate"
BOWL_ON_STOVE = "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"


@pytest.mark.parametrize(("suite", "limit"), list(zip(SUITES, (220, 280, 300, 520, 400), strict=True)))
def test_the_published_protocol_is_the_default(suite, limit):
    assert step_limit(suite) == limit
    assert official_states(suite) == 50
    assert len(resolve_tasks(suite, default_tasks(suite))) == (90 if suite == "libero_90" else 10)


def test_lerobots_limits_can_be_named():
    assert [step_limit(suite, "lerobot") for suite in SUITES] == [280, 280, 300, 520, 400]
    with pytest.raises(ConfigError, match="published, lerobot"):
        step_limit("libero_goal", "other")


pytest.importorskip("libero")

from rdvla.simulation.cameras import project  # noqa: E402
from rdvla.simulation.libero import environment as libero  # noqa: E402
from rdvla.simulation.libero.problem import task_file  # noqa: E402


def benchmark(suite):
    from libero.libero import benchmark

    with contextlib.redirect_stdout(io.StringIO()):
        return benchmark.get_benchmark(suite)()


def stock_environment(suite, task, **arguments):
    """The benchmark's own environment, and the task's official initial states."""
    from libero.libero.envs.env_wrapper import ControlEnv

    with contextlib.redirect_stdout(io.StringIO()):
        found = benchmark(suite)
        states = found.get_task_init_states(found.get_task_names().index(task))
        return ControlEnv(bddl_file_name=str(task_file(suite, task)), **arguments), states


@pytest.mark.parametrize("suite", SUITES)
def test_the_table_of_tasks_matches_the_installed_benchmark(suite):
    installed = benchmark(suite)
    assert tasks(suite) == installed.get_task_names()
    from rdvla.simulation.registry import task_suite

    assert list(task_suite(suite).instructions.values()) == [task.language for task in installed.tasks]


@pytest.fixture(scope="module")
def env():
    env = make("libero_spatial", BOWL_ON_STOVE, image_size=64)
    yield env
    env.close()


def test_an_observation_is_the_robots_own_state_only(env):
    observation, info = env.reset(seed=3)
    assert set(observation) == {"state"} and observation["state"].shape == (8,) and info == {"success": False}
    for _ in range(5):
        after, *_ = env.step(np.array([1, 0, 0, 0, 0, 0, 1], dtype=np.float32))
    moved = after["state"] - observation["state"]
    assert moved[0] > 0.02 and moved[6] < -0.01  # forward, and the gripper closes


def test_the_same_seed_gives_the_same_episode_whatever_came_before(env):
    def episode(seed):
        observation, _ = env.reset(seed=seed)
        for _ in range(5):
            observation, *_ = env.step(np.array([0.5, -0.5, 0.2, 0.1, 0, 0, 1], dtype=np.float32))
        return np.concatenate([observation["state"], env.environment_state(), env.simulation_data.qpos])

    first, other = episode(11), episode(12)
    np.testing.assert_array_equal(episode(11), first)
    assert np.abs(other - first).max() > 1e-3
    before = np.random.get_state()[1].copy()
    episode(13)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # the caller's numbers stay as they were


def test_things_on_a_fixture_stand_on_it_in_every_layout(env):
    def bowl_from_stove(seed):
        env.reset(seed=seed)
        hand = env.simulation_data.site_xpos[env.problem.robots[0].eef_site_id]
        stove = env.simulation_data.xpos[env.problem.obj_body_id["flat_stove_1"]]
        return env.environment_state()[:3] + hand - stove

    official = bowl_from_stove(OFFICIAL)
    for seed in (1, 2, 3):
        np.testing.assert_allclose(bowl_from_stove(seed), official, atol=0.04)


def test_a_layout_that_throws_something_off_the_table_is_drawn_again():
    """The bowl and the plate of this seed's first layout overlap: the bowl ends on the floor, 0.9 m below."""
    env = make("libero_spatial", BOWL_BY_PLATE, image_size=64)
    env.reset(seed=977604)
    table = min(env.simulation_data.xpos[body][2] for body in env.problem.obj_body_id.values())
    env.close()
    assert table > 0.85


def test_evaluation_seeds_are_the_official_states_and_no_layout_of_a_demonstration_is(env, monkeypatch):
    monkeypatch.setattr(libero, "SETTLING_STEPS", 0)
    installed = benchmark("libero_spatial")
    states = installed.get_task_init_states(tasks("libero_spatial").index(BOWL_ON_STOVE))
    nq = env.simulation_model.nq
    for number in (0, 17, 49):
        env.reset(seed=OFFICIAL + number)
        np.testing.assert_array_equal(env.simulation_data.qpos, states[number, 1 : 1 + nq])
    for seed in range(20):
        env.reset(seed=seed)
        distance = np.abs(env.simulation_data.qpos - states[:, 1 : 1 + nq]).max(axis=1)
        assert distance.min() > 1e-3
    with pytest.raises(ConfigError, match="has 50 official initial states"):
        env.reset(seed=OFFICIAL + 50)


def test_a_past_moment_renders_as_it_did_then(env):
    env.reset(seed=5)
    then, images = env.snapshot(), env.render_cameras()
    for _ in range(5):
        env.step(np.array([1, 1, -1, 0, 0, 0, 1], dtype=np.float32))
    for name, image in env.render_cameras(then).items():
        np.testing.assert_array_equal(image, images[name])
    assert any((env.render_cameras()[name] != images[name]).any() for name in images)


def stove_rim(rendering):
    """Brightness of the stove's plate in the overview image, at points around its edge: (36,)."""
    env = make("libero_goal", "turn_on_the_stove", cameras=["agentview"], image_size=128, rendering=rendering)
    env.reset(seed=OFFICIAL + 7)
    model, data = env.simulation_model, env.simulation_data
    plate = model.geom("flat_stove_1_base_vis").id
    along = np.linspace(-0.9, 0.9, 18)
    rim = [np.stack([along, np.full(18, side), np.ones(18)], axis=1) for side in (-0.9, 0.9)]
    rotation = data.geom_xmat[plate].reshape(3, 3)
    points = np.concatenate(rim) * model.geom_size[plate] @ rotation.T + data.geom_xpos[plate]
    found = project(points, libero.CAMERAS["agentview"], model=model, data=data) * [-1, 1]
    column, row = np.floor((found.T + 1) / 2 * env.image_size).astype(int)
    image = env.render_cameras()["agentview"]
    env.close()
    return image[row, column].mean(axis=1)


def test_the_stoves_white_plate_is_as_bright_with_mirrors():
    """The plate is dark metal that mirrors the wall: without reflections it has 37% of this brightness.

    All that the two renderings compute differently there is multisampling, which mixes a pixel with its
    neighbours: it moves the single pixels that an edge crosses, and not a mean over the rim.
    """
    full, mirrors = stove_rim("full"), stove_rim("mirrors")
    assert full.mean() > 150
    assert abs(mirrors.mean() / full.mean() - 1) < 0.03
    assert (np.abs(mirrors - full) < 10).mean() > 0.9


def test_the_angle_of_a_rotation_is_not_shortened():
    transforms = pytest.importorskip("robosuite.utils.transform_utils")
    for quaternion in np.random.default_rng(0).normal(size=(20, 4)):
        unit = quaternion / np.linalg.norm(quaternion)
        expected = transforms.quat2axisangle(unit[[1, 2, 3, 0]])
        np.testing.assert_allclose(libero.axis_angle(unit), expected, atol=1e-6)
    assert np.linalg.norm(libero.axis_angle(np.array([-0.9, 0.0, 0.0, np.sqrt(1 - 0.81)]))) > np.pi
    np.testing.assert_array_equal(libero.axis_angle(np.array([1.0, 0, 0, 0])), 0)


@pytest.mark.slow
def test_motion_and_images_are_those_of_the_benchmarks_own_environment():
    task = "open_the_top_drawer_and_put_the_bowl_inside"
    env = make("libero_goal", task, image_size=128, rendering="full")
    env.reset(seed=OFFICIAL + 1)
    images = {"camera_heights": 128, "camera_widths": 128}
    stock, states = stock_environment("libero_goal", task, use_camera_obs=False, **images)
    stock.reset()
    # Fixtures are not part of an initial state.
    stock.sim.model.body_pos[:] = env.simulation_model.body_pos
    stock.sim.model.body_quat[:] = env.simulation_model.body_quat
    stock.set_init_state(states[1])
    for _ in range(10):
        stock.step(REST.tolist())
    generator = np.random.default_rng(0)
    for number in range(40):
        action = generator.uniform(-0.4, 0.4, 7).astype(np.float32)
        if number % 3 == 0:
            action[3:6] = 0
        env.step(action)
        stock.step(action.astype(float))
    np.testing.assert_allclose(env.simulation_data.qpos, stock.sim.data.qpos, atol=1e-4)
    np.testing.assert_allclose(env.simulation_data.site_xpos, stock.sim.data.site_xpos, atol=1e-4)
    for name, image in env.render_cameras().items():
        raw = stock.sim.render(width=128, height=128, camera_name=libero.CAMERAS[name])
        rotated = raw[::-1, ::-1].astype(int)  # what published policies are given: turned by 180 degrees
        assert np.abs(image - rotated).mean() < 1.0 < np.abs(image - raw.astype(int)).mean()
    stock.close()
    env.close()


def solves(suite, env, seed):
    env.reset(seed=seed)
    expert = make_expert(suite, env.task)
    return any(env.step(expert.action(env))[-1]["success"] for _ in range(step_limit(suite)))


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_the_expert_solves_a_task_of_each_suite(suite):
    env = make(suite, tasks(suite)[0], image_size=32)
    assert any(solves(suite, env, seed) for seed in (1, 2))
    assert {image.shape for image in env.render_cameras().values()} == {(32, 32, 3)}
    env.close()


def test_without_the_extra_a_message_says_what_to_install(monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "libero"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "libero", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[libero\]'"):
        make("libero_spatial", BOWL_ON_STOVE)


def test_a_library_that_is_missing_is_not_mistaken_for_a_missing_package(monkeypatch):
    def fail(*_, **__):
        raise ImportError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr("builtins.__import__", fail)
    with pytest.raises(RDVLAError, match=r"libGL\.so\.1.*apt-get install libgl1"):
        task_file("libero_spatial", BOWL_ON_STOVE)


def test_a_libero_that_asks_where_its_data_is_gets_no_for_an_answer(tmp_path, monkeypatch):
    package = tmp_path / "libero" / "libero"
    package.mkdir(parents=True)
    (tmp_path / "libero" / "__init__.py").touch()
    ask = 'assert input("elsewhere? (Y/N)") == "n"\n'
    (package / "__init__.py").write_text(ask + "def get_libero_path(name):\n    return name\n")
    for module in [name for name in sys.modules if name.split(".")[0] == "libero"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    assert task_file("libero_spatial", "turn") == Path("bddl_files/libero_spatial/turn.bddl")
    for module in ("libero", "libero.libero"):
        monkeypatch.delitem(sys.modules, module)


def test_a_reset_without_a_seed_draws_a_layout_of_its_own(env):
    env.reset(seed=4)
    env.reset()
    first = env.simulation_data.qpos.copy()
    env.reset()
    assert np.abs(env.simulation_data.qpos - first).max() > 1e-4


@pytest.mark.slow
def test_a_lit_stove_is_lit_in_its_own_moments_only():
    env = make("libero_goal", "turn_on_the_stove", image_size=64)
    env.reset(seed=1)
    cold, image = env.snapshot(), env.render_cameras()["agentview"]
    env.problem.object_states_dict["flat_stove_1"].set_joint(1.0)
    _, _, _, _, info = env.step(REST)
    assert info["success"]
    env.step(REST)
    lit = env.render_cameras()["agentview"]
    np.testing.assert_array_equal(env.render_cameras(cold)["agentview"], image)
    np.testing.assert_array_equal(env.render_cameras(env.snapshot())["agentview"], lit)
    redder = lit[..., 0].astype(int) - image[..., 0] > 30
    assert redder.sum() > 5
    env.close()
