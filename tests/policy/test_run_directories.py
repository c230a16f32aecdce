"""Whatever takes a policy takes the run directory that holds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rdvla.cli import main
from rdvla.errors import RDVLAError
from rdvla.policy import RDVLAPolicy
from tests.support.tiny_models import make_policy


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory before its first validation."""
    folder = tmp_path / "my run"
    folder.mkdir()
    for name in ("config.yaml", "run.json"):
        (folder / name).write_text("{}")
    return folder


def test_the_policy_in_a_run_is_taken(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = make_policy()
    policy.save_pretrained(run / "policy")
    loaded = RDVLAPolicy.from_pretrained(run)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in policy.state_dict().items())
    assert main(["info", str(run)]) == 0
    assert "parameters" in capsys.readouterr().out


def test_a_run_without_a_policy_says_when_there_will_be_one(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "policy").mkdir()  # what a copy left behind that stopped half-way
    with pytest.raises(RDVLAError, match=r"no policy yet: it writes one at its first validation"):
        RDVLAPolicy.from_pretrained(run)
    assert main(["push", str(run), "user/name"]) == 2
    error = capsys.readouterr().err
    assert f"rdvla train --config '{run / 'config.yaml'}' --resume true" in error


def test_another_folder_with_a_configuration_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}")  # an evaluation has one, too
    with pytest.raises(RDVLAError, match=r"config\.json does not exist"):
        RDVLAPolicy.from_pretrained(tmp_path)
