"""What an evaluation's results depend on, and what they survive."""

import dataclasses
import functools
import io
import json

import pytest
from rich.console import Console

from rdvla.cli import eval as verb
from rdvla.errors import ConfigError, RDVLAError
from rdvla.evaluation import EvaluationConfig, Suite, evaluate_policy, load_results
from rdvla.files import os_error_sentence
from tests.support.full_disk import full_disk
from tests.support.line_task import TASKS, make_line, make_once_dying, make_raising
from tests.support.rollout_doubles import BatchPolicy, StepPolicy


def run(folder, policy, *, make=make_line, **changes):
    options = {
        "policy": "runs/walker",
        "output": str(folder),
        "tasks": tuple(TASKS),
        "episodes": 3,
        "stops": ("4", "action_change:1e-3"),
        "execution": ("fixed:2",),
        "max_steps": 60,
        "videos": 0,
        "timing_seconds": 0,
    }
    config = EvaluationConfig(**{**options, **changes})
    path = evaluate_policy(
        policy,
        config,
        suites=[Suite(env="metaworld", tasks=config.tasks, max_steps=config.max_steps)],
        make=make,
        provenance={"path": "walker"},
        fingerprint="abc",
        console=Console(file=io.StringIO(), width=300),
    )
    return load_results(path)


def outcomes(results):
    return [dataclasses.replace(episode, video=None) for episode in results.episodes]


def test_any_number_of_workers_gives_the_same_episodes(tmp_path):
    alone, three = (run(tmp_path / str(count), BatchPolicy(), workers=count) for count in (1, 3))
    assert outcomes(alone) == outcomes(three)
    assert len({depth for episode in alone.episodes for depth in episode.depths}) == 2


def test_queries_share_batches_only_if_asked_to(tmp_path):
    sizes = {}
    for batching in ("single", "together"):
        policy = StepPolicy()
        run(tmp_path / batching, policy, workers=3, batching=batching)
        sizes[batching] = {len(instructions) for instructions, _ in policy.queries}
    assert sizes["single"] == {1}
    assert sizes["together"] <= {1, 2, 3}
    with pytest.raises(ConfigError, match="batching"):
        run(tmp_path / "single", StepPolicy(), workers=3, batching="together")  # no mixture in one folder


def test_how_older_episodes_were_batched_is_not_known_and_not_made_up(tmp_path):
    known = run(tmp_path / "run", StepPolicy(), stops=("4",), episodes=1)
    assert known.meta["config"]["batching"] == "single"
    record = tmp_path / "run" / "evaluation.json"
    entries = json.loads(record.read_text())
    del entries["batching"]  # as versions without the option wrote it
    record.write_text(json.dumps(entries))
    for episodes, batching in ((1, "single"), (2, "together")):
        more = run(tmp_path / "run", StepPolicy(), stops=("4",), episodes=episodes, batching=batching)
        assert more.meta["config"]["batching"] is None
        assert json.loads(record.read_text())["batching"] is None


def test_a_dead_workers_episode_is_played_again_to_the_same_end(tmp_path):
    calm = run(tmp_path / "calm", StepPolicy(), tasks=("near",))
    make = functools.partial(make_once_dying, folder=tmp_path)
    shaken = run(tmp_path / "shaken", StepPolicy(), make=make, tasks=("near",))
    assert len(list(tmp_path.glob("died-*"))) == 3
    assert outcomes(shaken) == outcomes(calm)
    lines = (tmp_path / "shaken" / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == len(calm.episodes)  # none twice


def test_an_episode_without_an_outcome_leaves_no_line_beside_its_outcome(tmp_path):
    calm = run(tmp_path / "calm", StepPolicy(), tasks=("near",))
    first = run(tmp_path / "shaken", StepPolicy(), make=make_raising, tasks=("near",))
    journal = tmp_path / "shaken" / "episodes.jsonl"
    assert sum(row.errors for row in first.rows) > 0
    assert len(journal.read_text().splitlines()) == len(calm.episodes)  # people may look why
    again = run(tmp_path / "shaken", StepPolicy(), tasks=("near",))
    assert outcomes(again) == outcomes(calm)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(lines) == len(calm.episodes)
    assert all(line["error"] is None for line in lines)


def test_a_video_that_cannot_be_written_costs_no_episode(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "videos").write_text("in the way")
    results = run(tmp_path / "run", StepPolicy(), tasks=("near",), videos=3)
    assert all(episode.error is None and episode.success for episode in results.episodes)
    assert {(each.video, each.video_stride, each.video_speed) for each in results.episodes} == {
        (None, None, None)
    }
    assert outcomes(results) == outcomes(run(tmp_path / "calm", StepPolicy(), tasks=("near",)))


@pytest.mark.parametrize("file", ["episodes.jsonl", "results.json"])
def test_a_full_disk_is_named_and_costs_nothing(tmp_path, file):
    calm = run(tmp_path / "calm", StepPolicy(), tasks=("near",), episodes=6)
    folder = tmp_path / "run"
    run(folder, StepPolicy(), tasks=("near",))
    before = (folder / "results.json").read_bytes()
    sizes = {name: (tmp_path / "calm" / name).stat().st_size for name in ("episodes.jsonl", "results.json")}
    assert sizes["episodes.jsonl"] < sizes["results.json"]
    with full_disk(sizes[file] - 100), pytest.raises(OSError) as caught:
        run(folder, StepPolicy(), tasks=("near",), episodes=6)
    assert os_error_sentence(caught.value).startswith(f"{folder / file}: the file would be larger than")
    assert (folder / "results.json").read_bytes() == before
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]
    assert outcomes(run(folder, StepPolicy(), tasks=("near",), episodes=6)) == outcomes(calm)


def test_damaged_results_are_named_before_anything_is_played(tmp_path):
    results = run(tmp_path, StepPolicy(), tasks=("near",))
    path = results.folder / "results.json"
    path.write_text(path.read_text().replace('"success": true', '"success": false', 1))
    policy = StepPolicy()
    with pytest.raises(RDVLAError, match=r"results\.json is damaged or was changed.* delete it"):
        run(tmp_path, policy, tasks=("near",), episodes=6)
    assert policy.queries == []
    path.unlink()
    assert len(run(tmp_path, policy, tasks=("near",), episodes=6).episodes) == 12


@pytest.mark.parametrize(("make", "status"), [(make_line, 0), (make_raising, 1)])
def test_the_exit_status_says_whether_every_episode_has_an_outcome(
    tmp_path, monkeypatch, capsys, make, status
):
    results = run(tmp_path / "run", StepPolicy(), make=make, tasks=("near",), stops=("4",))
    path = results.folder / "results.json"
    monkeypatch.setattr("rdvla.evaluation.evaluate", lambda config: path)
    config = EvaluationConfig(policy="p", output=str(tmp_path / "run"), env="metaworld")
    assert verb.run(config) == status
    printed = capsys.readouterr()
    assert f"written: {path}" in printed.out
    assert printed.err == "" if status == 0 else "1 episodes ended" in printed.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": "rays"}, "workers must be a number from 1 on, ray, or ray:16"),
        ({"workers": 2, "ray": "head:6379"}, "give --workers ray too"),
        ({"workers": 2, "ray_gpus": 1.0}, "ray_gpus and ray_policies are for a policy on a cluster"),
        ({"workers": "ray", "ray_gpus": -1.0}, "ray_gpus must be a number from 0 on"),
        ({"workers": "ray", "record": "rollout_x", "live": True}, "record writes on this machine"),
        ({"policy": "", "server": "ws://h:1", "batching": "together"}, "a server has batches of its own"),
    ],
)
def test_options_of_workers_that_make_no_sense_together_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        EvaluationConfig(**{"policy": "p", "output": "o", **options})
