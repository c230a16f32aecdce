"""Memory is computed for models of the published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import memory

pytest.importorskip("peft")


def test_the_smallest_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs = memory.compute("SmolVLM2-500M")
    assert needs.parameters == 507_482_304  # as its publisher counts
    # 32 layers: queries and outputs 960, keys and values 5 x 64, inner width 2560; pairs of rank 64
    pairs = 2 * (960 + 960) + 2 * (960 + 320) + 3 * (960 + 2560)
    assert needs.lora_parameters == 32 * 64 * pairs
    assert needs.tokens == 2 * (512 // 64) ** 2 + 40 + 64
    assert needs.frozen == 2 * (507_482_304 - 49_280 * 960)  # without the vocabulary's logits
    assert needs.training(2, checkpointing=False) == needs.frozen + needs.trained + 2 * needs.activations
    assert needs.training(3, checkpointing=True) == needs.frozen + needs.trained + 3 * needs.checkpointed
    # A layer keeps at least its input and the three products of its feed-forward network, in bfloat16.
    assert 32 * needs.tokens * (960 + 3 * 2560) * 2 < needs.activations
    # With checkpointing, every layer's input and one layer's own.
    assert needs.checkpointed == 32 * needs.tokens * 960 * 2 + needs.activations // 32
    memory.main(["--models", "SmolVLM2-500M", "--output", str(tmp_path / "memory.json")])
    assert "| SmolVLM2-500M | 0.51 B | 232 |" in capsys.readouterr().out
    assert (tmp_path / "memory.json").is_file()
