import itertools

import numpy as np
import pytest

from rdvla.evaluation.statistics import (
    bootstrap_difference,
    mcnemar_exact,
    paired_test,
    wilson_interval,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(
    ("successes", "episodes"), [(0, 10), (1, 10), (5, 10), (25, 25), (190, 200), (81, 263)]
)
def test_wilson_is_scipys(successes, episodes):
    reference = stats.binomtest(successes, episodes).proportion_ci(method="wilson")
    ours = wilson_interval(successes, episodes)
    assert (ours.low, ours.high) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_known_values():
    # Newcombe (1998), table I, method 3
    assert wilson_interval(81, 263).low == pytest.approx(0.2553, abs=5e-5)
    assert wilson_interval(81, 263).high == pytest.approx(0.3662, abs=5e-5)
    assert wilson_interval(0, 20).high == pytest.approx(0.1611, abs=5e-5)
    assert wilson_interval(1, 29).low == pytest.approx(0.0061, abs=5e-5)


def test_wilson_properties():
    for episodes in (1, 7, 50):
        for successes in range(episodes + 1):
            interval, mirrored = (
                wilson_interval(successes, episodes),
                wilson_interval(episodes - successes, episodes),
            )
            assert successes / episodes in interval
            assert interval.low == pytest.approx(1 - mirrored.high)
    assert wilson_interval(0, 0) == wilson_interval(0, 0)
    assert (wilson_interval(0, 0).low, wilson_interval(0, 0).high) == (0.0, 1.0)


def test_wilson_refuses_impossible_counts():
    for successes, episodes in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="between 0 and episodes"):
            wilson_interval(successes, episodes)


def test_mcnemar_is_the_binomial_test():
    for first, second in itertools.product(range(0, 13, 3), repeat=2):
        if first + second:
            reference = stats.binomtest(first, first + second, 0.5).pvalue
            assert mcnemar_exact(first, second) == pytest.approx(reference)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 64)


def test_bootstrap_of_equal_settings_is_a_point():
    interval = bootstrap_difference({"a": [0.0] * 20, "b": [0.0] * 20})
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_bootstrap_is_close_to_the_normal_interval():
    values = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], size=400, p=[0.1, 0.6, 0.3])
    interval = bootstrap_difference({"a": values})
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)


def test_paired_test_counts_only_shared_episodes():
    first = {("a", 1): True, ("a", 2): True, ("b", 1): False, ("b", 9): True}
    second = {("a", 1): True, ("a", 2): False, ("b", 1): False, ("c", 1): True}
    test = paired_test(first, second)
    assert (test.pairs, test.only_first, test.only_second) == (3, 1, 0)
    assert test.difference == pytest.approx(0.25)  # mean of 0.5 on a and 0.0 on b
    assert test.p_value == 1.0
    assert paired_test(first, {}) is None
