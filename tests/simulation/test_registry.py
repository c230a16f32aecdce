"""Finding simulators and tasks by name; needs no simulator."""

import subprocess
import sys

import pytest

pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env
from rich.console import Console

from rdvla.errors import ConfigError, MissingExtraError
from rdvla.evaluation import EvaluationConfig, evaluate_policy, load_results
from rdvla.evaluation.protocol import resolve_suites
from rdvla.rollout import Decision, run_episode
from rdvla.simulation import (
    default_tasks,
    make,
    make_expert,
    official_states,
    resolve_tasks,
    step_limit,
    tasks,
)
from rdvla.simulation.metaworld.tasks import INSTRUCTIONS, SUITE
from rdvla.simulation.registry import FIRST_EVALUATION_SEED, evaluation_seed
from tests.support.tiny_training import tiny_policy
from tests.support.toy_simulator import make_toy


def test_fifty_tasks_each_with_an_instruction_of_its_own():
    assert len(tasks("metaworld")) == 50
    assert len(set(INSTRUCTIONS.values())) == 50
    for text in INSTRUCTIONS.values():
        assert text == text.strip().lower().rstrip(".") and len(text.split()) >= 3


def test_sets_and_tasks_mix_without_repetition_in_order():
    resolved = resolve_tasks("metaworld", ["push-v3", "MT10", "hammer-v3"])
    assert resolved[0] == "push-v3" and resolved[-1] == "hammer-v3"
    assert len(resolved) == 11
    assert set(resolved) == {*SUITE.sets["MT10"], "hammer-v3"}
    assert resolve_tasks("metaworld", "MT50") == tasks("metaworld")


def test_task_table_matches_the_installed_benchmark():
    benchmark = pytest.importorskip("metaworld.env_dict")
    assert set(tasks("metaworld")) == set(benchmark.ALL_V3_ENVIRONMENTS)
    assert SUITE.sets["MT10"] == tuple(benchmark.MT10_V3)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: make("metawrld", "push-v3"), "Did you mean 'metaworld'"),
        (lambda: make("metaworld", "push-v2"), "Did you mean 'push-v3'"),
        (lambda: make("metaworld", "MT10"), "no task 'MT10'"),
        (lambda: make_expert("metaworld", "dor-open-v3"), "Did you mean 'door-open-v3'"),
        (lambda: resolve_tasks("metaworld", ["MT1O"]), "Did you mean 'MT10'"),
        (lambda: resolve_tasks("metaworld", []), "no task is named"),
    ],
)
def test_wrong_names_are_answered_with_the_nearest_right_one(call, expected):
    with pytest.raises(ConfigError, match=expected):
        call()


@pytest.mark.parametrize("build", [make, make_expert])
def test_a_missing_simulator_is_named_with_its_extra(build, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "metaworld"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '\.\[metaworld\]'"):
        build("metaworld", "push-v3")


def test_importing_the_package_imports_no_simulator():
    check = "assert not {'mujoco', 'metaworld', 'libero', 'robosuite'} & set(sys.modules)"
    code = f"import sys, rdvla.simulation as s; s.tasks('metaworld'); s.tasks('libero_90'); {check}"
    subprocess.run([sys.executable, "-c", code], check=True)


class Demonstrator:
    """Acts as an expert does."""

    def __init__(self, expert):
        self.expert = expert

    def act(self, now):
        return Decision(self.expert.action(now.environment)[None])


def test_a_new_simulator_is_an_entry_of_the_table():
    assert tasks("toy") == ["left", "right"] == resolve_tasks("toy", default_tasks("toy"))
    assert step_limit("toy") == 12 and official_states("toy") is None
    env = make("toy", "left", image_size=32)
    check_env(env, skip_render_check=True)
    end = run_episode(env, Demonstrator(make_expert("toy", "left")), seed=0, max_steps=12)
    assert end.success and end.steps < 12


def test_a_new_simulator_is_evaluated_in_worker_processes(tmp_path):
    config = EvaluationConfig(
        policy="walker", output=str(tmp_path), env="toy", stops=("1", "2"), execution=("fixed:4",),
        episodes=2, videos=0, max_steps=3,
    )  # fmt: skip
    results = load_results(
        evaluate_policy(
            tiny_policy(), config, suites=resolve_suites(config), make=make_toy, provenance={},
            fingerprint="abc", console=Console(quiet=True),
        )
    )  # fmt: skip
    assert [(row.task, row.episodes, row.errors) for row in results.rows] == [
        ("left", 2, 0),
        ("right", 2, 0),
    ] * 2
    assert all(episode.executed == [3] for episode in results.episodes)


def test_evaluation_seeds_start_where_demonstration_seeds_end():
    assert evaluation_seed(0) == FIRST_EVALUATION_SEED
    assert evaluation_seed(24, offset=100) == FIRST_EVALUATION_SEED + 124
    with pytest.raises(ConfigError):
        evaluation_seed(-1)
