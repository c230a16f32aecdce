"""The configuration files that ship are valid, and agree with each other and with the Makefile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rdvla.assets import config_names
from rdvla.backbone import HuggingFaceConfig
from rdvla.cli.train import in_full
from rdvla.config import load_config
from rdvla.evaluation import EvaluationConfig, resolve_suites
from rdvla.simulation import default_tasks, resolve_tasks
from rdvla.simulation.demonstrations import DemonstrationConfig
from rdvla.training import TrainConfig
from tests.support.documents import blocks

ROOT = Path(__file__).parents[1]
SHIPPED = config_names()


def kind_of(name: str) -> type[Any]:
    stem = name.rpartition("/")[2]
    if stem.startswith("demos"):
        return DemonstrationConfig
    return EvaluationConfig if stem.startswith(("eval", "demo")) else TrainConfig


@pytest.mark.parametrize("name", SHIPPED)
def test_it_loads(name: str):
    config = load_config(kind_of(name), ["--config", name])
    if isinstance(config, EvaluationConfig):
        assert all(suite.tasks for suite in resolve_suites(config))
    elif isinstance(config, DemonstrationConfig):
        assert resolve_tasks(config.env, config.tasks or default_tasks(config.env))


def reproduce(name: str, kind: type[Any]) -> Any:
    return load_config(kind, ["--config", f"reproduce/{name}"])


def test_heads_are_compared_on_equal_terms():
    tied, single, untied = (reproduce(name, TrainConfig) for name in ("recurrent", "single_pass", "untied"))
    for other in (single, untied):
        for name in ("dataset", "steps", "batch_size", "optimizer", "data", "init_from", "loss", "seed"):
            assert getattr(other, name) == getattr(tied, name), name
    assert single.policy == tied.policy
    recurrent, one, all_untied = (
        reproduce(f"eval_{name}", EvaluationConfig) for name in ("recurrent", "single_pass", "untied")
    )
    for other in (one, all_untied):
        for name in ("tasks", "episodes", "seed", "execution", "max_steps"):
            assert getattr(other, name) == getattr(recurrent, name), name


def test_commands_in_the_documents_are_understood():
    shown = [words for block in blocks("docs/backbones.md") for words in block.commands()]
    commands = [words for words in shown if words[:2] == ["rdvla", "train"]]
    assert len(commands) == 2
    for command in commands:
        config = load_config(TrainConfig, in_full(command[2:]))
        assert isinstance(config.policy.backbone, HuggingFaceConfig)
        assert set(config.policy.head.levels) == set(config.policy.backbone.levels)


def test_help_tells_equal_names_of_backbones_apart(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load_config(TrainConfig, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    compact, published = shown.split("HuggingFaceConfig ['policy.backbone']")
    assert "backbone.layers int layers of the latent transformer" in compact
    assert "backbone.levels int [int, ...] hidden states the head may read" in published
    assert "LoraSettings ['policy.backbone.lora']: How a published model is fine-tuned" in published


def test_both_stages_on_libero_build_the_same_policy():
    perception, head = (
        load_config(TrainConfig, ["--config", f"libero/{name}"]) for name in ("perception", "recurrent")
    )
    assert perception.policy == head.policy and perception.data == head.data
    assert head.init_from == f"{perception.output_dir}/policy"


def test_makefile_names_files_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"scripts/\w+\.sh", makefile):
        assert (ROOT / name).is_file(), name
    named = re.findall(r"--config (\S+)", makefile)
    assert len(named) >= 7
    for name in named:
        if "*" not in name:
            assert name in SHIPPED, name
    for head in re.search(r"^HEADS := (.*)$", makefile, re.MULTILINE)[1].split():
        assert reproduce(head, TrainConfig).output_dir == f"runs/reproduce/{head}"
        assert reproduce(f"eval_{head}", EvaluationConfig).policy == f"runs/reproduce/{head}/policy"
        assert reproduce(f"eval_{head}", EvaluationConfig).output == f"runs/reproduce/eval_{head}"
