"""A policy in LeRobot's layout is the same policy, and every command opens it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rdvla.cli import main
from rdvla.errors import RDVLAError
from rdvla.hashing import fingerprint
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.policy.lerobot import pack_statistics, unpack_statistics, write_lerobot
from rdvla.policy.run_folder import policy_name
from rdvla.serving.loading import load_policy
from tests.support.tiny_models import CONFIG, SIZE, make_observation, make_policy

CHOICES = replace(
    CONFIG,
    resize="crop",
    camera_sizes={"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)},
    unscaled_actions=(3,),
    gripper_opening=(3,),
    clip_state=True,
)


@pytest.fixture
def policy() -> RDVLAPolicy:
    made = make_policy(CHOICES)
    made.records = {TRAINING: {"instructions": ["push the puck"], "steps": 1, "dataset": {"root": "demos"}}}
    return made


@pytest.fixture
def converted(policy: RDVLAPolicy, tmp_path: Path) -> Path:
    folder = tmp_path / "lerobot"
    folder.mkdir()
    write_lerobot(policy, folder)
    return folder


def actions(policy: RDVLAPolicy) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    actions: torch.Tensor = policy.predict(make_observation(), generator=generator).actions
    return actions


@pytest.mark.filterwarnings("ignore:.*not trained on")
def test_it_opens_as_the_same_policy(policy: RDVLAPolicy, converted: Path) -> None:
    opened = RDVLAPolicy.from_pretrained(converted)
    assert opened.config == policy.config
    assert opened.statistics == policy.statistics
    assert opened.records == policy.records
    assert fingerprint(opened) == fingerprint(policy)
    torch.testing.assert_close(actions(opened), actions(policy), rtol=0, atol=0)


def test_the_weights_have_the_names_of_our_own_layout(policy: RDVLAPolicy, converted: Path) -> None:
    assert load_file(converted / "model.safetensors").keys() == policy.state_dict().keys()


def test_lerobot_finds_its_features_and_steps(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert config["type"] == "rdvla"
    assert config["input_features"]["observation.images.wrist"] == {
        "type": "VISUAL",
        "shape": [3, SIZE, SIZE],
    }
    assert config["output_features"] == {"action": {"type": "ACTION", "shape": [4]}}
    for pipeline in ("policy_preprocessor", "policy_postprocessor"):
        steps = json.loads((converted / f"{pipeline}.json").read_text())["steps"]
        for step in steps:
            assert "state_file" not in step or (converted / step["state_file"]).is_file()


def test_the_command_converts_both_ways(policy: RDVLAPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "lerobot"]) == 0
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "again"), "--to", "rdvla"]) == 0
    for name in ("config.json", "statistics.json", "model.safetensors", "training.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes(), name


@pytest.mark.parametrize("inner", ["checkpoints/last/pretrained_model", "pretrained_model"])
def test_an_output_directory_of_lerobot_train_stands_for_its_newest_policy(
    policy: RDVLAPolicy, tmp_path: Path, inner: str
) -> None:
    folder = tmp_path / "run" / inner
    folder.mkdir(parents=True)
    write_lerobot(policy, folder)
    assert fingerprint(RDVLAPolicy.from_pretrained(tmp_path / "run")) == fingerprint(policy)
    assert load_policy(tmp_path / "run", name="run").facts.fingerprint == fingerprint(policy)


@pytest.mark.parametrize("inner", ["", "checkpoints/last", "checkpoints/000004/pretrained_model"])
def test_a_checkpoint_is_called_as_its_run(inner: str) -> None:
    assert policy_name(f"outputs/puck/{inner}") == "puck"


def test_statistics_lose_nothing_on_their_way() -> None:
    statistics = {"action": {"low": [0.1, -1 / 3], "count": [7.0]}, "observation.state": {"low": []}}
    assert unpack_statistics(pack_statistics(statistics)) == statistics


def without_steps(folder: Path) -> None:
    (folder / "policy_preprocessor.json").write_text('{"name": "policy_preprocessor", "steps": []}')


def with_a_state_elsewhere(folder: Path) -> None:
    step = {"registry_name": "rdvla_normalizer", "config": {}, "state_file": "../statistics.safetensors"}
    (folder / "policy_preprocessor.json").write_text(json.dumps({"name": "p", "steps": [step]}))


def without_a_preprocessor(folder: Path) -> None:
    (folder / "policy_preprocessor.json").unlink()


def with_a_damaged_state(folder: Path) -> None:
    (folder / "policy_preprocessor_step_3_rdvla_normalizer.safetensors").write_bytes(b"none")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without_steps, "has no step 'rdvla_normalizer'"),
        (with_a_state_elsewhere, "has no step 'rdvla_normalizer'"),
        (without_a_preprocessor, "policy_preprocessor.json"),
        (with_a_damaged_state, "rdvla_normalizer.safetensors cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_file(
    converted: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(converted)
    with pytest.raises(RDVLAError, match=message):
        RDVLAPolicy.from_pretrained(converted)
