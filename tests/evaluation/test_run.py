"""Whole rollouts in worker processes, with a line to walk in place of a simulator."""

import dataclasses
import functools
import io
import itertools
import json

import pytest
import torch
from rich.console import Console

from rdvla.errors import ConfigError, RDVLAError
from rdvla.evaluation import EvaluationConfig, Suite, evaluate_policy, load_results
from rdvla.evaluation.provenance import describe_policy
from rdvla.policy import RDVLAPolicy
from rdvla.rollout import starting_seed
from tests.support.closeness import assert_no_close_calls
from tests.support.line_task import (
    TASKS,
    make_closed,
    make_dying,
    make_line,
    make_logging,
    make_mortal,
    make_raising,
)
from tests.support.rollout_doubles import StepPolicy
from tests.support.tiny_training import tiny_policy

SEED = 1_000_000


def run(tmp_path, policy, *, make=make_line, fingerprint="abc", known=None, **changes):
    options = {
        "policy": "runs/walker",
        "output": str(tmp_path / "run"),
        "tasks": tuple(TASKS),
        "episodes": 2,
        "stops": ("1", "4", "action_change:1e-3"),
        "execution": ("fixed:8",),
        "max_steps": 30,
        "videos": 0,
        "timing_seconds": 0,
    }
    config = EvaluationConfig(**{**options, **changes})
    suites = [Suite(env=env, tasks=config.tasks, max_steps=config.max_steps) for env in config.envs]
    path = evaluate_policy(
        policy,
        config,
        suites=suites,
        make=make,
        provenance={"path": "walker", **(known or {})},
        fingerprint=fingerprint,
        console=Console(file=io.StringIO()),
    )
    return load_results(path)


def test_a_depth_sweep_counts_successes_and_depths(tmp_path):
    results = run(tmp_path, StepPolicy(), videos=1)
    rows = {(row.task, row.stop): row for row in results.rows}
    assert len(rows) == 6
    assert rows["far", "fixed:1"].successes == 0  # 30 steps of 0.1 are too few
    assert rows["far", "fixed:4"].successes == 2
    adaptive = rows["near", "action_change:0.001"]
    assert (adaptive.mean_depth, adaptive.successes, adaptive.policy) == (3.0, 2, "walker")
    for episode in results.episodes:
        assert sum(episode.executed) == episode.steps <= 30
        assert len(episode.executed) == len(episode.depths)
        assert all(count == 8 for count in episode.executed[:-1])
        assert (episode.video is not None) == (episode.seed == SEED)
        assert (episode.video_stride, episode.video_speed) == ((2, 0.5) if episode.video else (None, None))
        assert episode.video is None or (results.folder / episode.video).stat().st_size > 0
    seeds = {}
    for episode in results.episodes:
        seeds.setdefault((episode.task, episode.setting), []).append(episode.seed)
    assert all(sorted(one) == [SEED, SEED + 1] for one in seeds.values())


def test_settings_and_worker_counts_share_their_starting_states(tmp_path):
    few, many = StepPolicy(), StepPolicy()
    run(tmp_path / "few", few, workers=1, stops=("1", "2"))
    run(tmp_path / "many", many, workers=3, stops=("1",))

    def states(policy):
        return {tuple(state.flatten().tolist()) for _, batch in policy.queries for state in batch}

    assert states(many) <= states(few)
    assert len(states(few)) == len(states(many))  # depth 2 met the S_0 that depth 1 had met


def test_a_warm_start_begins_where_the_query_before_ended(tmp_path):
    policy = StepPolicy()
    stops = ("1", "1@final", "1@shifted")
    results = run(
        tmp_path, policy, workers=1, stops=stops, execution=("fixed:1",), tasks=("far",), episodes=1
    )
    assert [row.setting.describe() for row in results.rows] == ["depth 1", "depth 1@final", "depth 1@shifted"]
    queries = [states for _, states in policy.queries]
    count = len(queries) // 3
    noise, final, shifted = (torch.cat(queries[i * count : (i + 1) * count]) for i in range(3))
    assert len(set(noise[:, 0, 0].tolist())) == count
    assert all(torch.equal(state, noise[0]) for state in final)  # this policy ends where it starts
    assert torch.equal(shifted[0], noise[0])
    assert torch.equal(shifted[1:, 0], shifted[:-1, 1])  # one of two actions was executed
    assert torch.equal(shifted[1:, 1], noise[1:, 1])  # beyond the chunk's end


def test_starting_seeds_differ_by_task_seed_and_query():
    seeds = {starting_seed(task, seed, query) for task in TASKS for seed in range(20) for query in range(20)}
    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_exception_is_neither_success_nor_failure(tmp_path):
    results = run(tmp_path, StepPolicy(), make=make_raising, stops=("4",), episodes=4)
    for row in results.rows:
        assert (row.episodes, row.successes, row.errors) == (2, 2, 2)
    broken = [episode for episode in results.episodes if episode.error is not None]
    assert {episode.seed % 2 for episode in broken} == {1}
    assert broken[0].error.type == "ArithmeticError"
    assert "no physics for seed" in broken[0].error.message
    assert "line_task.py" in broken[0].error.traceback
    assert all(episode.success is None for episode in broken)


def test_a_dead_worker_is_named_and_replaced(tmp_path):
    results = run(tmp_path, StepPolicy(), make=make_dying, stops=("4",), tasks=("near",), episodes=4)
    (row,) = results.rows
    assert (row.episodes, row.successes, row.errors) == (2, 2, 2)
    error = next(episode.error for episode in results.episodes if episode.error is not None)
    assert error.type == "WorkerDied"
    assert "exit code 9 while playing near with seed 1000001" in error.message


def test_an_evaluation_in_which_everything_raised_fails_after_writing_its_results(tmp_path):
    with pytest.raises(RDVLAError, match=r"every episode.*\(1 in all\).*ArithmeticError: no physics"):
        run(
            tmp_path,
            StepPolicy(),
            make=make_raising,
            stops=("4",),
            tasks=("near",),
            seed=SEED + 1,
            episodes=1,
        )
    results = load_results(tmp_path / "run")
    assert [(row.episodes, row.errors) for row in results.rows] == [(0, 1)]


def test_an_environment_that_does_not_open_stops_the_run_before_its_first_episode(tmp_path):
    for attempt in range(2):
        with pytest.raises(RDVLAError, match=r"metaworld does not open \(near\): OSError: no display"):
            run(tmp_path, StepPolicy(), make=make_closed, stops=("4",), fingerprint=str(attempt))
    results = run(tmp_path, StepPolicy(), stops=("4",))  # what was refused left the folder free
    assert all(row.errors == 0 for row in results.rows)


def test_workers_that_keep_dying_stop_the_run(tmp_path):
    with pytest.raises(RDVLAError, match=r"4 workers have died.*run the same command again"):
        run(tmp_path, StepPolicy(), make=make_mortal, stops=("4",), tasks=("near",), episodes=8, workers=1)


def test_a_stopped_evaluation_goes_on_to_the_same_results(tmp_path):
    options = {"stops": ("1", "4"), "workers": 1}
    whole = run(tmp_path / "whole", StepPolicy(), **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", StepPolicy(fail_after=9), **options)
    journal = tmp_path / "cut" / "run" / "episodes.jsonl"
    kept = len(journal.read_text().splitlines())
    assert 0 < kept < len(whole.episodes)
    with journal.open("a") as file:
        file.write('{"env": "metaw')  # what a kill in the middle of a write leaves
    policy = StepPolicy()
    resumed = run(tmp_path / "cut", policy, **options)
    plain = [
        [(e.task, e.setting, e.seed, e.success, e.steps) for e in one.episodes] for one in (whole, resumed)
    ]
    assert plain[0] == plain[1]
    assert len(policy.queries) < sum(len(episode.depths) for episode in whole.episodes)
    again = StepPolicy()
    run(tmp_path / "cut", again, **options)
    assert again.queries == []
    assert len(journal.read_text().splitlines()) == len(whole.episodes)


def test_times_are_of_the_settings_and_survive_a_call_that_plays_nothing(tmp_path):
    options = {"stops": ("1", "4", "action_change:1e-3"), "tasks": ("near",), "timing_seconds": 0.01}
    results = run(tmp_path, StepPolicy(), **options)
    assert list(results.query_ms) == ["fixed:1", "fixed:4", "action_change:0.001"]
    assert all(value > 0 for value in results.query_ms.values())
    entries = json.loads((results.folder / "results.json").read_text())["summary"]
    assert {one["stop"]: one["query_ms"] for one in entries} == results.query_ms
    again = run(tmp_path, StepPolicy(), **options)
    assert again.query_ms == results.query_ms
    assert run(tmp_path / "off", StepPolicy(), **{**options, "timing_seconds": 0}).query_ms == {}


def test_a_run_directory_of_another_evaluation_is_refused(tmp_path):
    run(tmp_path, StepPolicy(), stops=("4",), tasks=("near",))
    with pytest.raises(ConfigError, match="at most 30 steps in metaworld, and this one has 31"):
        run(tmp_path, StepPolicy(), stops=("4",), tasks=("near",), max_steps=31)
    with pytest.raises(ConfigError, match="policy_fingerprint"):
        run(tmp_path, StepPolicy(), stops=("4",), tasks=("near",), fingerprint="other")
    # More of the same is fine, also for a folder that does not say how the policy prepares its inputs.
    more = run(tmp_path, StepPolicy(), stops=("4", "2"), tasks=("near",), episodes=3)
    assert [row.episodes for row in more.rows] == [3, 3]
    run(tmp_path, StepPolicy(), stops=("4",), tasks=("near",), known={"preparation": "a"})
    with pytest.raises(ConfigError, match="policy_preparation 'a', and this one has 'b'"):
        run(tmp_path, StepPolicy(), stops=("4",), tasks=("near",), known={"preparation": "b"})


def test_what_prepares_a_policys_inputs_is_told_apart_by_a_hash():
    policy = tiny_policy()
    config, statistics = policy.config, policy.statistics
    low = torch.full((config.head.action_dim,), -3.0).tolist()
    high = torch.full((config.head.action_dim,), 3.0).tolist()
    variants = [
        RDVLAPolicy(config, {**statistics, "action": {**statistics["action"], "low": low, "high": high}}),
        RDVLAPolicy(dataclasses.replace(config, resize="crop"), statistics),
        RDVLAPolicy(dataclasses.replace(config, camera_sizes={config.cameras[0]: (48, 64)}), statistics),
    ]
    hashes = [describe_policy(each, "tiny")["preparation"] for each in (policy, *variants)]
    assert len(set(hashes)) == 4
    assert describe_policy(RDVLAPolicy(config, statistics), "other")["preparation"] == hashes[0]


def test_a_label_may_change_when_an_evaluation_goes_on(tmp_path):
    run(tmp_path, StepPolicy(), stops=("4",), tasks=("near",))
    again = StepPolicy()
    results = run(tmp_path, again, stops=("4",), tasks=("near",), label="mine")
    assert again.queries == []
    assert {each.policy for each in (*results.rows, *results.episodes)} == {"mine"}
    more = run(tmp_path, again, stops=("4",), tasks=("near",), label="other", episodes=3)
    assert [(row.policy, row.episodes) for row in more.rows] == [("other", 3)]


def test_environments_with_the_same_tasks_are_kept_apart(tmp_path):
    options = {"env": "a,b", "stops": ("4",), "workers": 1}
    policy = StepPolicy()
    results = run(tmp_path, policy, **options)
    places = [(env, task) for env in "ab" for task in TASKS]
    assert [(row.env, row.task) for row in results.rows] == places
    assert all(row.episodes == 2 for row in results.rows)
    states = [tuple(state.flatten().tolist()) for _, batch in policy.queries for state in batch]
    assert len(states) == 2 * len(set(states))  # the same S_0 for the same task and seed

    again = StepPolicy()
    more = run(tmp_path, again, **{**options, "env": "b,c"})  # b is there already
    assert [row.env for row in more.rows] == ["b", "b", "c", "c"]
    assert len(again.queries) == sum(len(one.depths) for one in more.episodes if one.env == "c")
    with pytest.raises(ConfigError, match=r"evaluation in a, b, c, and this one is in d.*--env a,b,c,d"):
        run(tmp_path, again, **{**options, "env": "d"})


def test_a_run_directory_of_the_first_version_goes_on(tmp_path):
    run(tmp_path, StepPolicy(), stops=("4",), tasks=("near",))
    path = tmp_path / "run" / "evaluation.json"
    content = json.loads(path.read_text())
    for name in ("limits", "step_limits", "video_fps", "rendering", "timing_seconds", "allow_other_robot"):
        del content[name]
    path.write_text(json.dumps(content))
    policy = StepPolicy()
    run(tmp_path, policy, stops=("4",), tasks=("near",))
    assert policy.queries == []


def test_a_run_directory_of_the_second_version_goes_on(tmp_path):
    run(tmp_path, StepPolicy(), stops=("4", "action_change:1e-3"), tasks=("near",))
    folder = tmp_path / "run"
    content = json.loads((folder / "evaluation.json").read_text())
    content["rules"] = content.pop("stops")
    (folder / "evaluation.json").write_text(json.dumps(content))
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    for line in lines:
        stop, _ = line.pop("stop"), line.pop("crc32")
        line["query_ms"] = 14.0  # was measured during the episode
        line |= {"rule": "fixed", "depth": 4} if stop == "fixed:4" else {"rule": stop, "depth": None}
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    policy = StepPolicy()
    again = run(tmp_path, policy, stops=("4", "action_change:1e-3"), tasks=("near",))
    assert policy.queries == []
    assert [row.stop for row in again.rows] == ["fixed:4", "action_change:0.001"]


def test_a_worker_has_one_environment_open_and_stays_at_its_task(tmp_path):
    make = functools.partial(make_logging, log=tmp_path / "log")
    results = run(tmp_path, StepPolicy(), make=make, env="a,b", stops=("4", "1"), workers=2, episodes=3)
    assert [row.setting.depth for row in results.rows] == [4] * 4 + [1] * 4  # in order, whoever played
    by_process = {}
    lines = (tmp_path / "log").read_text().splitlines()
    checks = [line.split() for line in lines[:4]]  # each environment once, in workers of its own
    assert sorted(place for _, what, place in checks if what == "open") == [
        f"{env}/{TASKS[0]}" for env in "ab"
    ]
    for line in lines[4:]:
        process, what, place = line.split()
        by_process.setdefault(process, []).append((what, place))
    opened = [place for events in by_process.values() for what, place in events if what == "open"]
    assert len(by_process) == 2
    assert set(opened) == {f"{env}/{task}" for env in "ab" for task in TASKS}
    for events in by_process.values():
        for before, after in itertools.pairwise(events):
            assert {before[0], after[0]} == {"open", "close"}
            assert before[0] == "close" or before[1] == after[1]


def test_results_are_plain_json_with_the_documented_entries(tmp_path):
    results = run(tmp_path, StepPolicy(), stops=("1",), tasks=("near",))
    content = json.loads((results.folder / "results.json").read_text())
    assert content["schema_version"] == 5
    assert content["meta"]["protocol"] == {"metaworld": {"tasks": ["near"], "max_steps": 30}}
    assert [one["env"] for one in content["summary"]] == ["metaworld", None]
    wanted = {
        *("env", "task", "stop", "episodes", "successes", "success_low", "success_high"),
        *("mean_depth", "mean_executed", "policy", "execution", "errors"),
    }
    assert wanted <= content["rows"][0].keys()
    assert {"cpu", "cores", "torch"} <= content["meta"]["hardware"].keys()
    assert str(tmp_path) not in json.dumps(content["meta"]["config"])


def test_a_real_head_does_not_mind_who_shares_its_batch():
    from rdvla.control import parse_stop
    from rdvla.engine import Engine
    from rdvla.heads import RecurrentConfig, RecurrentDepthHead

    torch.manual_seed(0)
    config = RecurrentConfig(
        hidden_dim=16, num_heads=2, action_dim=4, context_dim=16, prelude=(), core=("late",), coda=()
    )
    head = RecurrentDepthHead(config).eval()
    vision, latents = torch.randn(3, 10, 16), torch.randn(3, 4, 16)
    proprio = torch.randn(3, 1, 16)
    state = torch.cat(
        [
            head.initial_state(1, generator=torch.Generator().manual_seed(starting_seed("near", row, 0)))
            for row in range(3)
        ]
    )
    for rule in ("5", "action_change:1e-3"):
        with torch.no_grad():
            together = Engine(head).predict(
                head.context(vision={"late": vision}, latents={"late": latents}, proprio=proprio),
                stop=parse_stop(rule),
                initial_state=state,
                trace=True,
            )
            tolerance = 1e-5 + 1e-4 * float(together.actions.abs().max())
            assert_no_close_calls(together.trace, rule, tolerance=tolerance)
            for row in range(3):
                one = slice(row, row + 1)
                context = head.context(
                    vision={"late": vision[one]}, latents={"late": latents[one]}, proprio=proprio[one]
                )
                alone = Engine(head).predict(context, stop=parse_stop(rule), initial_state=state[one])
                torch.testing.assert_close(alone.actions[0], together.actions[row], rtol=1e-4, atol=1e-5)
                assert alone.depth[0] == together.depth[row]
