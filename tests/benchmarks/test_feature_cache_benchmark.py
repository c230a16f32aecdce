"""The benchmark of the feature cache, run on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import feature_cache
from rdvla.heads import RecurrentConfig
from tests.support.published_checkpoint import BACKBONE


@pytest.mark.slow
def test_steps_and_filling_are_measured(tmp_path: Path) -> None:
    language = replace(BACKBONE.language, vocab_size=feature_cache.VOCABULARY)
    backbone = replace(BACKBONE, language=language, max_prompt_tokens=128)
    head = RecurrentConfig(
        hidden_dim=16, num_heads=2, context_dim=language.width, action_dim=feature_cache.JOINTS,
        prelude=(), core=(backbone.levels[-1],), coda=(),
    )  # fmt: skip
    config = feature_cache.prepare(tmp_path, backbone=backbone, head=head, samples=8, batch_size=2, depth=2)
    *_, result = feature_cache.measure(config, tmp_path, rounds=2, processes=[1])
    assert set(result["steps"]) == {feature_cache.CACHED, feature_cache.THROUGH}
    assert result["ratio"]["median"] > 0 and result["filling"][0]["samples_per_second"] > 0
    assert len(list(tmp_path.glob("filled-by-1/*/shard-*"))) == 2
    assert "| ratio |" in "\n".join(feature_cache.tables(result))
