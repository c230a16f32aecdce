"""The benchmark of batches answers the same queries in every size."""

from __future__ import annotations

from benchmarks.serving_inference import SIZES, measure


def test_every_batch_size_is_measured() -> None:
    found = measure("metaworld", stop="3", rounds=1)
    assert [row["batch"] for row in found["rows"]] == list(SIZES)
    assert found["mean_depth"] == 3
