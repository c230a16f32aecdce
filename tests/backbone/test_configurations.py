"""What backbones' configurations answer for themselves, without torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from rdvla.backbone import BackboneConfig, CompactConfig, HuggingFaceConfig, PrismaticConfig
from rdvla.errors import ConfigError

CONFIGS = [CompactConfig(), HuggingFaceConfig(name_or_path="model"), PrismaticConfig()]


def test_configurations_need_no_torch() -> None:
    code = (
        "import sys, rdvla.backbone as backbone;"
        "backbone.CompactConfig(), backbone.PrismaticConfig(), backbone.LoraSettings();"
        "sys.exit(len({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("config", CONFIGS)
def test_how_to_train_on_is_no_part_of_the_weights(config: BackboneConfig) -> None:
    assert set(config.tuning_fields) <= {field.name for field in fields(config)}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_head_must_read_what_the_backbone_yields(config: BackboneConfig) -> None:
    with pytest.raises(ConfigError, match="the head reads the level 'latest'"):
        config.check(cameras=3, image_size=128, levels=("latest",))


@pytest.mark.parametrize("config", CONFIGS)
def test_float32_leaves_no_bfloat16(config: BackboneConfig) -> None:
    assert "bfloat16" in repr(config)
    plain = config.in_float32()
    assert "dtype='bfloat16'" not in repr(plain) and "conv_bfloat16=True" not in repr(plain)
