"""The paired tests that a report shows, and the settings that it holds others to.

Of many settings the one with the most successes is partly the luckiest. So nothing is compared with it, but
with the cheapest setting that paired tests do not tell from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rdvla.evaluation.comparison import outcomes
from rdvla.evaluation.records import Episode
from rdvla.evaluation.statistics import PairedTest, paired_test
from rdvla.evaluation.summaries import Summary

SIGNIFICANT = 0.05
FEWEST_PAIRS = 6  # 5 pairs that all fall to one side still have p = 2 / 2**5 = 0.0625


@dataclass(frozen=True)
class Comparison:
    """Two settings on the same episodes."""

    question: str
    first: Summary
    second: Summary
    test: PairedTest


def compare(
    first: Summary, second: Summary, *, episodes: Sequence[Episode], question: str
) -> Comparison | None:
    """Test two summaries on the episodes that both played; return None if there are none."""
    sides = [
        outcomes(
            each for each in episodes if (each.policy, each.setting) == (summary.policy, summary.setting)
        )
        for summary in (first, second)
    ]
    test = paired_test(*sides)
    return None if test is None else Comparison(question, first, second, test)


def told_apart(test: PairedTest) -> bool:
    """Whether a paired test tells its two sides apart: by its p, or by the interval if it has none."""
    return 0.0 not in test.interval if test.p_value is None else test.p_value < SIGNIFICANT


def too_few(own: Sequence[Summary]) -> bool:
    """Whether no outcome of a paired test could tell any two of these settings apart."""
    return max((summary.episodes for summary in own), default=0) < FEWEST_PAIRS


def enough_depth(own: Sequence[Summary], episodes: Sequence[Episode]) -> Summary | None:
    """Return the smallest fixed depth that a paired test (p < 0.05) does not tell from the best.

    Hold an adaptive rule to it: a deeper setting costs iterations that success does not need. Depths that
    were not played cannot be chosen. None if no depth is fixed, or if there are too few episodes to tell any.

    Args:
        own: the summaries of one policy under one execution rule.
        episodes: of all of them.
    """
    fixed = [each for each in own if each.setting.depth is not None]
    return _cheapest_as_good(fixed, episodes, cost=lambda each: each.setting.depth or 0)


def enough_adaptive(own: Sequence[Summary], episodes: Sequence[Episode]) -> Summary | None:
    """Return the adaptive rule with the fewest iterations that is not told from the best one; see above."""
    adaptive = [each for each in own if each.setting.depth is None and each.mean_depth is not None]
    return _cheapest_as_good(adaptive, episodes, cost=lambda each: each.mean_depth or 0.0)


def _cheapest_as_good(
    candidates: Sequence[Summary], episodes: Sequence[Episode], *, cost: Callable[[Summary], float]
) -> Summary | None:
    played = [each for each in candidates if each.success is not None]
    if len(played) > 1:  # a single success in a single episode is no hundred percent
        played = [each for each in played if each.episodes >= FEWEST_PAIRS]
    if not played:
        return None
    best = max(played, key=lambda each: (each.success or 0.0, -cost(each)))
    for each in sorted(played, key=cost):
        if each is best:
            break
        found = compare(each, best, episodes=episodes, question="enough")
        if found is not None and found.test.pairs >= FEWEST_PAIRS and not told_apart(found.test):
            return each
    return best


def standard_comparisons(
    everything: Sequence[Summary],
    episodes: Sequence[Episode],
    *,
    unlike: Callable[[str, str], bool] | None = None,
) -> list[Comparison]:
    """Return the tests that the report shows; none where there are too few episodes to tell anything apart.

    Adaptive rules against enough depth, deep against enough, other policies against the first policy.

    Args:
        everything: all settings of all policies.
        episodes: of all of them.
        unlike: whether two policies were played under other conditions, so that a test compares those, too;
            None: all were played alike.
    """
    by_policy: dict[str, list[Summary]] = {}
    for summary in everything:
        by_policy.setdefault(summary.policy, []).append(summary)
    pairs: list[tuple[str, Summary, Summary]] = []
    references: list[Summary] = []
    for own in by_policy.values():
        for number, execution in enumerate(dict.fromkeys(each.setting.execution for each in own)):
            same = [each for each in own if each.setting.execution == execution]
            enough = enough_depth(same, episodes)
            pairs += _pairs_of_one_policy(same, enough)
            reference = enough or enough_adaptive(same, episodes)
            if number == 0 and reference is not None:
                references.append(reference)
    pairs += [
        ("against the first policy", rival, references[0])
        for rival in references[1:]
        if unlike is None or not unlike(rival.policy, references[0].policy)
    ]
    tested = (
        compare(first, second, episodes=episodes, question=question) for question, first, second in pairs
    )
    return [comparison for comparison in tested if comparison is not None]


def _pairs_of_one_policy(
    same: Sequence[Summary], enough: Summary | None
) -> list[tuple[str, Summary, Summary]]:
    if enough is None:
        return []
    pairs = [("adaptive against enough depth", each, enough) for each in same if each.setting.depth is None]
    at = {each.setting.depth: each for each in reversed(same) if each.setting.depth is not None}
    if 64 in at and 12 in at:
        pairs.append(("does over-iterating hurt?", at[64], at[12]))
    if 1 in at and enough.setting.depth != 1:
        pairs.append(("does iterating help?", enough, at[1]))
    return pairs
