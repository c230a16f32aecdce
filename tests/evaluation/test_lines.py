"""Which results files are one line of a report, whatever their labels say."""

import dataclasses

import pytest

from rdvla.evaluation import ResultsError, write_report
from rdvla.evaluation.lines import Source, load_lines
from rdvla.evaluation.summaries import summaries
from tests.support.results_sample import make_results

OPTIONS = {"depths": (1, 8), "adaptive": False, "videos": 0, "episodes": 3}


def make(folder, **options):
    return str(make_results(folder, **{**OPTIONS, "policy": "policy", **options}).folder)


def labels(*sources):
    return [each.labels for each in load_lines(sources)]


def summed_up(*sources):
    rows = [row for each in load_lines(sources) for row in each.rows]
    return {(one.policy, one.setting.depth): one.successes for one in summaries(rows)}


def successes(path):
    return {depth: count for (_, depth), count in summed_up(path).items()}


def test_two_policies_of_one_label_are_two_lines(tmp_path):
    first, second = (
        make(tmp_path / "a", fingerprint="aa"),
        make(tmp_path / "b", fingerprint="bb", seed=9, level=0.2),
    )
    assert labels(first, second) == [["policy (a)"], ["policy (b)"]]
    wanted = {("policy (a)", depth): count for depth, count in successes(first).items()}
    wanted |= {("policy (b)", depth): count for depth, count in successes(second).items()}
    assert summed_up(first, second) == wanted
    page = write_report([first, second], tmp_path / "report.html").read_text()
    assert "policy (a)" in page and "policy (b)" in page


def test_the_same_weights_evaluated_again_are_a_line_of_their_own(tmp_path):
    first, again = make(tmp_path / "a", fingerprint="aa"), make(tmp_path / "b", fingerprint="aa", seed=4)
    assert labels(first, again) == [["policy (a)"], ["policy (b)"]]
    assert labels(first, first) == [["policy (a)"], ["policy (a) 2"]]


def test_other_episodes_of_the_same_weights_add_to_their_line_whatever_its_label(tmp_path):
    goal = make(tmp_path / "a", fingerprint="aa", envs=("libero_goal",))
    spatial = make(tmp_path / "b", fingerprint="aa", envs=("libero_spatial",), policy="another")
    assert labels(goal, spatial) == [["policy"], ["policy"]]
    rival = make(tmp_path / "c", fingerprint="cc", envs=("libero_object",))
    assert labels(goal, spatial, rival) == [["policy (a)"], ["policy (a)"], ["policy (c)"]]


def test_the_same_weights_under_other_conditions_are_not_mixed(tmp_path):
    push = make(tmp_path / "a", fingerprint="aa", tasks=("push",))
    results = make_results(tmp_path / "b", **OPTIONS, policy="policy", fingerprint="aa", tasks=("reach",))
    protocol = {"metaworld": {"tasks": ["reach"], "max_steps": 500}}
    dataclasses.replace(results, meta={**results.meta, "protocol": protocol}).write(
        tmp_path / "b" / "results.json"
    )
    assert labels(push, tmp_path / "b") == [["policy (a)"], ["policy (b)"]]


def test_the_same_weights_in_other_units_are_not_mixed(tmp_path):
    for name, seed, preparation in (("a", 0, "x"), ("b", 1, "y")):
        results = make_results(
            tmp_path / name, policy="p", fingerprint="aa", envs=(name,), seed=seed, **OPTIONS
        )
        own = {**results.meta["policy"], "preparation": preparation}
        dataclasses.replace(results, meta={**results.meta, "policy": own}).write(
            tmp_path / name / "results.json"
        )
    make_results(tmp_path / "c", policy="p", fingerprint="aa", envs=("c",), **OPTIONS)
    both = [str(tmp_path / name) for name in "ab"]
    assert labels(*both) == [["p (a)"], ["p (b)"]]
    assert labels(both[0], str(tmp_path / "c")) == [["p"], ["p"]]  # an older file does not say


def test_files_without_a_fingerprint_are_not_taken_for_the_same_policy(tmp_path):
    paths = []
    for name, task in (("a", "push"), ("b", "reach")):
        results = make_results(tmp_path / name, **OPTIONS, policy="policy", tasks=(task,))
        meta = {key: value for key, value in results.meta.items() if key != "policy"}
        paths.append(tmp_path / name / f"{name}.json")
        dataclasses.replace(results, meta=meta).write(paths[-1])
    assert labels(*paths) == [["policy (a)"], ["policy (b)"]]


def test_names_are_given_on_the_command_line(tmp_path):
    first, second = (
        make(tmp_path / "a", fingerprint="aa"),
        make(tmp_path / "b", fingerprint="bb", envs=("other",)),
    )
    assert labels(f"deep={first}", f"flat={second}") == [["deep"], ["flat"]]
    assert labels(f"both={first},{second}") == [["both"], ["both"]]
    assert labels(f"{first},{second}") == [["policy"], ["policy"]]
    assert labels(f"same={first}", f"same={second}") == [["same (a)"], ["same (b)"]]
    with pytest.raises(
        ResultsError, match=r"both hold push of metaworld at depth 1: they cannot be one line"
    ):
        load_lines([f"twice={first},{first}"])
    for text in ("=a", "name=", "a,,b"):
        with pytest.raises(ResultsError, match="name one or several runs"):
            Source.parse(text)


def test_a_path_that_exists_wins_over_a_name(tmp_path):
    odd = make(tmp_path / "lr=0.1,b")
    assert Source.parse(odd).name is None
    assert Source.parse(f"mine={odd}") == Source("mine", (tmp_path / "lr=0.1,b",))
