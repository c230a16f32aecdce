import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rdvla.errors import RDVLAError
from rdvla.evaluation import ResultsError, Row, Setting, load_results, print_table, write_report
from rdvla.evaluation.statistics import wilson_interval
from rdvla.evaluation.summaries import sort_rows, suite_summaries, summaries, summarise
from rdvla.evaluation.upgrade import upgrade_entry
from rdvla.policy.records import read_results
from tests.support.results_sample import make_results

PUBLISHED = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    return make_results(folder, videos=0, error=True)


def damaged(results, tmp_path, change):
    content = json.loads((results.folder / "results.json").read_text())
    del content["crc32"]
    change(content)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_is_read_back(results):
    assert load_results(results.folder) == results
    assert load_results(results.folder / "results.json").rows == results.rows


def set_in(place, name, value):
    def change(content):
        content[place][0][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("schema_version"), "names no schema_version"),
        (lambda content: content.update(schema_version=99), "schema_version 99"),
        (lambda content: content.update(rows={}), "'rows' must be a list"),
        (lambda content: content["rows"].insert(0, 3), r"rows\[0\] must be a mapping"),
        (lambda content: content["rows"][1].pop("task"), r"rows\[1\] lacks 'task'"),
        (set_in("rows", "mean_depth", "8"), r"rows\[0\].mean_depth must be float \| None, got '8'"),
        (set_in("rows", "stop", 8), r"rows\[0\].stop must be str, got 8"),
        (set_in("rows", "episodes", True), r"rows\[0\].episodes must be int"),
        (set_in("rows", "successes", 99), "counts 99 successes in"),
        (set_in("rows", "colour", "red"), "unknown entry 'colour'"),
        (set_in("episodes", "depths", [1, "2"]), r"episodes\[0\].depths must be list\[int\]"),
        (set_in("episodes", "error", {"type": "E"}), r"episodes\[0\].error lacks 'message'"),
    ],
)
def test_a_broken_schema_is_named(results, tmp_path, change, message):
    with pytest.raises(ResultsError, match=message):
        load_results(damaged(results, tmp_path, change))


@pytest.mark.parametrize(("before", "after"), [('"seed": 1', '"seed": 2'), ('"errors": 0', '"errors": 1')])
def test_a_file_that_fits_the_schema_and_is_not_what_was_written_is_named(results, tmp_path, before, after):
    path = tmp_path / "results.json"
    text = (results.folder / "results.json").read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    for read in (load_results, read_results):
        with pytest.raises(RDVLAError, match=r"results\.json is damaged or was changed"):
            read(path)
    path.write_text(json.dumps(json.loads(text)))  # laid out in another way
    assert load_results(path) == results


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(RDVLAError, match="does not exist"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(RDVLAError, match="not valid JSON"):
        load_results(tmp_path)


def test_summaries_add_up(results):
    for one in summaries(results.rows):
        assert one.episodes + one.errors == 12
        assert one.success == pytest.approx(sum(row.success for row in one.rows) / 2)
    assert sum(one.errors for one in summaries(results.rows)) == 2


def uneven_row(task, *, env="metaworld", episodes, successes, errors=0, depth=4.0):
    ended = episodes > 0
    return Row(
        env=env,
        task=task,
        policy="p",
        stop="action_change:0.001",
        execution="fixed:8",
        episodes=episodes,
        successes=successes,
        errors=errors,
        success_low=0.0,
        success_high=1.0,
        mean_depth=depth if ended else None,
        mean_executed=8.0 if ended else None,
        mean_steps=96.0 if ended else None,
    )


def test_success_lies_in_its_interval_however_uneven_exceptions_leave_the_tasks():
    rows = [
        uneven_row("push", episodes=1, successes=0, errors=99, depth=10.0),
        uneven_row("reach", episodes=100, successes=100, depth=2.0),
    ]
    (one,) = summaries(rows)
    assert one.success == 100 / 101  # the mean over tasks, 0.5, is far outside the interval
    assert one.success in one.interval
    assert one.interval == wilson_interval(100, 101)
    assert one.mean_depth == pytest.approx((10 + 100 * 2) / 101)
    assert one.errors == 99


def test_what_was_not_played_is_not_left_out_of_a_mean_unseen():
    none = uneven_row("push", episodes=0, successes=0, errors=5)
    played = uneven_row("reach", episodes=4, successes=3)
    (pooled,) = summaries([none, played])  # the task has no episode to pool; its exceptions are counted
    assert (pooled.success, pooled.mean_depth, pooled.errors) == (0.75, 4.0, 5)
    (average,) = summaries([played, dataclasses.replace(none, env="another")])
    assert (average.success, average.mean_depth) == (None, None)
    assert (average.interval.low, average.interval.high) == (0.0, 1.0)


def test_the_table_names_every_setting_and_task(results):
    out = io.StringIO()
    print_table(results, console=Console(file=out, width=160))
    text = out.getvalue()
    for word in ("depth 1", "depth 8", "action change 0.001", "push", "reach", "ms per query", "exceptions"):
        assert word in text


def test_rows_are_shown_in_order_whatever_order_they_were_played_in(tmp_path):
    results = make_results(tmp_path, depths=(12, 1, 4), tasks=("reach", "push"), videos=0, error=True)
    shown = sort_rows(results.rows[::-1])
    assert [row.stop for row in shown[::2]] == ["fixed:1", "fixed:4", "fixed:12", "action_change:0.001"]
    assert [row.task for row in shown[:2]] == ["push", "reach"]
    out = io.StringIO()
    print_table(results, console=Console(file=out, width=160))
    text = out.getvalue()
    heading = next(line for line in text.splitlines() if "depth 12" in line)
    assert heading.index("depth 1 ") < heading.index("depth 4") < heading.index("depth 12")
    assert text.index("push") < text.index("reach")
    assert "2 of 48 episodes ended with an exception" in text


def with_rules(entry):
    """An entry as schemas 1 and 2 had it: rule and depth in place of stop."""
    stop = entry.pop("stop")
    kind, _, depth = stop.partition("@")[0].partition(":")
    start = stop[stop.index("@") :] if "@" in stop else ""
    fixed = kind == "fixed"
    return entry | {"rule": f"fixed{start}" if fixed else stop, "depth": int(depth) if fixed else None}


def third_schema(content):
    """Times were taken during the rollouts, by episode."""
    content["schema_version"] = 3
    for name in ("summary", "rows", "episodes"):
        content[name] = [{**entry, "query_ms": 26.9} for entry in content[name]]
    del content["meta"]["timing"]


def second_schema(content):
    third_schema(content)
    content["schema_version"] = 2
    for name in ("summary", "rows", "episodes"):
        content[name] = [with_rules(entry) for entry in content[name]]
    content["meta"]["config"]["rules"] = ["1", "8"]


def first_schema(content):
    second_schema(content)
    content["schema_version"] = 1
    del content["summary"], content["meta"]["protocol"]
    content["meta"]["config"] |= {"env": "metaworld", "max_steps": 200}
    for episode in content["episodes"]:
        del episode["video_stride"]
    content["episodes"][0]["video"] = "videos/a.mp4"


def test_files_of_the_first_schema_are_read(results, tmp_path):
    old = load_results(damaged(results, tmp_path, first_schema))
    assert old.rows == results.rows
    assert old.step_limits == {"metaworld": 200}
    assert [episode.video_stride for episode in old.episodes[:2]] == [4, None]


def test_times_of_the_third_schema_are_not_shown(results, tmp_path):
    path = damaged(results, tmp_path, third_schema)
    old = load_results(path)
    assert (old.rows, old.episodes, old.query_ms) == (results.rows, results.episodes, {})
    out = io.StringIO()
    print_table(old, console=Console(file=out, width=160))
    page = write_report([path], tmp_path / "report.html").read_text()
    assert "ms per query" not in out.getvalue() + page and "milliseconds" not in page


def test_files_of_the_second_schema_are_read(results, tmp_path):
    old = load_results(damaged(results, tmp_path, second_schema))
    assert (old.rows, old.episodes) == (results.rows, results.episodes)
    assert old.conditions == results.conditions
    assert old.meta["config"].pop("stops") == ["1", "8"]
    assert old.meta == {name: value for name, value in results.meta.items() if name != "timing"}


@pytest.mark.parametrize(
    ("rule", "depth", "stop"),
    [
        ("fixed", 8, "fixed:8"),
        ("fixed@final", 8, "fixed:8@final"),
        ("action_change:0.001", None, "action_change:0.001"),
        ("action_change:0.001@shifted", None, "action_change:0.001@shifted"),
    ],
)
def test_an_old_setting_becomes_its_stop(rule, depth, stop):
    entry = upgrade_entry({"rule": rule, "depth": depth, "execution": "fixed:8"})
    assert entry == {"stop": stop, "execution": "fixed:8"}
    assert Setting.parse(stop, "8") == Setting(stop, "fixed:8")  # it is the canonical text
    assert upgrade_entry(entry) == entry


def test_damage_in_an_old_file_is_named(results, tmp_path):
    def damage(content):
        second_schema(content)
        del content["rows"][1]["rule"]

    with pytest.raises(ResultsError, match=r"rows\[1\] has an unknown entry 'depth'"):
        load_results(damaged(results, tmp_path, damage))


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.json")), ids=lambda path: path.stem)
def test_published_results_are_read(path):
    published = load_results(path)
    played_to_the_end = {episode.env: episode.steps for episode in published.episodes if not episode.success}
    assert published.step_limits.keys() == {episode.env for episode in published.episodes}
    assert played_to_the_end.items() <= published.step_limits.items()  # all succeeded in some file
    assert summarise(published.episodes) == published.rows


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    return make_results(folder, envs=("libero_spatial", "libero_goal"), depths=(1, 8), videos=0)


def test_suites_pool_their_tasks_and_count_alike_in_the_average(suites):
    uneven = [row for row in suites.rows if (row.env, row.task) != ("libero_goal", "push")]
    parts = {(one.setting, one.env): one for one in suite_summaries(uneven)}
    for average in summaries(uneven):
        spatial, goal = (parts[average.setting, env] for env in ("libero_spatial", "libero_goal"))
        assert (len(spatial.rows), len(goal.rows)) == (2, 1)
        assert average.success == pytest.approx((spatial.success + goal.success) / 2)
        assert spatial.interval == wilson_interval(spatial.successes, 12)
        assert average.success in average.interval
        assert average.interval.low >= 0 and average.interval.high <= 1


def test_the_file_holds_the_summary(suites):
    content = json.loads((suites.folder / "results.json").read_text())
    found = {(one["env"], one["stop"]): one for one in content["summary"]}
    assert len(found) == len(content["summary"]) == 3 * 3  # settings x (two environments and their average)
    for one in suite_summaries(suites.rows):
        entry = found[one.env, one.setting.stop]
        assert (entry["success"], entry["tasks"], entry["episodes"]) == (one.success, 2, 12)


def test_the_table_shows_environments(suites):
    out = io.StringIO()
    print_table(suites, console=Console(file=out, width=120))
    for word in ("libero_spatial", "libero_goal", "mean of environments"):
        assert word in out.getvalue()
