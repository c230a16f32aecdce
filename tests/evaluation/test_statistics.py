import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdvla.evaluation.statistics import (
    Interval,
    mcnemar_exact,
    mean_interval,
    newcombe_interval,
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


def newcombe(both, only_first, only_second, neither):
    return newcombe_interval(both=both, only_first=only_first, only_second=only_second, neither=neither)


COUNTS = st.tuples(*[st.integers(0, 40)] * 4).filter(any)


@given(counts=COUNTS)
def test_newcombe_is_symmetric_and_holds_the_difference(counts):
    both, first, second, neither = counts
    interval, swapped = newcombe(*counts), newcombe(both, second, first, neither)
    difference = (first - second) / sum(counts)
    assert interval.low - 1e-12 <= difference <= interval.high + 1e-12
    assert -1 - 1e-12 <= interval.low <= interval.high <= 1 + 1e-12
    assert interval.low == pytest.approx(-swapped.high)
    mirrored = newcombe(neither, second, first, both)  # failures counted in place of successes
    assert interval.low == pytest.approx(-mirrored.high)


def test_newcombe_keeps_a_width_when_both_sides_always_agree():
    interval = newcombe(10, 0, 0, 0)
    assert interval.low == pytest.approx(-interval.high)
    assert interval.high == pytest.approx(1 - wilson_interval(10, 10).low)


@pytest.mark.parametrize("chances", [(0.6, 0.1, 0.1, 0.2), (0.8, 0.1, 0.05, 0.05), (0.3, 0.3, 0.1, 0.3)])
def test_newcombe_covers_the_true_difference(chances):
    """By enumerating every outcome of 20 pairs."""
    pairs, covered = 20, 0.0
    distribution = stats.multinomial(pairs, chances)
    for counts in itertools.product(range(pairs + 1), repeat=3):
        if sum(counts) <= pairs:
            whole = (*counts, pairs - sum(counts))
            covered += distribution.pmf(whole) * (chances[1] - chances[2] in newcombe(*whole))
    assert covered >= 0.94


def test_newcombe_known_value():
    # Fagerland, Lydersen and Laake, "Recommended tests and confidence intervals for paired binomial
    # proportions" (2014): airway hyper-responsiveness before and after transplantation
    interval = newcombe(1, 1, 7, 12)
    assert (interval.low, interval.high) == pytest.approx((-0.507, -0.026), abs=5e-4)


def test_newcombe_refuses_impossible_counts():
    for counts in ((0, 0, 0, 0), (1, -1, 0, 3)):
        with pytest.raises(ValueError, match="counts must not be"):
            newcombe(*counts)


def test_the_interval_of_a_mean():
    one = (0.5, Interval(0.3, 0.8))
    assert mean_interval([one]) == one[1]
    mean = mean_interval([one] * 4)  # half the width, around the same value
    assert (mean.low, mean.high) == pytest.approx((0.4, 0.65))
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_paired_test_counts_only_shared_episodes():
    first = {("e", "a", 1): True, ("e", "a", 2): True, ("e", "b", 1): False, ("e", "b", 9): True}
    second = {("e", "a", 1): True, ("e", "a", 2): False, ("e", "b", 1): False, ("f", "a", 1): True}
    test = paired_test(first, second)
    assert (test.pairs, test.only_first, test.only_second) == (3, 1, 0)
    assert test.difference == pytest.approx(1 / 3)
    assert (test.first_success, test.second_success) == pytest.approx((2 / 3, 1 / 3))
    assert test.interval == newcombe(1, 1, 0, 1)
    assert test.p_value == 1.0
    assert paired_test(first, {}) is None


def test_environments_have_equal_weight():
    first = {("small", "a", seed): True for seed in range(2)} | {
        ("big", "a", seed): False for seed in range(90)
    }
    second = dict.fromkeys(first, False)
    test = paired_test(first, second)
    assert (test.pairs, test.only_first) == (92, 2)
    assert (test.first_success, test.difference) == (0.5, 0.5)


def grown(env, *, only_first, only_second, neither):
    """Outcomes of both sides in one environment."""
    sides = [(True, False)] * only_first + [(False, True)] * only_second + [(False, False)] * neither
    return [{(env, "a", seed): pair[side] for seed, pair in enumerate(sides)} for side in (0, 1)]


def test_no_p_that_contradicts_the_difference():
    """The first is better in the small environment, the second in the large one, which has more pairs."""
    small = grown("small", only_first=8, only_second=0, neither=2)
    large = grown("large", only_first=0, only_second=30, neither=170)
    test = paired_test(small[0] | large[0], small[1] | large[1])
    assert test.difference > 0 and test.only_first < test.only_second
    assert mcnemar_exact(test.only_first, test.only_second) < 0.001  # in favour of the second
    assert test.p_value is None
    alone = [paired_test(*one) for one in (small, large)]
    assert [one.p_value for one in alone] == [mcnemar_exact(8, 0), mcnemar_exact(0, 30)]


def test_equal_counts_of_pairs_are_pooled():
    one = grown("one", only_first=5, only_second=1, neither=14)
    other = grown("other", only_first=4, only_second=2, neither=14)
    test = paired_test(one[0] | other[0], one[1] | other[1])
    assert test.p_value == mcnemar_exact(9, 3)
    assert test.difference == pytest.approx((9 - 3) / 40)
