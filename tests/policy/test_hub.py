"""Publishing, with a folder in the place of the hub."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi

from rdvla.cli import main
from rdvla.errors import RDVLAError
from rdvla.policy import RESULTS, TRAINING, RDVLAPolicy, fingerprint
from rdvla.policy import files as policy_files
from tests.evaluation.sample import make_results
from tests.tiny_models import (
    CONFIG,
    STATISTICS,
    make_observation,
    make_policy,
    pretrained_config,
    save_tiny_dinov2,
)

TRAINED = {
    "steps": 40,
    "dataset": {"root": "user/demos@v1, /home/someone/more", "on_hub": ["user/demos@v1"], "fingerprint": "f"},
}


class Hub:
    """What `push_to_hub` and `from_pretrained` need of the hub, as folders."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.calls: list[dict[str, Any]] = []
        monkeypatch.setattr(HfApi, "create_repo", self.create_repo)
        monkeypatch.setattr(HfApi, "upload_folder", self.upload_folder)
        monkeypatch.setattr(policy_files, "snapshot_download", self.download)

    def create_repo(self, *, repo_id: str, **options: Any) -> SimpleNamespace:
        self.calls.append({"create": repo_id, **options})
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        self.calls.append({"upload": repo_id, **options})
        shutil.copytree(folder_path, self.root / repo_id)
        return f"https://hub.example/{repo_id}/commit/1"

    def download(self, repo_id: str, **options: Any) -> str:
        return str(self.root / repo_id)

    def card(self, repo_id: str) -> tuple[dict[str, Any], str]:
        _, front, text = (self.root / repo_id / "README.md").read_text().split("---\n", 2)
        return yaml.safe_load(front), text


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path / "hub", monkeypatch)


def results_of(policy: RDVLAPolicy) -> dict[str, Any]:
    line = {
        "env": "libero_goal", "policy": "ours", "rule": "fixed", "depth": 8, "execution": "fixed:5",
        "tasks": 10, "episodes": 100, "successes": 83, "errors": 0, "success": 0.83, "success_low": 0.745,
        "success_high": 0.892, "mean_depth": 8.0, "mean_executed": 5.0, "query_ms": 10.0,
    }  # fmt: skip
    adaptive = line | {"env": None, "rule": "action_change:0.001", "depth": None, "mean_depth": 6.125}
    return {
        "schema_version": 2, "summary": [line, adaptive], "rows": [], "episodes": [],
        "meta": {"policy": {"fingerprint": fingerprint(policy)}},
    }  # fmt: skip


def test_a_policy_comes_back_as_it_went(hub: Hub) -> None:
    policy = make_policy()
    policy.records = {TRAINING: TRAINED}
    address = policy.push_to_hub("user/policy", private=True, branch="new")
    assert address == "https://hub.example/user/policy/commit/1"
    assert hub.calls[0] == {"create": "user/policy", "private": True, "exist_ok": True}
    assert hub.calls[1]["revision"] == "new"
    names = {path.name for path in (hub.root / "user/policy").iterdir()}
    assert names == {"config.json", "model.safetensors", "statistics.json", TRAINING, "README.md"}
    loaded = RDVLAPolicy.from_pretrained("user/policy")
    assert loaded.records == policy.records
    ours, theirs = (
        each.predict(make_observation(), generator=torch.Generator().manual_seed(0)).actions
        for each in (policy, loaded)
    )
    assert torch.equal(ours, theirs)


def test_the_card_says_configuration_data_results_and_licence(hub: Hub) -> None:
    policy = make_policy()
    policy.records = {TRAINING: TRAINED, RESULTS: results_of(policy)}
    policy.push_to_hub("user/policy")
    front, text = hub.card("user/policy")
    assert (front["license"], front["library_name"], front["datasets"]) == ("mit", "rdvla", ["user/demos"])
    assert "base_model" not in front
    for words in (
        "front, wrist, 32 x 32 pixels",
        "chunks of 4, 4 numbers each",
        "middle / late / none",
        f"{sum(p.numel() for p in policy.parameters()):,} all",
        "[user/demos@v1](https://huggingface.co/datasets/user/demos), `more`",
        "40 updates",
        "| libero_goal | fixed 8 | fixed:5 | 100 | 83% | 74%-89% | 8.00 |",
        "| average | action_change:0.001 | fixed:5 | 100 | 83% | 74%-89% | 6.12 |",
        "without published models",
    ):
        assert words in text, words
    assert "/home" not in text


def test_what_an_evaluation_writes_is_read(tmp_path: Path) -> None:
    results = make_results(tmp_path, envs=("libero_goal", "libero_object"), depths=(1, 8), videos=0)
    results.write(tmp_path / RESULTS)
    content = json.loads((tmp_path / RESULTS).read_text())
    policy = make_policy()
    content["meta"]["policy"]["fingerprint"] = fingerprint(policy)
    policy.records = {RESULTS: content}
    lines = [line for line in str(policy.generate_model_card()).splitlines() if line.startswith("| libero_")]
    assert len(lines) == 2 * 3  # two suites; depth 1, 8 and an adaptive rule
    # 2 tasks of 6 episodes each
    assert all(line.split("|")[4].strip() == "12" for line in lines)


def test_results_of_other_weights_are_refused(hub: Hub) -> None:
    policy, other = make_policy(), make_policy(seed=1)
    policy.records = {RESULTS: results_of(other)}
    with pytest.raises(RDVLAError, match="measured with other weights"):
        policy.push_to_hub("user/policy")
    policy.records = {RESULTS: {"schema_version": 1, "rows": []}}
    with pytest.raises(RDVLAError, match=r"results\.json lacks"):
        policy.push_to_hub("user/policy")
    assert not (hub.root / "user/policy").exists()


def test_a_card_without_records_says_so() -> None:
    text = str(make_policy().generate_model_card())
    assert "How it was trained is not recorded." in text and "None are recorded." in text


def test_a_published_model_brings_its_licence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_dinov2(tmp_path / "dinov2")
    policy = RDVLAPolicy(pretrained_config(folder, None), STATISTICS)
    with pytest.raises(RDVLAError, match="others cannot load"):
        policy.push_to_hub("user/policy")
    assert not hub.calls
    assert "`dinov2`, a local folder" in str(policy.generate_model_card())
    monkeypatch.setattr(type(policy.backbone), "base_models", lambda self: ("maker/model@v2",))
    policy.push_to_hub("user/policy")
    front, text = hub.card("user/policy")
    assert (front["license"], front["base_model"]) == ("other", ["maker/model"])
    assert "[maker/model@v2](https://huggingface.co/maker/model)" in text and "Their licences apply" in text


def test_the_command_takes_results_from_a_file(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = make_policy(replace(CONFIG, execution="fixed:2"))
    policy.save_pretrained(tmp_path / "policy")
    (tmp_path / "run.json").write_text(json.dumps(results_of(policy)))
    assert (
        main(["push", str(tmp_path / "policy"), "user/policy", "--results", str(tmp_path / "run.json")]) == 0
    )
    assert "https://hub.example/user/policy" in capsys.readouterr().out
    assert "| libero_goal |" in hub.card("user/policy")[1]
    assert json.loads((hub.root / "user/policy/results.json").read_text()) == results_of(policy)
    assert (hub.calls[0]["private"], hub.calls[1]["revision"]) == (None, None)
