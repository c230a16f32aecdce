"""Areas under the ROC curve, against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.failure import areas


def test_a_score_that_only_knows_the_task_is_chance_within_tasks():
    tasks = ["easy"] * 4 + ["hard"] * 4
    success = np.array([True, True, True, False, True, False, False, False])
    found = areas(tasks, np.array([5.0] * 4 + [9.0] * 4), success)
    assert found["within tasks"] == 0.5
    assert found["all"] == pytest.approx((9 + 0.5 * 3 + 0.5 * 3) / 16)  # 9 pairs won, 6 tied, 1 lost


def test_an_episodes_own_failure_is_no_part_of_its_prior():
    found = areas(["only"] * 4, np.zeros(4), np.array([True, True, False, False]))
    assert found["task prior"] == 0.0  # a failed one has fewer others that failed


def test_without_failures_there_is_no_area():
    assert np.isnan(areas(["a", "a"], np.ones(2), np.array([True, True]))["all"])
