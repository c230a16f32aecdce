"""Datasets and policies that call the simulator's truth an observation, as older versions did."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from safetensors.torch import load_file

from rdvla.training import Trainer, train
from rdvla.training.config import LossConfig
from tests.support.datasets import give_former_names
from tests.support.tiny_training import train_config

QUIET = Console(quiet=True)
BOTH = LossConfig(perception_weight=0.5)


def test_a_run_on_former_names_is_the_same_and_resumes(dataset: Path, tmp_path: Path) -> None:
    old = give_former_names(Path(shutil.copytree(dataset, tmp_path / "old")))
    weights = []
    for root in (dataset, old):
        config = train_config(root, tmp_path / f"run_{root.name}", steps=6, loss=BOTH)
        assert train(config, console=QUIET).finished
        resumed = train(replace(config, resume=True), console=QUIET)
        assert resumed.finished and resumed.policy_dir is not None
        weights.append(load_file(resumed.policy_dir / "model.safetensors"))
        statistics = json.loads((resumed.policy_dir / "statistics.json").read_text())
        assert "privileged.environment_state" in statistics
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


def test_a_policy_with_former_names_is_fine_tuned_and_keeps_all_its_statistics(
    dataset: Path, tmp_path: Path
) -> None:
    first = train(train_config(dataset, tmp_path / "first", steps=6, loss=BOTH), console=QUIET).policy_dir
    assert first is not None
    text = (first / "statistics.json").read_text()
    old = text.replace('"privileged.environment_state"', '"observation.environment_state"')
    assert old != text
    (first / "statistics.json").write_text(old)
    (first / "checksums.json").unlink()
    config = train_config(
        dataset, tmp_path / "second", init_from=str(first), init_parts=("backbone", "head"), loss=BOTH
    )
    statistics = Trainer(config, console=QUIET).policy.statistics
    expected = json.loads(text)
    for name in ("action", "observation.state", "privileged.environment_state"):
        assert statistics[name]["q01"] == expected[name]["q01"]
