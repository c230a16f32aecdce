"""Two evaluations on the episodes that both played."""

import dataclasses
import json

import pytest

from rdvla.cli import main
from rdvla.evaluation import ResultsError, Setting, compare_runs
from rdvla.evaluation.aggregate import summarise
from rdvla.evaluation.statistics import mcnemar_exact, newcombe_interval
from tests.evaluation.sample import make_results

ENVS = ("libero_spatial", "libero_goal")
ONE = Setting("fixed", 1, "fixed:8")
EIGHT = Setting("fixed", 8, "fixed:8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = {"envs": ENVS, "depths": (1, 8), "videos": 0, "episodes": 12}
    first = make_results(folder / "a", **options)
    return first, make_results(folder / "b", policy="rival", level=0.6, seed=5, **options)


def with_episodes(results, change):
    episodes = [changed for one in results.episodes if (changed := change(one)) is not None]
    return dataclasses.replace(results, episodes=episodes, rows=summarise(episodes))


def wins(first, second, env, setting):
    by_key = [
        {
            (one.task, one.seed): one.success
            for one in run.episodes
            if (one.env, one.setting) == (env, setting)
        }
        for run in (first, second)
    ]
    return [sum(by_key[a][key] and not by_key[b][key] for key in by_key[0]) for a, b in ((0, 1), (1, 0))]


def test_every_shared_setting_is_compared_in_every_environment(runs):
    compared = compare_runs(*runs)
    assert [one.first.setting.describe() for one in compared] == ["depth 1", "depth 8", "action_change:0.001"]
    for one in compared:
        assert one.first.setting == one.second.setting
        assert list(one.suites) == list(ENVS)
        for env, test in one.suites.items():
            only_first, only_second = wins(*runs, env, one.first.setting)
            assert (test.pairs, test.only_first, test.only_second) == (24, only_first, only_second)
            assert test.p_value == mcnemar_exact(only_first, only_second)
            assert test.difference == pytest.approx((only_first - only_second) / 24)
        assert one.total.pairs == 48
        halves = [test.difference for test in one.suites.values()]
        assert one.total.difference == pytest.approx(sum(halves) / 2)
        assert (one.first.unpaired, one.first.errors) == (0, 0)


def test_two_settings_of_one_evaluation(runs):
    (one,) = compare_runs(runs[0], runs[0], first_setting=EIGHT, second_setting=ONE)
    assert one.total.difference > 0
    (itself,) = compare_runs(runs[0], runs[0], first_setting=EIGHT)
    assert itself.total.difference == 0
    successes = round(24 * itself.suites[ENVS[0]].first_success)
    wanted = newcombe_interval(both=successes, only_first=0, only_second=0, neither=24 - successes)
    assert itself.suites[ENVS[0]].interval == wanted


def test_episodes_without_a_partner_are_counted(runs):
    first, second = runs
    part = with_episodes(second, lambda one: one if one.env == ENVS[0] and one.seed < 1_000_008 else None)
    one = compare_runs(first, part)[0]
    assert (one.total.pairs, one.first.unpaired, one.second.unpaired) == (16, 32, 0)
    assert list(one.suites) == [ENVS[0]]


def test_exceptions_are_left_out(tmp_path, runs):
    broken = make_results(tmp_path, envs=ENVS, depths=(1, 8), videos=0, episodes=12, error=True)
    one = compare_runs(broken, runs[1], first_setting=ONE)[0]
    assert (one.first.errors, one.total.pairs, one.second.unpaired) == (4, 44, 4)


def test_what_cannot_be_compared_is_refused(runs):
    first, second = runs
    elsewhere = with_episodes(second, lambda one: dataclasses.replace(one, seed=one.seed + 100))
    with pytest.raises(ResultsError, match=r"share no episode.*1000000 to 1000011.*1000100 to 1000111"):
        compare_runs(first, elsewhere)
    with pytest.raises(ResultsError, match="share no setting: the first has 1/fixed:8, the second 8/fixed:8"):
        compare_runs(
            with_episodes(first, lambda one: one if one.depth == 1 else None),
            with_episodes(first, lambda one: one if one.depth == 8 else None),
        )
    with pytest.raises(ResultsError, match="the second evaluation has no setting 12/fixed:8"):
        compare_runs(first, second, first_setting=EIGHT, second_setting=Setting("fixed", 12, "fixed:8"))
    protocol = {env: {**one, "max_steps": 280} for env, one in second.meta["protocol"].items()}
    longer = dataclasses.replace(second, meta={**second.meta, "protocol": protocol})
    with pytest.raises(ResultsError, match="after 96 steps, the second after 280"):
        compare_runs(first, longer)


def test_the_command_prints_a_table_and_json(runs, capsys):
    folders = [str(run.folder) for run in runs]
    assert main(["compare", *folders]) == 0
    shown = capsys.readouterr().out
    for word in ("recurrent, depth 1", "rival, action_change:0.001", *ENVS, "equal weight"):
        assert word in shown
    assert main(["compare", *folders, "--a-setting", "action_change:1e-3", "--b-setting", "8", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    (wanted,) = compare_runs(
        *runs, first_setting=Setting("action_change:0.001", None, "fixed:8"), second_setting=EIGHT
    )
    assert one == json.loads(json.dumps(wanted.to_dict()))
    assert one["second"]["setting"]["depth"] == 8


def test_an_unknown_setting_is_one_line(runs, capsys):
    folder = str(runs[0].folder)
    assert main(["compare", folder, folder, "--a-setting", "12"]) == 2
    assert "0 settings are called '12'; name one of: 1/fixed:8" in capsys.readouterr().err
