"""Intervals and tests for success counts. Everything here works on plain numbers and needs no model.

Sources: Wilson (1927) for the interval of a proportion, McNemar (1947) in its exact binomial form for paired
outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NORMAL_975 = 1.959963984540054  # two-sided 95% quantile of the standard normal distribution


@dataclass(frozen=True)
class Interval:
    """A range of plausible values, in the unit of what it is an interval of."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class PairedTest:
    """Two settings compared on the episodes that both played (same task, same seed)."""

    pairs: int
    first_successes: int
    second_successes: int
    only_first: int  # pairs in which only the first setting succeeded
    only_second: int
    p_value: float  # exact McNemar, two-sided
    difference: float  # success of the first minus success of the second
    interval: Interval  # 95% bootstrap interval of the difference


def wilson_interval(successes: int, episodes: int) -> Interval:
    """95% score interval of a success probability; (0, 1) when there was no episode.

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
    # At the ends the formula gives exactly 0 and 1; rounding must not leave it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == episodes else min(1.0, centre + half)
    return Interval(low, high)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value that two paired settings succeed equally often.

    Only pairs in which exactly one setting succeeded inform the test; under the hypothesis each of them falls
    to either side with probability one half.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    discordant, smaller = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, i) for i in range(smaller + 1))
    return min(1.0, float(2 * tail / 2**discordant))


def bootstrap_difference(
    differences: Mapping[str, Sequence[float]], *, resamples: int = 4000, seed: int = 0
) -> Interval:
    """95% percentile interval of the mean paired difference, macro-averaged over groups.

    Episodes are drawn with replacement within each group (task): the tasks are the benchmark, not a sample.
    """
    if not differences or not all(len(values) for values in differences.values()):
        raise ValueError("every group needs at least one difference")
    generator = np.random.default_rng(seed)
    means = np.zeros(resamples)
    for values in differences.values():
        array = np.asarray(values, dtype=np.float64)
        drawn = generator.integers(0, len(array), size=(resamples, len(array)))
        means += array[drawn].mean(axis=1)
    low, high = np.percentile(means / len(differences), [2.5, 97.5])
    return Interval(float(low), float(high))


def paired_test(
    first: Mapping[tuple[str, int], bool], second: Mapping[tuple[str, int], bool]
) -> PairedTest | None:
    """Compare outcomes keyed by (task, seed); None when the settings share no episode."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    groups: dict[str, list[float]] = {}
    for task, seed in shared:
        groups.setdefault(task, []).append(float(first[task, seed]) - float(second[task, seed]))
    only_first = sum(first[key] and not second[key] for key in shared)
    only_second = sum(second[key] and not first[key] for key in shared)
    return PairedTest(
        pairs=len(shared),
        first_successes=sum(first[key] for key in shared),
        second_successes=sum(second[key] for key in shared),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar_exact(only_first, only_second),
        difference=sum(sum(values) / len(values) for values in groups.values()) / len(groups),
        interval=bootstrap_difference(groups),
    )
