"""Configurations of runs: values out of range and contradictions are named, and files give them back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdvla.config import decode_config, encode_config
from rdvla.errors import ConfigError
from rdvla.training import TrainConfig
from rdvla.training.config import (
    DataConfig,
    DepthConfig,
    LossConfig,
    OptimizerConfig,
    ValidationConfig,
    WarmStartConfig,
)
from tests.support.regression_head import RegressionConfig
from tests.support.tiny_training import policy_config, train_config

ALL = WarmStartConfig(share=1.0, executed=3, depth=2)
OTHER_HEAD = replace(policy_config(), head=RegressionConfig(chunk_size=4, action_dim=4))


def test_configuration_survives_its_file(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    assert decode_config(TrainConfig, encode_config(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "action"}, "Did you mean 'actions'"),
        ({"steps": 0}, "steps is 0"),
        ({"dataset": ""}, "dataset is empty"),
        ({"objective": "perception", "freeze_backbone": True}, "freeze_backbone=false"),
        ({"freeze_backbone": True, "loss": LossConfig(perception_weight=1.0)}, "set it to 0"),
        ({"optimizer": OptimizerConfig(warmup_steps=12)}, "shorten the warm-up"),
        ({"init_parts": ("eyes",)}, "init_parts is 'eyes'"),
        ({"init_from": "x", "init_parts": ()}, "init_parts is empty"),
        ({"policy": OTHER_HEAD, "loss": LossConfig(candidates=2)}, "loss.candidates is 2, but .* recurrent"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(train_config(Path("data"), Path("run")), **changes)


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (DataConfig, {"validation_fraction": 1.0}, "validation_fraction"),
        (DataConfig, {"image_shift": -1}, "image_shift"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate"),
        (OptimizerConfig, {"beta2": 1.0}, "beta2"),
        (DepthConfig, {"minimum": 9, "maximum": 8}, "below depth.minimum"),
        (DepthConfig, {"distribution": "constant", "mean": 1.5}, "whole number"),
        (ValidationConfig, {"depths": ()}, "one or more depths"),
    ],
)
def test_values_out_of_range_are_named(group: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        group(**values)


# --- warm starts ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"share": 1.5}, r"warm_start\.share is 1\.5; it must be in 0\.\.1"),
        ({"share": float("nan")}, r"warm_start\.share"),
        ({"kind": "shited"}, "Did you mean 'shifted'"),
        ({"kind": "noise"}, r"warm_start\.kind is 'noise'; it must be one of"),
        ({"executed": 0}, r"warm_start\.executed is 0"),
        ({"depth": 0}, r"warm_start\.depth is 0"),
    ],
)
def test_warm_start_values_out_of_range_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WarmStartConfig(**values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "perception"}, "objective=perception iterates nothing; set it to 0"),
        ({"warm_start": replace(ALL, executed=5)}, r"executed is 5.*at most 4"),
        ({"warm_start": replace(ALL, executed=4, kind="shifted")}, r"kind=shifted.*at most 3"),
    ],
)
def test_warm_start_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_config(Path("data"), Path("run"), **({"warm_start": ALL} | changes))
    off = changes.get("warm_start", ALL)
    train_config(Path("data"), Path("run"), **(changes | {"warm_start": replace(off, share=0.0)}))


def test_a_warm_start_survives_its_file(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path, warm_start=replace(ALL, kind="midpoint"))
    assert decode_config(TrainConfig, encode_config(config)) == config
