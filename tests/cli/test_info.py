"""`rdvla info`: the facts agree with the policy."""

from __future__ import annotations

import json

import pytest

from rdvla.backbone import CompactConfig
from rdvla.cli import main
from rdvla.head import HeadConfig
from rdvla.policy import PolicyConfig, RDVLAPolicy

STATISTICS = {
    "action": {"q01": [-1.0] * 4, "q99": [1.0] * 4},
    "observation.state": {"q01": [0.0] * 4, "q99": [0.5] * 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    config = PolicyConfig(
        backbone=CompactConfig(num_cameras=1, image_size=32, width=16, slots=2, heads=2),
        head=HeadConfig(
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
    assert facts["levels"] == {"prelude": [], "core": ["late"], "coda": []}
    assert facts["statistics"]["observation.state"] == {"q01": [0.0] * 4, "q99": [0.5] * 4}
    assert facts["provenance"] == {}


def test_text_shows_provenance(folder, capsys):
    (folder / "training.json").write_text(json.dumps({"dataset": "demos", "steps": 3}))
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    for word in ("backbone", "action q99", "[late]", "dataset", "demos", "action_change"):
        assert word in shown


def test_a_folder_without_a_policy_is_named(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
