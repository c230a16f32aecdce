"""Experts in the simulator: one task of each kind of motion, and what the interface promises."""

import numpy as np
import pytest

from rdvla.simulation import make, make_expert
from rdvla.simulation.demonstrations.recording import ActionNoise, NoiseConfig

pytest.importorskip("libero")

LIMIT = 600
KINDS = {
    "pick and place": ("libero_spatial", "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"),
    "basket": ("libero_object", "pick_up_the_butter_and_place_it_in_the_basket"),
    "drawer": ("libero_goal", "open_the_middle_drawer_of_the_cabinet"),
    "drawer and bowl": ("libero_goal", "open_the_top_drawer_and_put_the_bowl_inside"),
    "push": ("libero_goal", "push_the_plate_to_the_front_of_the_stove"),
    "knob": ("libero_goal", "turn_on_the_stove"),
    "microwave": (
        "libero_10",
        "KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
    ),
    "open a door": ("libero_90", "KITCHEN_SCENE7_open_the_microwave"),
}


def solve(env, expert, *, noise, limit=LIMIT):
    """Return the step of the first success, None without one."""
    disturbance = ActionNoise(noise, env.noise_scale, np.random.default_rng(0))
    for step in range(limit):
        if env.step(disturbance.disturb(expert.action(env)))[-1]["success"]:
            return step
    return None


@pytest.fixture(scope="module")
def drawer():
    env = make(*KINDS["drawer"], max_steps=LIMIT)
    yield env
    env.close()


def test_an_expert_solves_its_task_by_ordinary_actions(drawer):
    drawer.reset(seed=0)
    expert = make_expert("libero_goal", drawer.task)
    assert solve(drawer, expert, noise=NoiseConfig((0.0,), 0.0)) is not None
    action = expert.action(drawer)
    assert action.shape == (7,) and action.dtype == np.float32 and (np.abs(action) <= 1).all()


def test_the_same_seeds_give_the_same_actions(drawer):
    runs = []
    for _ in range(2):
        drawer.reset(seed=3)
        expert = make_expert("libero_goal", drawer.task, seed=1)
        actions = []
        for _ in range(40):
            actions.append(expert.action(drawer))
            drawer.step(actions[-1])
        runs.append(np.array(actions))
    np.testing.assert_array_equal(*runs)


def test_an_expert_rests_when_the_goal_is_reached(drawer):
    drawer.reset(seed=1)
    expert = make_expert("libero_goal", drawer.task)
    assert solve(drawer, expert, noise=NoiseConfig((0.0,), 0.0)) is not None
    for _ in range(60):
        drawer.step(expert.action(drawer))
    np.testing.assert_array_equal(expert.action(drawer)[:6], 0)


def test_the_seed_moves_the_start_only_where_that_is_asked_for(drawer):
    from rdvla.simulation.libero.expert import LiberoExpert

    def first(seed, offset):
        drawer.reset(seed=0)
        return LiberoExpert(drawer.task, seed=seed, start_offset=offset).action(drawer)

    np.testing.assert_array_equal(first(0, 0.0), first(1, 0.0))
    assert not np.array_equal(first(0, 0.03), first(1, 0.03))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_is_solved_under_noise_and_bursts(kind):
    """In two of three layouts: about one attempt in twenty fails, and contacts differ between processors."""
    env = make(*KINDS[kind], max_steps=LIMIT)
    solved = []
    for seed in (11, 12, 13):
        if sum(solved) == 2:
            break
        env.reset(seed=seed)
        expert = make_expert(KINDS[kind][0], env.task)
        solved.append(solve(env, expert, noise=NoiseConfig((0.1,), 0.01)) is not None)
    env.close()
    assert sum(solved) == 2
