"""`rdvla info`: the facts agree with the policy."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from rdvla.backbone import CompactConfig
from rdvla.cli import main
from rdvla.heads import RecurrentConfig
from rdvla.policy import PolicyConfig, RDVLAPolicy
from tests.support.tiny_vlms import save_tiny_vlm, vlm_config

STATISTICS = {
    "action": {"q01": [-1.0] * 4, "q99": [1.0] * 4},
    "observation.state": {"q01": [0.0] * 4, "q99": [0.5] * 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    config = PolicyConfig(
        backbone=CompactConfig(num_cameras=1, image_size=32, width=16, slots=2, heads=2),
        head=RecurrentConfig(
            hidden_dim=8, num_heads=2, action_dim=4, context_dim=16, prelude=(), core=("late",), coda=()
        ),
        cameras=("front",),
        image_size=32,
    )
    path = tmp_path_factory.mktemp("policy")
    RDVLAPolicy(config, STATISTICS).save_pretrained(path)
    return path


def test_facts(folder, capsys):
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    policy = RDVLAPolicy.from_pretrained(folder)
    assert facts["parts"]["total"]["all"] == sum(parameter.numel() for parameter in policy.parameters())
    assert facts["parts"]["head"]["all"] == sum(parameter.numel() for parameter in policy.head.parameters())
    for part in (*facts["parts"].values(), *facts["head"].values()):
        assert part["all"] == part["frozen"] + part["lora"] + part["trained"]
    assert facts["tokens"] == {"vision (M)": 2, "latents (L)": 9, "proprioception": 1}
    assert facts["memory_mib"]["weights"] == facts["parts"]["total"]["all"] * 4 / 2**20
    # two keys-and-values of K = V = 8 numbers for 2 + 9 + 1 tokens in the only core block, float32
    assert facts["memory_mib"]["keys and values of a query"] == 2 * 8 * 12 * 4 / 2**20
    assert facts["levels"] == {"prelude": [], "core": ["late"], "coda": []}
    assert facts["statistics"]["observation.state"] == {"q01": [0.0] * 4, "q99": [0.5] * 4}
    assert facts["provenance"] == {}


def test_text_shows_provenance(folder, capsys):
    (folder / "training.json").write_text(json.dumps({"dataset": "demos", "steps": 3}))
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    for word in (
        "backbone",
        "action q99",
        "[late]",
        "dataset",
        "demos",
        "action_change",
        "vision (M)",
        "MiB",
    ):
        assert word in shown


def test_a_folder_without_a_policy_is_named(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_fine_tuned_model_shows_what_is_its_own(tmp_path, capsys):
    pytest.importorskip("peft")
    model = save_tiny_vlm(tmp_path / "model", "smolvlm")
    head = RecurrentConfig(
        hidden_dim=8, num_heads=2, action_dim=4, context_dim=16, prelude=(1,), core=(2,), coda=()
    )
    config = PolicyConfig(
        backbone=vlm_config(model, reasoning_tokens=3), head=head, cameras=("front", "wrist"), image_size=32
    )
    policy = RDVLAPolicy(config, STATISTICS)
    policy.save_pretrained(tmp_path / "policy")
    capsys.readouterr()
    assert main(["info", str(tmp_path / "policy"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    counts = facts["parts"]["backbone"]
    adapted = [p for name, p in policy.backbone.named_parameters() if ".lora_" in name]
    assert counts["lora"] == sum(p.numel() for p in adapted) > 0
    assert counts["trained"] == 4 * 16 + 2 * 16  # latents, and what stands for silence at two levels
    assert facts["base_models"] == [model]
    # 2 x 2 tokens from each of two cameras; 3 of reasoning and 4 latents
    assert facts["tokens"] == {"vision (M)": 8, "latents (L)": 7, "proprioception": 1}
    assert main(["info", str(tmp_path / "policy")]) == 0
    assert model in capsys.readouterr().out


def test_a_dataset_is_described_by_its_values(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    from tests.support.datasets import LENGTHS, make_episode, make_writer

    writer = make_writer(tmp_path / "demos")
    for number in range(2):
        writer.add_episode(make_episode(number))
    root = writer.finalize()
    assert main(["info", str(root), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["lengths"] == list(LENGTHS[:2])
    actions = np.concatenate([make_episode(number).features["action"] for number in range(2)])
    highest = [number["high"] for number in facts["features"]["action"]["numbers"]]
    np.testing.assert_allclose(highest, actions.max(axis=0), rtol=1e-6)
    assert main(["info", str(root)]) == 0
    assert "2 episodes, 26 frames at 80 Hz" in capsys.readouterr().out


def write_run(folder, *, step=20):
    folder.mkdir()
    (folder / "config.yaml").write_text("dataset: demos\nsteps: 50\nseed: 3\n")
    (folder / "run.json").write_text("{}")
    lines = [{"step": 10, "kind": "train", "loss": 0.5}, {"step": step, "kind": "validation", "loss": 0.25}]
    cut = '{"step": 30, "ki'
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + cut)
    return folder


def test_a_run_without_a_policy_says_how_far_it_is_and_how_it_goes_on(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["run"]
    assert (facts["dataset"], facts["steps"], facts["steps done"]) == ("demos", 50, 20)
    assert facts["last validation"] == {"step": 20, "loss": 0.25}
    assert facts["go on"] == f"rdvla train --config {run / 'config.yaml'} --resume true"
    assert main(["info", str(run)]) == 0
    assert "last train" in capsys.readouterr().out


def test_a_run_with_a_policy_shows_both(folder, tmp_path, capsys):
    run = write_run(tmp_path / "run", step=50)
    shutil.copytree(folder, run / "policy")
    assert main(["info", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "--resume true --steps 100" in shown
    assert "steps done" in shown
    assert "head (parameters)" in shown
