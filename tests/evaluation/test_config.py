from dataclasses import replace

import pytest
import torch

from rdvla.cli import main
from rdvla.config import load_config
from rdvla.errors import ConfigError
from rdvla.evaluation import EvaluationConfig, Setting, find_setting, run
from rdvla.hashing import fingerprint
from rdvla.policy import choose_device
from tests.support.results_sample import make_results
from tests.support.tiny_models import CONFIG, make_policy


def test_settings_are_the_product_of_rules():
    config = EvaluationConfig(
        policy="a/b",
        output="o",
        stops=("1", "fixed:8", "action_change:1e-3"),
        execution=("8", "binary:8,4,6"),
    )
    assert len(config.settings) == 6
    assert config.settings[1] == Setting(stop="fixed:8", execution="fixed:8")
    assert config.settings[2] == Setting(stop="action_change:0.001", execution="fixed:8")
    assert config.settings[2].describe() == "action_change:0.001"
    assert config.settings[1].short_stop == "8"
    assert config.policy_label == "b"


def test_a_policy_is_called_as_its_run_if_its_folder_says_nothing(tmp_path, monkeypatch):
    (tmp_path / "grasp" / "policy").mkdir(parents=True)
    for policy, name in (
        (tmp_path / "grasp" / "policy", "grasp"),
        (tmp_path / "grasp", "grasp"),
        ("user/name@main", "name@main"),
        ("runs/gone/policy", "gone"),
        ("metaworld", "metaworld"),
    ):
        assert EvaluationConfig(policy=str(policy), output="o").policy_label == name
    monkeypatch.chdir(tmp_path / "grasp" / "policy")
    assert EvaluationConfig(policy=".", output="o").policy_label == "grasp"
    assert EvaluationConfig(policy=".", output="o", label="mine").policy_label == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"seed": 5}, "belong to demonstrations"),
        ({"stops": ("acton_change",)}, "Did you mean 'action_change'"),
        ({"stops": ()}, "stops is empty"),
        ({"stops": ("8", "fixed:8")}, "named twice"),
        ({"execution": ("sometimes",)}, "execution rule"),
        ({"execution": ("8", "fixed:8")}, "named twice"),
        ({"videos": -1}, "videos"),
        ({"env": "a,b,a"}, "different environments"),
        ({"env": "a,"}, "different environments"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_steps": 200, "step_limits": "published"}, "give one"),
        ({"video_fps": 0}, "video_fps"),
        ({"timing_seconds": -1.0}, "timing_seconds must be a number from 0 on, got -1"),
        ({"timing_seconds": float("nan")}, "timing_seconds"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(policy="p", output="o", **change)


def test_environments_are_listed_with_commas():
    config = EvaluationConfig(policy="p", output="o", env="libero_spatial, libero_10")
    assert config.envs == ("libero_spatial", "libero_10")


def test_a_setting_is_found_by_its_stop():
    eight, other = (Setting(stop="fixed:8", execution=one) for one in ("fixed:8", "fixed:4"))
    adaptive = Setting(stop="action_change:0.001", execution="fixed:8")
    known = [eight, adaptive, adaptive]
    assert find_setting("8", known) == eight
    assert find_setting("action_change:1e-3", known) == adaptive
    assert find_setting("8/4", [*known, other]) == other
    with pytest.raises(ConfigError, match=r"2 settings are called '8'.*8/fixed:4"):
        find_setting("8", [*known, other])
    with pytest.raises(ConfigError, match="0 settings are called '12'"):
        find_setting("12", known)
    warm = [Setting.parse(stop, "8") for stop in ("8@final", "action_change:1e-3@shifted")]
    assert [one.stop for one in warm] == ["fixed:8@final", "action_change:0.001@shifted"]
    assert [find_setting(one.name, [*known, *warm]) for one in warm] == warm
    assert Setting.parse("8@noise", "8") == eight


def test_the_execution_is_the_policys_where_none_is_given(tmp_path, monkeypatch):
    make_policy(replace(CONFIG, execution="fixed:2")).save_pretrained(tmp_path / "policy")
    asked = []
    monkeypatch.setattr(run, "evaluate_policy", lambda policy, config, **_: asked.append(config))
    monkeypatch.setattr(run, "resolve_suites", lambda config: ())
    for execution in ((), ("fixed:3", "fixed:4")):
        run.evaluate(EvaluationConfig(policy=str(tmp_path / "policy"), output="o", execution=execution))
    assert [config.execution for config in asked] == [("fixed:2",), ("fixed:3", "fixed:4")]


def test_the_policy_may_be_a_run_directory(tmp_path, monkeypatch):
    policy = make_policy(replace(CONFIG, cameras=("front", "side")))
    policy.save_pretrained(tmp_path / "grasp" / "policy")
    (tmp_path / "grasp" / "run.json").write_text("{}")
    asked = []
    monkeypatch.setattr(run, "evaluate_policy", lambda policy, config, **more: asked.append((config, more)))
    for place in (tmp_path / "grasp", tmp_path / "grasp" / "policy"):
        run.evaluate(EvaluationConfig(policy=str(place), output="o"))
    for config, more in asked:
        assert (config.policy_label, more["provenance"]["path"]) == ("grasp", "grasp")
        assert more["fingerprint"] == fingerprint(policy)


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path, monkeypatch, capsys):
    make_results(tmp_path / "a run", videos=0)
    monkeypatch.setattr("rdvla.evaluation.evaluate", lambda config: tmp_path / "a run" / "results.json")
    assert main(["eval", "--policy", "p", "--output", str(tmp_path / "a run")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"written: {tmp_path}/a run/results.json",
        f"next: rdvla report '{tmp_path}/a run'",
    ]


@pytest.mark.parametrize("found", [None, torch.device("cuda")])
def test_the_device_is_one_that_is_there(found, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    assert choose_device("auto") == (found or torch.device("cpu"))
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device must be one of auto, cpu, got 'gpu'"):
        choose_device("gpu")


def test_a_file_with_the_old_name_of_stops_is_read(tmp_path):
    (tmp_path / "eval.yaml").write_text("policy: p\noutput: o\nrules: ['1', '8']\n")
    config = load_config(EvaluationConfig, ["--config", str(tmp_path / "eval.yaml")], prog="rdvla eval")
    assert config.stops == ("1", "8")
