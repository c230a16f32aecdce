"""Intervals and tests for success counts. Everything here works on plain numbers and needs no model.

Sources: Wilson (1927) for the interval of a proportion; McNemar (1947), in its exact binomial form, for
paired outcomes; Newcombe, "Improved confidence intervals for the difference between binomial proportions
based on paired data" (1998); Zou and Donner, "Construction of confidence limits about effect measures"
(2008), for means.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

NORMAL_975 = 1.959963984540054  # two-sided 95% quantile of the standard normal distribution

Outcomes = Mapping[tuple[str, str, int], bool]  # (environment, task, seed) -> success


@dataclass(frozen=True)
class Interval:
    """A range of plausible values, in the unit of the estimate."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class PairedTest:
    """Two settings compared on the episodes that both played (same environment, task and seed)."""

    pairs: int
    first_success: float  # fraction of the pairs; over several environments the mean of their fractions
    second_success: float
    only_first: int  # pairs in which only the first setting succeeded
    only_second: int
    p_value: float | None  # exact McNemar, two-sided; None if it would mislead, see `paired_test`
    difference: float  # success of the first minus success of the second
    interval: Interval  # 95%, of the difference: Newcombe's


def wilson_interval(successes: int, episodes: int) -> Interval:
    """Return the 95% score interval of a success probability; (0, 1) if there was no episode.

    Raises:
        ValueError: `successes` is not between 0 and `episodes`.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"successes must be between 0 and episodes, got {successes} of {episodes}")
    if episodes == 0:
        return Interval(0.0, 1.0)
    p, z2 = successes / episodes, NORMAL_975**2
    centre = (p + z2 / (2 * episodes)) / (1 + z2 / episodes)
    half = NORMAL_975 / (1 + z2 / episodes) * math.sqrt(p * (1 - p) / episodes + z2 / (4 * episodes**2))
    # At the ends the formula gives exactly 0 and 1, which rounding must not change.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of the hypothesis that two paired settings succeed equally often.

    Only pairs in which exactly one setting succeeded inform the test. Under the hypothesis each of them falls
    to either side with probability one half.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    discordant, smaller = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, i) for i in range(smaller + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def newcombe_interval(*, both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """Return the 95% interval of the difference of two paired success probabilities, from the four counts.

    Newcombe's square-and-add interval (his method 10) combines two Wilson intervals by the outcomes'
    correlation. Unlike a bootstrap it keeps a width if both sides always agree.

    Raises:
        ValueError: a count is negative, or all are zero.
    """
    counts = (both, only_first, only_second, neither)
    if min(counts) < 0 or sum(counts) == 0:
        raise ValueError(f"counts must not be negative or all zero, got {counts}")
    pairs = sum(counts)
    first, second = both + only_first, both + only_second
    p, q = first / pairs, second / pairs
    of_first, of_second = wilson_interval(first, pairs), wilson_interval(second, pairs)
    agreement: float = both * neither - only_first * only_second
    if agreement > 0:  # continuity correction
        agreement = max(agreement - pairs / 2, 0.0)
    margins = first * (pairs - first) * second * (pairs - second)
    phi = agreement / math.sqrt(margins) if margins else 0.0

    def half(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 - 2 * phi * a * b + b**2))

    return Interval(
        p - q - half(p - of_first.low, of_second.high - q),
        p - q + half(of_first.high - p, q - of_second.low),
    )


def mean_interval(estimates: Sequence[tuple[float, Interval]]) -> Interval:
    """Return the interval of the mean of independent estimates with intervals (Zou and Donner's MOVER).

    Raises:
        ValueError: there is no estimate.
    """
    if not estimates:
        raise ValueError("at least one estimate is needed")
    if len(estimates) == 1:
        return estimates[0][1]
    mean = math.fsum(value for value, _ in estimates) / len(estimates)
    below = math.sqrt(math.fsum((value - interval.low) ** 2 for value, interval in estimates)) / len(
        estimates
    )
    above = math.sqrt(math.fsum((interval.high - value) ** 2 for value, interval in estimates)) / len(
        estimates
    )
    return Interval(mean - below, mean + above)


def paired_test(first: Outcomes, second: Outcomes) -> PairedTest | None:
    """Compare the outcomes of the episodes that both hold; return None if there is none.

    Several environments have equal weight in success and difference, however many episodes each has.
    McNemar's test counts all pairs alike, so it asks the same question only if all environments have equally
    many pairs. Otherwise its p could contradict the difference, and there is none. Use the interval: if it
    holds zero, the two are not told apart.
    """
    shared = first.keys() & second.keys()
    if not shared:
        return None
    suites = [_counts(first, second, [key for key in shared if key[0] == env]) for env in _names(shared)]
    only_first, only_second = sum(suite[1] for suite in suites), sum(suite[2] for suite in suites)
    differences = [
        (
            (suite[1] - suite[2]) / sum(suite),
            newcombe_interval(both=suite[0], only_first=suite[1], only_second=suite[2], neither=suite[3]),
        )
        for suite in suites
    ]
    return PairedTest(
        pairs=len(shared),
        first_success=math.fsum((suite[0] + suite[1]) / sum(suite) for suite in suites) / len(suites),
        second_success=math.fsum((suite[0] + suite[2]) / sum(suite) for suite in suites) / len(suites),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar_exact(only_first, only_second)
        if len({sum(suite) for suite in suites}) == 1
        else None,
        difference=math.fsum(difference for difference, _ in differences) / len(suites),
        interval=mean_interval(differences),
    )


def _names(keys: Iterable[tuple[str, str, int]]) -> list[str]:
    return sorted({env for env, _, _ in keys})


def _counts(
    first: Outcomes, second: Outcomes, keys: Iterable[tuple[str, str, int]]
) -> tuple[int, int, int, int]:
    """Count pairs in which both, only the first, only the second, and neither succeeded."""
    counted = Counter((first[key], second[key]) for key in keys)
    return counted[True, True], counted[True, False], counted[False, True], counted[False, False]
