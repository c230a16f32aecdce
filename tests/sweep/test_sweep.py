"""Sweeps: which trials a file means, what a run of them leaves, and how settings are compared."""

from __future__ import annotations

import itertools
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rdvla.cli.sweep import run
from rdvla.config import encode_config, load_config
from rdvla.errors import ConfigError
from rdvla.evaluation.records import Episode
from rdvla.evaluation.results import Results
from rdvla.files import sole_user
from rdvla.sweep import SweepConfig, plan
from rdvla.sweep.launch import Command, Launcher
from rdvla.sweep.outcomes import Outcome, by_setting, compare, sign_flip_test
from rdvla.sweep.page import write_report
from rdvla.sweep.trials import Trial, evaluation_options, training_options
from tests.support.tiny_training import train_config, write_dataset

LIMIT = 300  # seconds


def config(tmp_path, **changes):
    values = {"output": str(tmp_path / "sweep"), "train": {"dataset": "somewhere", "steps": 20}}
    return SweepConfig(**{**values, **changes})


# --- which trials ---


def test_every_variant_meets_every_value_and_every_seed(tmp_path):
    trials = plan(
        config(
            tmp_path,
            variants={"deep": {}, "shallow": {"policy.head.mean_depth": 2}},
            over={"optimizer.learning_rate": [0.001, 0.003], "batch_size": [8, 16]},
            seeds=(3, 5),
        )
    )
    found = {
        (
            trial.options.get("policy", {}).get("head", {}).get("mean_depth"),
            trial.options["optimizer"]["learning_rate"],
            trial.options["batch_size"],
            trial.options["seed"],
        )
        for trial in trials
    }
    assert found == set(itertools.product((None, 2), (0.001, 0.003), (8, 16), (3, 5)))
    assert len({trial.folder for trial in trials}) == len(trials) == 16
    assert len({trial.setting for trial in trials}) == 8


def test_more_values_change_nothing_about_the_trials_that_there_are(tmp_path):
    evaluation = {"tasks": ["reach-v3"]}
    few = config(tmp_path, over={"batch_size": [8]}, evaluation=evaluation)
    many = config(tmp_path, over={"batch_size": [8, 16]}, seeds=(0, 1), evaluation=evaluation)
    (trial,) = plan(few)
    (again,) = [each for each in plan(many) if each.folder == trial.folder]
    assert training_options(again) == training_options(trial)
    assert evaluation_options(many, again) == evaluation_options(few, trial)


def test_names_with_dots_and_nested_ones_mean_the_same(tmp_path):
    nested = config(tmp_path, train={"dataset": "d", "optimizer": {"learning_rate": 0.1, "beta1": 0.5}})
    dotted = config(tmp_path, train={"dataset": "d", "optimizer.learning_rate": 0.1, "optimizer.beta1": 0.5})
    assert [trial.options for trial in plan(nested)] == [trial.options for trial in plan(dotted)]


def test_a_file_that_ships_is_a_start_and_other_options_win(tmp_path):
    (trial,) = plan(config(tmp_path, train={"config": "reproduce/recurrent", "dataset": "mine", "steps": 7}))
    assert (trial.options["dataset"], trial.options["steps"]) == ("mine", 7)
    assert len(trial.options) > 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"dataset": "d", "stepz": 1}}, r"trial seed=0: unknown option 'stepz'.*steps"),
        ({"variants": {"a": {}, "b": {"batch_size": "many"}}}, r"trial b-seed=0: .*batch_size"),
        ({"variants": {"a/b": {}}}, "'a/b' names no folder"),
        ({"variants": {"a": {"seed": 1}}}, r"variants\.a\.seed .*list seeds"),
        ({"train": {"dataset": "d", "output_dir": "x"}}, r"train\.output_dir"),
        ({"over": {"seed": [1, 2]}}, "over.seed"),
        ({"over": {"batch_size": []}}, r"over\.batch_size"),
        ({"over": {"batch_size": [8, 8]}}, r"over\.batch_size"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": ()}, "seeds"),
        ({"workers": 0}, "workers"),
        ({"evaluation": {"episodes": 0}}, "evaluation: episodes"),
        ({"evaluation": {"policy": "p"}}, r"evaluation\.policy"),
        ({"over": {"data.cameras": [{"a": "b"}, {"a": "b "}]}}, "share the folder"),
    ],
)
def test_what_cannot_run_is_said_before_anything_starts(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        plan(config(tmp_path, **changes))
    assert not (tmp_path / "sweep").exists()


# --- how settings compare ---


def outcome(setting, seed, best, *, successes=()):
    episodes = [
        Episode("toy", "reach", "p", "fixed:8", "fixed:4", seed, success, steps=1, depths=[8], executed=[1])
        for seed, success in enumerate(successes)
    ]
    results = Results(rows=[], episodes=episodes, meta={}) if successes else None
    trial = Trial(setting, seed, Path(f"{setting}-seed={seed}"), {})
    return Outcome(trial, [(1, 1.0)], [(1, best + 1), (2, best), (3, best + 2)], "l1", results)


def test_trials_are_compared_with_those_of_the_same_seed():
    first, second = by_setting(
        [outcome("a", 0, 1.0), outcome("a", 1, 2.0), outcome("b", 1, 1.5), outcome("b", 2, 0.1)]
    )
    assert (first.mean, second.mean) == (1.5, 0.8)
    assert first.deviation == pytest.approx(math.sqrt(0.5))
    pair = compare(first, second)
    assert (pair.seeds, pair.difference) == (1, -0.5)


def test_episodes_are_paired_by_the_seed_of_the_training_too():
    first, second = by_setting(
        [
            outcome("a", 0, 1.0, successes=(True, False)),
            outcome("a", 1, 1.0, successes=(False, False)),
            outcome("b", 0, 1.0, successes=(True, True)),
            outcome("b", 1, 1.0, successes=(True, False)),
        ]
    )
    (success,) = second.success
    assert (success.successes, success.episodes, success.by_seed) == (3, 4, {0: 1.0, 1: 0.5})
    (test,) = compare(first, second).success.values()
    assert (test.pairs, test.only_first, test.only_second, test.difference) == (4, 2, 0, 0.5)


@pytest.mark.parametrize("differences", [[1.0], [1.0, 2.0, -0.5], [0.1, 0.2, 0.3, -0.05, 0.4], [0.0, 0.0]])
def test_the_sign_flip_test_counts_all_choices_of_signs(differences):
    observed = abs(sum(differences))
    flips = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    share = sum(flip >= observed - 1e-9 for flip in flips) / len(flips)
    assert sign_flip_test(differences) == share


def test_many_seeds_have_no_exact_test():
    assert sign_flip_test([0.1] * 21) is None
    assert sign_flip_test([0.1] * 20) == 2 / 2**20


# --- running them ---


@pytest.fixture
def options(tmp_path):
    """A sweep of two trials of a second each, as a file."""
    train = encode_config(train_config(write_dataset(tmp_path / "data"), tmp_path))
    for name in ("output_dir", "seed", "resume", "resume_from_previous"):
        del train[name]
    train["trackers"] = []
    file = tmp_path / "sweep.yaml"
    content = {
        "output": str(tmp_path / "sweep"),
        "train": train,
        "variants": {"a": {}, "b": {"batch_size": 4}},
    }
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def loaded(options, *more):
    return load_config(SweepConfig, ["--config", str(options), *more])


@pytest.mark.slow
def test_a_sweep_trains_reports_and_goes_on(options, capsys):
    assert run(loaded(options, "--workers", "2")) == 0
    folder = options.parent / "sweep"
    content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    by_name = {setting["setting"]: setting for setting in content["settings"]}
    for name, setting in by_name.items():
        metrics = folder / "trials" / f"{name}-seed=0" / "run" / "metrics.jsonl"
        lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        figures = [line["l1_depth_4"] for line in lines if line["kind"] == "validation"]
        assert setting["trials"][0]["best"] == setting["mean"] == min(figures)
    (pair,) = content["against_first"]
    assert pair["difference"] == by_name["b"]["mean"] - by_name["a"]["mean"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and not re.search(r"(?:src|href)=\"(?!#)", page)

    before = (folder / "trials" / "a-seed=0" / "run" / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    assert run(loaded(options, "--seeds", "[0, 1]")) == 0
    assert "2 are done" in capsys.readouterr().out
    assert (folder / "trials" / "a-seed=0" / "run" / "metrics.jsonl").stat().st_mtime_ns == before
    content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [len(setting["trials"]) for setting in content["settings"]] == [2, 2]
    with pytest.raises(ConfigError, match="trial a-seed=0 was started with other options"):
        run(replace(loaded(options), train={**loaded(options).train, "steps": 13}))


@pytest.mark.slow
def test_trials_that_fail_are_named_and_the_others_are_reported(options, capsys):
    broken = replace(
        loaded(options), variants={"a": {}, "broken": {"init_from": str(options.parent / "nothing")}}
    )
    assert run(broken) == 2
    said = capsys.readouterr()
    assert "1 of 2 trials did not finish (broken-seed=0)" in said.err
    assert "rdvla train ended with exit code 2" in said.out and "nothing" in said.out
    content = json.loads((options.parent / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    assert [setting["setting"] for setting in content["settings"]] == ["a"]
    assert content["trials"] == 2


@pytest.mark.slow
def test_a_trial_of_another_process_is_left_to_it(options, capsys):
    with sole_user(options.parent / "sweep" / "trials" / "a-seed=0"):
        assert run(loaded(options)) == 2
    assert "another process" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_sweep_ends_its_trials_and_goes_on(options):
    long = ["--train", yaml.safe_dump({**loaded(options).train, "steps": 100_000})]
    command = [sys.executable, "-m", "rdvla.cli", "sweep", "--config", str(options), *long]
    folder = options.parent / "sweep" / "trials" / "a-seed=0"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + LIMIT
    while not (folder / "run" / "checkpoints").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "rdvla train --config" in (folder / "train.log").read_text(encoding="utf-8")
    with sole_user(folder / "run"):  # nobody trains there any more
        pass


# --- what a sweep makes of commands that end in some way ---

STUB = """#!/bin/sh
# In place of Python: -m rdvla.cli VERB --config TRIAL/VERB.yaml
trial=$(dirname "$5"); sweep="$trial/../.."
echo "$3 $CUDA_VISIBLE_DEVICES" >> "$trial/ran"
if [ "$3" = train ]; then
  mkdir -p "$trial/run"
  [ -e "$sweep/without-metrics" ] && rm "$sweep/without-metrics" && exit 0
  echo '{"step": 1, "kind": "train", "loss": 1.0}' > "$trial/run/metrics.jsonl"
else
  mkdir -p "$trial/evaluation"
fi
[ ! -e "$sweep/fail-$3" ]
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Commands of trials run a few lines of shell; returns the folder of the sweep."""
    file = tmp_path / "stub"
    file.write_text(STUB, encoding="utf-8")
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    (tmp_path / "sweep").mkdir()
    return tmp_path / "sweep"


def ran(stub):
    """What ran in each trial, with the GPUs that it saw."""
    return {path.parent.name: path.read_text().splitlines() for path in stub.glob("trials/*/ran")}


EVALUATION = {"tasks": ["reach-v3"]}


def test_trainings_that_were_done_wait_for_an_evaluation_that_was_added_until_it_ends_well(stub, tmp_path):
    assert run(config(tmp_path)) == 0
    (stub / "fail-eval").touch()
    for _ in range(2):
        assert run(config(tmp_path, evaluation=EVALUATION)) == 2
    assert [line.split()[0] for line in ran(stub)["seed=0"]] == ["train", "train", "eval", "train", "eval"]


def test_without_its_evaluation_a_sweep_reports_the_training_of_trials_whose_evaluation_failed(
    stub, tmp_path
):
    (stub / "fail-eval").touch()
    assert run(config(tmp_path, evaluation=EVALUATION)) == 2
    assert run(config(tmp_path)) == 0
    assert (stub / "report.html").exists()


def test_a_trial_that_left_nothing_to_read_is_named_and_the_others_run_and_are_reported(
    stub, tmp_path, capsys
):
    (stub / "without-metrics").touch()
    assert run(config(tmp_path, variants={"a": {}, "b": {"batch_size": 4}})) == 2
    said = capsys.readouterr()
    assert "1 of 2 trials did not finish (a-seed=0)" in said.err
    assert "metrics.jsonl cannot be read" in said.out
    (setting,) = json.loads((stub / "sweep.json").read_text(encoding="utf-8"))["settings"]
    assert setting["setting"] == "b"


def test_options_of_a_program_may_be_tuples_numbers_and_paths(stub, tmp_path):
    given = config(
        tmp_path,
        train={"dataset": tmp_path / "data", "validation": {"depths": (1, 2)}},
        variants={1: {}, 2: {"batch_size": 4}},
    )
    assert run(given) == run(given) == 0
    assert {name: len(lines) for name, lines in ran(stub).items()} == {"1-seed=0": 1, "2-seed=0": 1}


def test_a_changed_option_is_named_with_both_values(stub, tmp_path):
    def values(rate):
        return config(tmp_path, train={"dataset": "d", "optimizer": {"learning_rate": rate}})

    assert run(values(0.5)) == 0
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate was 0\.5, and now it is 0\.25"):
        run(values(0.25))


def test_a_trial_that_another_process_has_run_meanwhile_is_not_run_again(stub, tmp_path):
    given, ends = config(tmp_path), []
    trials = plan(given)

    def commands(trial):
        return [Command("train", training_options(trial), trial.folder)]

    for _ in range(2):
        Launcher(commands, workers=1).run(trials, ends.append)
    assert [end.problem for end in ends] == ["", ""]
    assert len(ran(stub)["seed=0"]) == 1


def test_what_goes_wrong_in_telling_of_a_trial_is_not_lost_with_its_thread(stub, tmp_path):
    def ended(end):
        raise ArithmeticError(end.trial.name)

    launcher = Launcher(lambda trial: [Command("train", training_options(trial), trial.folder)], workers=1)
    with pytest.raises(ArithmeticError, match="seed=0"):
        launcher.run(plan(config(tmp_path)), ended)


@pytest.mark.parametrize(
    ("processes", "workers", "expected"),
    [
        (1, 1, {"0,1,2,3"}),
        (1, 2, {"0", "1"}),
        (2, 2, {"0,1", "2,3"}),
        (4, 2, {"0,1,2,3"}),
        (8, 2, {"0,1,2,3"}),
    ],
)
def test_trials_at_the_same_time_share_the_gpus_out_as_many_as_each_trains_with(
    stub, tmp_path, monkeypatch, processes, workers, expected
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    train = {"dataset": "d", "batch_size": 64, "compute": {"processes": processes}}
    assert run(config(tmp_path, train=train, seeds=(0, 1, 2, 3), workers=workers)) == 0
    seen = {line.split()[1] for lines in ran(stub).values() for line in lines}
    assert seen <= expected
    assert workers == 2 or seen == expected


def test_names_that_look_like_markup_are_shown_as_they_are(stub, tmp_path, capsys):
    assert run(config(tmp_path, over={"dataset": ["x[/red]", "<b>y"]})) == 0
    assert "dataset x[/red]" in capsys.readouterr().out
    page = (stub / "report.html").read_text(encoding="utf-8")
    assert "dataset x[/red]" in page and "&lt;b&gt;y" in page and "<b>" not in page


def test_settings_that_decide_by_different_figures_are_shown_with_each_its_own(tmp_path):
    deep, shallow = by_setting([outcome("deep", 0, 1.0), outcome("shallow", 0, 1.5)])
    one = replace(shallow, outcomes=[replace(shallow.outcomes[0], figure="l1_depth_1")])
    for settings, expected in (([deep, shallow], False), ([deep, one], True)):
        pairs = [compare(settings[0], settings[1])]
        page = write_report(tmp_path, config(tmp_path), settings, pairs, trials=2)
        text = page.read_text(encoding="utf-8")
        assert ("l1_depth_1" in text, "Settings decide by different figures" in text) == (expected,) * 2
