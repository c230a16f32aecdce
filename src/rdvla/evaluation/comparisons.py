"""Paired tests between settings and policies that played the same episodes: what the report shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdvla.evaluation.aggregate import Summary, best_fixed
from rdvla.evaluation.records import Episode
from rdvla.evaluation.statistics import PairedTest, paired_test


@dataclass(frozen=True)
class Comparison:
    """Two settings on the same episodes."""

    question: str
    first: Summary
    second: Summary
    test: PairedTest


def outcomes(episodes: Iterable[Episode]) -> dict[tuple[str, str, int], bool]:
    """Success by (environment, task, seed), of the episodes that ended by themselves."""
    return {(one.env, one.task, one.seed): bool(one.success) for one in episodes if one.error is None}


def compare(
    first: Summary, second: Summary, *, episodes: Sequence[Episode], question: str
) -> Comparison | None:
    """Test two summaries on the episodes that both played; None when there are none."""
    sides = [
        outcomes(one for one in episodes if (one.policy, one.setting) == (summary.policy, summary.setting))
        for summary in (first, second)
    ]
    test = paired_test(*sides)
    return None if test is None else Comparison(question, first, second, test)


def standard_comparisons(everything: Sequence[Summary], episodes: Sequence[Episode]) -> list[Comparison]:
    """Adaptive against the best fixed depth, deep against enough, other policies against the first one."""
    by_policy: dict[str, list[Summary]] = {}
    for one in everything:
        by_policy.setdefault(one.policy, []).append(one)
    pairs: list[tuple[str, Summary, Summary]] = []
    for own in by_policy.values():
        pairs += _adaptive_pairs(own) + _depth_pairs(own)
    bests = [best for own in by_policy.values() if (best := best_fixed(own)) is not None]
    pairs += [("against the first policy", rival, bests[0]) for rival in bests[1:]]
    tested = (
        compare(first, second, episodes=episodes, question=question) for question, first, second in pairs
    )
    return [one for one in tested if one is not None]


def _adaptive_pairs(own: Sequence[Summary]) -> list[tuple[str, Summary, Summary]]:
    pairs = []
    for adaptive in own:
        same = [one for one in own if one.setting.execution == adaptive.setting.execution]
        best = best_fixed(same)
        if adaptive.setting.depth is None and best is not None:
            pairs.append(("adaptive against the best fixed depth", adaptive, best))
    return pairs


def _depth_pairs(own: Sequence[Summary]) -> list[tuple[str, Summary, Summary]]:
    """Depth 64 against 12 where both are there, and the best depth against depth 1."""
    pairs = []
    at = {one.setting.depth: one for one in reversed(own) if one.setting.depth is not None}
    if 64 in at and 12 in at:
        pairs.append(("does over-iterating hurt?", at[64], at[12]))
    best = best_fixed(list(at.values()))
    if 1 in at and best is not None and best.setting.depth != 1:
        pairs.append(("does iterating help?", best, at[1]))
    return pairs
