"""What the benchmark of training in several processes makes of its runs."""

from __future__ import annotations

import pytest

from benchmarks.distributed import rows_of, table

RUNS = [
    {"processes": 1, "seed": 0, "samples_per_second": 10.0, "losses": [1.0, 0.5]},
    {"processes": 2, "seed": 0, "samples_per_second": 18.0, "losses": [1.0, 0.5625]},
    {"processes": 1, "seed": 1, "samples_per_second": 12.0, "losses": [2.0, 1.5]},
    {"processes": 2, "seed": 1, "samples_per_second": 20.0, "losses": [1.75, 1.5]},
]


def test_losses_are_compared_with_the_run_of_the_same_seed() -> None:
    one, two = rows_of(RUNS)
    assert (one["processes"], one["runs"], one["largest_difference"]) == (1, 2, 0.0)
    assert (two["processes"], two["samples_per_second"], two["largest_difference"]) == (2, 19.0, 0.25)
    assert two["last_loss"] == pytest.approx((0.5625 + 1.5) / 2)


def test_the_table_says_what_it_was_measured_on() -> None:
    text = table(rows_of(RUNS), where={"cores": 2})
    assert text.startswith("cores 2\n")
    assert "| 2 | 2 | 19.0 | 1.0312 | 2.5e-01 |" in text
