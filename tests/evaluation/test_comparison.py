"""Two evaluations on the episodes that both played."""

import dataclasses
import json

import pytest

from rdvla.cli import main
from rdvla.evaluation import ResultsError, Setting, combine, compare_runs
from rdvla.evaluation.statistics import mcnemar_exact, newcombe_interval
from rdvla.evaluation.summaries import summarise
from tests.support.results_sample import make_results

ENVS = ("libero_spatial", "libero_goal")
ONE = Setting("fixed:1", "fixed:8")
EIGHT = Setting("fixed:8", "fixed:8")


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
    found = compare_runs(*runs)
    compared = found.pairs
    assert found.left_out == []
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
    (one,) = compare_runs(runs[0], runs[0], first_setting=EIGHT, second_setting=ONE).pairs
    assert one.total.difference > 0
    (itself,) = compare_runs(runs[0], runs[0], first_setting=EIGHT).pairs
    assert itself.total.difference == 0
    successes = round(24 * itself.suites[ENVS[0]].first_success)
    wanted = newcombe_interval(both=successes, only_first=0, only_second=0, neither=24 - successes)
    assert itself.suites[ENVS[0]].interval == wanted


def test_episodes_without_a_partner_are_counted(runs):
    first, second = runs
    part = with_episodes(second, lambda one: one if one.env == ENVS[0] and one.seed < 1_000_008 else None)
    one = compare_runs(first, part).pairs[0]
    assert (one.total.pairs, one.first.unpaired, one.second.unpaired) == (16, 32, 0)
    assert list(one.suites) == [ENVS[0]]


def test_exceptions_are_left_out(tmp_path, runs):
    broken = make_results(tmp_path, envs=ENVS, depths=(1, 8), videos=0, episodes=12, error=True)
    one = compare_runs(broken, runs[1], first_setting=ONE).pairs[0]
    assert (one.first.errors, one.total.pairs, one.second.unpaired) == (4, 44, 4)


def test_what_cannot_be_compared_is_refused(runs):
    first, second = runs
    elsewhere = with_episodes(second, lambda one: dataclasses.replace(one, seed=one.seed + 100))
    with pytest.raises(ResultsError, match=r"share no episode.*1000000 to 1000011.*1000100 to 1000111"):
        compare_runs(first, elsewhere)
    with pytest.raises(ResultsError, match="share no setting: the first has 1/fixed:8, the second 8/fixed:8"):
        compare_runs(
            with_episodes(first, lambda one: one if one.setting.depth == 1 else None),
            with_episodes(first, lambda one: one if one.setting.depth == 8 else None),
        )
    with pytest.raises(ResultsError, match="the second evaluation has no setting 12/fixed:8"):
        compare_runs(first, second, first_setting=EIGHT, second_setting=Setting("fixed:12", "fixed:8"))
    twice = dataclasses.replace(first, episodes=[*first.episodes, *second.episodes])
    with pytest.raises(ResultsError, match="push of libero_spatial with seed 1000000 2 times at depth 1"):
        compare_runs(twice, second, first_setting=ONE)


def under(results, *, rendering=None, **protocol):
    """The same results, played under another protocol."""
    meta = {**results.meta, "config": {**results.meta["config"]}}
    if rendering is not None:
        meta["config"]["rendering"] = rendering
    meta["protocol"] = {env: {**one, **protocol} for env, one in meta["protocol"].items()}
    return dataclasses.replace(results, meta=meta)


@pytest.mark.parametrize("setting", [None, ONE])
def test_other_conditions_are_refused(runs, setting):
    first, second = runs
    for changed, message in (
        (under(second, max_steps=280), r"max_steps 96 in libero_\w+, the other 280.*same max_steps"),
        (under(second, rendering="full"), "rendering 'fast' in libero_.*, the other 'full'"),
    ):
        with pytest.raises(ResultsError, match=message):
            compare_runs(first, changed, first_setting=setting)
    ours, theirs = under(first, settling_steps=10), under(second, settling_steps=0)
    with pytest.raises(ResultsError, match="settling_steps 10 in"):
        compare_runs(ours, theirs)
    # what a file does not say is no difference, and an absent rendering is the only one there was
    wanted = compare_runs(first, second)
    assert compare_runs(ours, under(second, rendering="fast", tasks=["push"])) == wanted


def test_settings_without_a_shared_episode_are_named(runs, tmp_path, capsys):
    first, second = runs
    moved = with_episodes(
        second,
        lambda one: (
            dataclasses.replace(one, seed=one.seed + 100)
            if one.setting.depth == 8
            else one
            if one.setting.depth
            else None
        ),
    )
    found = compare_runs(first, moved)
    assert [one.first.setting for one in found.pairs] == [ONE]
    assert found.left_out == [EIGHT, Setting("action_change:0.001", "fixed:8")]
    moved.write(tmp_path / "results.json")
    assert main(["compare", str(first.folder), str(tmp_path)]) == 0
    assert "by both: 8/fixed:8, action_change:0.001/fixed:8." in capsys.readouterr().out


def split(results, folder):
    """The same results as one run directory for each environment."""
    folders = []
    for env in ENVS:
        part = with_episodes(results, lambda one, env=env: one if one.env == env else None)
        meta = {**part.meta, "protocol": {env: part.meta["protocol"][env]}}
        folders.append(folder / env)
        dataclasses.replace(part, meta=meta).write(folders[-1] / "results.json")
    return ",".join(map(str, folders))


def test_a_side_may_be_several_runs(runs, tmp_path, capsys):
    parts = [split(run, tmp_path / name) for name, run in zip("ab", runs, strict=True)]
    assert main(["compare", *parts, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(compare_runs(*runs).to_dict()))
    assert main(["compare", parts[0], f"{runs[1].folder}", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 3
    one = parts[0].split(",")[0]
    for named, message in (
        (f"{one},{one}", "both hold push of libero_spatial at depth 1: leave one of them out"),
        (f"{one},", "name one or several runs"),
        (f"={one}", "name one or several runs"),
        (f"{one},{tmp_path / 'none'}", "does not exist"),
    ):
        assert main(["compare", named, parts[1]]) == 2
        assert message in capsys.readouterr().err


def test_a_side_is_what_is_named_together_whatever_the_labels(runs, tmp_path, capsys):
    ours, theirs = (split(run, tmp_path / name).split(",") for name, run in zip("ab", runs, strict=True))
    assert main(["compare", f"mixed={ours[0]},{theirs[1]}", f"{runs[0].folder}", "--json"]) == 0
    for pair in json.loads(capsys.readouterr().out)["pairs"]:
        assert (pair["first"]["policy"], pair["second"]["policy"]) == ("mixed", "recurrent")
        assert pair["suites"][ENVS[0]]["difference"] == 0  # the same episodes
    assert main(["compare", f"{ours[0]},{theirs[1]}", str(runs[0].folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["first"]["policy"] == "recurrent + rival"


def test_two_policies_of_one_label_are_compared(tmp_path):
    first, second = (
        make_results(tmp_path / name, policy="policy", videos=0, depths=(1,), seed=seed, fingerprint=name)
        for seed, name in enumerate(("aa", "bb"))
    )
    assert compare_runs(first, second).pairs[0].total.pairs == 12


def test_parts_must_have_been_played_alike(runs):
    half, rest = (
        with_episodes(runs[0], lambda one, task=task: one if one.task == task else None)
        for task in ("push", "reach")
    )
    assert combine([half, rest]).conditions == runs[0].conditions
    assert len(combine([half, rest]).episodes) == len(runs[0].episodes)
    with pytest.raises(ResultsError, match="rendering 'fast' in libero_"):
        combine([half, under(rest, rendering="full")])
    with pytest.raises(ResultsError, match="the other 'full'"):
        compare_runs(combine([half, rest]), under(runs[1], rendering="full"))


def test_no_pooled_p_where_environments_differ_in_pairs(runs, capsys, tmp_path):
    first, second = runs
    part = with_episodes(second, lambda one: one if one.env == ENVS[0] or one.seed < 1_000_004 else None)
    for one in compare_runs(first, part).pairs:
        assert one.total.p_value is None
        assert all(test.p_value is not None for test in one.suites.values())
    part.write(tmp_path / "results.json")
    assert main(["compare", str(first.folder), str(tmp_path)]) == 0
    assert "No p in all" in capsys.readouterr().out


def test_the_command_prints_a_table_and_json(runs, capsys):
    folders = [str(run.folder) for run in runs]
    assert main(["compare", *folders]) == 0
    shown = capsys.readouterr().out
    for word in ("recurrent, depth 1", "rival, action_change:0.001", *ENVS, "equal weight"):
        assert word in shown
    assert main(["compare", *folders, "--a-setting", "action_change:1e-3", "--b-setting", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = compare_runs(
        *runs, first_setting=Setting("action_change:0.001", "fixed:8"), second_setting=EIGHT
    )
    assert found == json.loads(json.dumps(wanted.to_dict()))
    assert found["pairs"][0]["second"]["setting"]["stop"] == "fixed:8"


def test_an_unknown_setting_is_one_line(runs, capsys):
    folder = str(runs[0].folder)
    assert main(["compare", folder, folder, "--a-setting", "12"]) == 2
    assert "0 settings are called '12'; name one of: 1/fixed:8" in capsys.readouterr().err
