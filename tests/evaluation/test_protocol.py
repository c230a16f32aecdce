"""What a configuration comes to in each environment."""

import pytest

from rdvla import simulation
from rdvla.errors import ConfigError
from rdvla.evaluation import EvaluationConfig, resolve_suites

LIBERO = "libero_spatial,libero_object,libero_goal,libero_10,libero_90"


def resolve(**options):
    return resolve_suites(EvaluationConfig(policy="p", output="o", **options))


def test_the_published_libero_protocol_is_the_default():
    suites = resolve(env=LIBERO, episodes=50)
    assert [suite.max_steps for suite in suites] == [220, 280, 300, 520, 400]
    assert [len(suite.tasks) for suite in suites] == [10, 10, 10, 10, 90]


def test_metaworld_plays_mt10_for_200_steps():
    (suite,) = resolve()
    assert (suite.env, suite.max_steps) == ("metaworld", 200)
    assert suite.tasks == tuple(simulation.resolve_tasks("metaworld", ["MT10"]))


def test_limits_are_chosen_by_name_or_number():
    assert resolve(env=LIBERO, step_limits="lerobot")[0].max_steps == 280
    assert resolve(step_limits="published")[0].max_steps == 500
    assert {suite.max_steps for suite in resolve(env=LIBERO, max_steps=77)} == {77}
    with pytest.raises(ConfigError, match="short"):
        resolve(env=LIBERO, step_limits="short")


def test_tasks_belong_to_the_environments_that_know_them():
    spatial = simulation.tasks("libero_spatial")[3]
    suites = resolve(env="libero_spatial,libero_object,metaworld", tasks=(spatial, "all", "reach-v3"))
    by_env = {suite.env: suite.tasks for suite in suites}
    assert by_env["libero_spatial"][0] == spatial and len(by_env["libero_spatial"]) == 10
    assert len(by_env["libero_object"]) == 10
    assert by_env["metaworld"] == ("reach-v3",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env": "libero_spatal"}, "Did you mean 'libero_spatial'"),
        ({"tasks": ("reach-v4",)}, "metaworld has no task or task set 'reach-v4'. Did you mean 'reach-v3'"),
        ({"env": "metaworld,libero_goal", "tasks": ("reach-v4",)}, "none of metaworld, libero_goal has"),
        ({"env": "metaworld,libero_goal", "tasks": ("reach-v3",)}, "no task of libero_goal is named"),
        ({"env": "libero_goal", "episodes": 51}, "50 official initial states"),
        ({"env": "libero_goal", "episodes": 11, "seed": 1_000_040}, "choose fewer episodes"),
    ],
)
def test_what_cannot_be_played_is_refused_beforehand(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve(**options)


def test_the_last_official_state_can_be_played():
    assert resolve(env="libero_goal", episodes=10, seed=1_000_040)
    assert resolve(episodes=500)
