"""Publishing on a hub of this machine, through the hub's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rdvla.cli import main
from rdvla.errors import RDVLAError
from rdvla.hashing import fingerprint
from rdvla.policy import RESULTS, TRAINING, RDVLAPolicy
from rdvla.policy.card import is_hub_id
from rdvla.policy.records import without_places
from tests.support.loopback_hub import COMMIT, LoopbackHub, serve_hub
from tests.support.results_sample import make_results
from tests.support.tiny_models import (
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


def card(hub: LoopbackHub, repo_id: str) -> tuple[dict[str, Any], str]:
    _, front, text = (hub.folder(repo_id) / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with serve_hub(tmp_path, monkeypatch) as served:
        yield served


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


def test_a_policy_comes_back_as_it_went(hub: LoopbackHub) -> None:
    policy = make_policy()
    policy.records = {TRAINING: TRAINED}
    address = policy.push_to_hub("user/policy", private=True, branch="new")
    assert address == f"{hub.address}/user/policy/commit/{COMMIT}"
    assert hub.private == {"user/policy": True} and hub.committed == ["new"]
    assert len(hub.uploads()) == 1  # the weights, the large file's way
    names = {path.name for path in hub.folder("user/policy").iterdir()}
    assert names == {
        *("config.json", "model.safetensors", "statistics.json", TRAINING, "checksums.json", "README.md")
    }
    for name in ("user/policy", "user/policy@new"):
        loaded = RDVLAPolicy.from_pretrained(name)
        assert loaded.records == without_places(policy.records)
        ours, theirs = (
            each.predict(make_observation(), generator=torch.Generator().manual_seed(0)).actions
            for each in (policy, loaded)
        )
        assert torch.equal(ours, theirs)


def test_only_a_policys_files_are_downloaded(hub: LoopbackHub) -> None:
    make_policy().push_to_hub("user/policy")
    (hub.folder("user/policy") / "malware.py").write_text("raise SystemExit")
    RDVLAPolicy.from_pretrained("user/policy")
    assert not [line for line in hub.asked if line.endswith("malware.py")]


def test_what_the_hub_refuses_is_said(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RDVLAError, match="user/nothing is no folder, and no policy that the hub gives: 404"):
        RDVLAPolicy.from_pretrained("user/nothing")
    make_policy().push_to_hub("user/policy")
    with pytest.raises(RDVLAError, match="user/policy@v9 is no folder"):
        RDVLAPolicy.from_pretrained("user/policy@v9")
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(RDVLAError, match=r"user/other was not published: .*401"):
        make_policy().push_to_hub("user/other")
    assert not hub.folder("user/other").exists()


def test_what_is_on_the_hub_is_told_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "folder").mkdir(parents=True)
    there = ["user/name", "user/name@v1", "user/name@refs/pr/3"]
    assert [
        name for name in [*there, "some/folder", "some/folder@v1", "./name", "/a/b", "a"] if is_hub_id(name)
    ] == there


def test_a_public_repository_does_not_take_what_is_to_be_private(hub: LoopbackHub) -> None:
    make_policy().push_to_hub("user/policy")
    with pytest.raises(RDVLAError, match="there already and public"):
        make_policy().push_to_hub("user/policy", private=True)
    assert len(hub.committed) == 1


def test_nothing_says_where_files_lay(hub: LoopbackHub) -> None:
    policy = make_policy()
    results = results_of(policy)
    results["meta"]["command"] = "rdvla eval --policy ~/work/a --output=/home/someone/runs/b --env x"
    policy.records = {TRAINING: TRAINED, RESULTS: results}
    policy.push_to_hub("user/policy")
    published = {path.name: path.read_text() for path in hub.folder("user/policy").glob("*.json")}
    assert not [name for name, text in published.items() if "/home" in text or "~" in text]
    assert json.loads(published[TRAINING])["dataset"]["root"] == "user/demos@v1, more"
    command = json.loads(published[RESULTS])["meta"]["command"]
    assert command == "rdvla eval --policy a --output=b --env x"
    assert policy.records[TRAINING] == TRAINED


def test_a_folder_keeps_nothing_of_the_policy_before(tmp_path: Path) -> None:
    first, second = make_policy(), make_policy(seed=1)
    first.records = {TRAINING: TRAINED, RESULTS: results_of(first)}
    first.save_pretrained(tmp_path)
    second.save_pretrained(tmp_path)
    assert RDVLAPolicy.from_pretrained(tmp_path).records == {}
    assert (tmp_path / "README.md").read_text() == str(second.generate_model_card())
    second.records = {RESULTS: results_of(first)}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RDVLAError, match="other weights"):
        second.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_card_says_configuration_data_results_and_licence(hub: LoopbackHub) -> None:
    policy = make_policy()
    policy.records = {TRAINING: TRAINED, RESULTS: results_of(policy)}
    policy.push_to_hub("user/policy")
    front, text = card(hub, "user/policy")
    assert (front["license"], front["library_name"], front["datasets"]) == ("mit", "rdvla", ["user/demos"])
    assert "base_model" not in front
    for words in (
        "front: 32x32; wrist: 32x32",
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
    stops = {line.split("|")[2].strip() for line in lines}
    assert {"fixed 1", "fixed 8"} < stops and len(stops) == 3
    # 2 tasks of 6 episodes each
    assert all(line.split("|")[4].strip() == "12" for line in lines)


def test_results_of_other_weights_are_refused(hub: LoopbackHub) -> None:
    policy, other = make_policy(), make_policy(seed=1)
    policy.records = {RESULTS: results_of(other)}
    with pytest.raises(RDVLAError, match="measured with other weights"):
        policy.push_to_hub("user/policy")
    policy.records = {RESULTS: {"schema_version": 1, "rows": []}}
    with pytest.raises(RDVLAError, match=r"results\.json lacks"):
        policy.push_to_hub("user/policy")
    assert not hub.folder("user/policy").exists()


def test_a_card_without_records_says_so() -> None:
    text = str(make_policy().generate_model_card())
    assert "How it was trained is not recorded." in text and "None are recorded." in text


def test_a_published_model_brings_its_licence(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny_dinov2(tmp_path / "dinov2")
    policy = RDVLAPolicy(pretrained_config(folder, None), STATISTICS)
    with pytest.raises(RDVLAError, match="others cannot load"):
        policy.push_to_hub("user/policy")
    assert not hub.asked
    assert "`dinov2`, a local folder" in str(policy.generate_model_card())
    monkeypatch.setattr(type(policy.backbone), "base_models", lambda self: ("maker/model@v2",))
    policy.push_to_hub("user/policy")
    front, text = card(hub, "user/policy")
    assert (front["license"], front["base_model"]) == ("other", ["maker/model"])
    assert "[maker/model@v2](https://huggingface.co/maker/model)" in text and "Their licences apply" in text


def test_the_command_takes_results_from_a_file(
    hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = make_policy(replace(CONFIG, execution="fixed:2"))
    policy.save_pretrained(tmp_path / "policy")
    (tmp_path / "run.json").write_text(json.dumps(results_of(policy)))
    assert (
        main(["push", str(tmp_path / "policy"), "user/policy", "--results", str(tmp_path / "run.json")]) == 0
    )
    shown = capsys.readouterr().out
    assert f"published: {hub.address}/user/policy/commit/" in shown
    assert shown.splitlines()[-1] == 'next: RDVLAPolicy.from_pretrained("user/policy")'
    assert "| libero_goal |" in card(hub, "user/policy")[1]
    assert json.loads((hub.folder("user/policy") / "results.json").read_text()) == results_of(policy)
    assert hub.private == {"user/policy": False} and hub.committed == ["main"]
