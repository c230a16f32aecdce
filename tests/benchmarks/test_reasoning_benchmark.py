"""The benchmark of text against iterations runs, and counts what there is to count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import reasoning


def test_it_measures_both_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "reasoning.json"
    reasoning.main(
        ["--size", "tiny", "--dtype", "bfloat16", "--tokens", "2", "5", "--depths", "1", "4", "--rounds", "2",
         "--output", str(output)]
    )  # fmt: skip
    result = json.loads(output.read_text())
    assert [row["tokens"] for row in result["text"]] == [2, 5]
    assert [row["depth"] for row in result["iterations"]] == [1, 4]
    assert [(row["tokens"], row["depth"]) for row in result["ratios"]] == [(2, 1), (2, 4), (5, 1), (5, 4)]
    # keys and values, 2 layers, 1 head of 16 numbers of 2 bytes; prompt 8 + 6, latents 4
    a_token = 2 * 2 * 1 * 16 * 2
    assert [row["cache_bytes"] for row in result["text"]] == [a_token * (18 + 2), a_token * (18 + 5)]
    assert [row["cache_bytes_of_tokens"] for row in result["text"]] == [a_token * 2, a_token * 5]
    assert [row["state_bytes"] for row in result["iterations"]] == [8 * 32 * 2] * 2
    shown = capsys.readouterr().out
    assert "5 tokens" in shown and "4 iterations" in shown and str(output) in shown


def test_the_paper_size_is_the_papers() -> None:
    size = reasoning.SIZES["paper"]
    with torch.device("meta"):
        language = reasoning.make_reader(size, torch.bfloat16)
    count = sum(parameter.numel() for parameter in language.language.parameters())
    assert count == pytest.approx(0.494e9, rel=0.01)  # Qwen2.5-0.5B
    assert (size.images, size.latents, language.layers) == (512, 64, (12, 24))
