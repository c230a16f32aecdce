"""Rows of several tasks put together: one summary for each policy and setting, and paired comparisons."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rdvla.evaluation.results import Episode, Results, ResultsError, Row
from rdvla.evaluation.setting import Setting
from rdvla.evaluation.statistics import Interval, PairedTest, paired_test, wilson_interval


@dataclass(frozen=True)
class Summary:
    """One policy under one setting, over all tasks."""

    policy: str
    setting: Setting
    rows: tuple[Row, ...]
    success: float | None  # mean over tasks
    interval: Interval  # Wilson 95% of all episodes together
    mean_depth: float | None  # mean over tasks
    mean_executed: float | None
    query_ms: float | None

    @property
    def episodes(self) -> int:
        """Episodes that ended by themselves."""
        return sum(row.episodes for row in self.rows)

    @property
    def errors(self) -> int:
        """Episodes that ended with an exception."""
        return sum(row.errors for row in self.rows)


@dataclass(frozen=True)
class Comparison:
    """Two settings on the same episodes."""

    question: str
    first: Summary
    second: Summary
    test: PairedTest


def merge(results: Sequence[Results]) -> tuple[list[Row], list[Episode]]:
    """Rows and episodes of several results.

    Raises:
        ResultsError: two of them hold the same policy label, task and setting.
    """
    rows = [row for one in results for row in one.rows]
    seen: set[tuple[str, str, str, Setting]] = set()
    for row in rows:
        key = (row.policy, row.env, row.task, row.setting)
        if key in seen:
            raise ResultsError(
                f"two results hold policy '{row.policy}' on {row.task} at {row.setting.describe()}: "
                "evaluate with another label, or leave one of the files out"
            )
        seen.add(key)
    return rows, [episode for one in results for episode in one.episodes]


def summaries(rows: Iterable[Row]) -> list[Summary]:
    """One summary for each policy and setting, in the order of first appearance."""
    groups: dict[tuple[str, Setting], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.policy, row.setting), []).append(row)
    return [_summary(policy, setting, group) for (policy, setting), group in groups.items()]


def _summary(policy: str, setting: Setting, rows: Sequence[Row]) -> Summary:
    return Summary(
        policy=policy,
        setting=setting,
        rows=tuple(rows),
        success=_mean([row.success for row in rows]),
        interval=wilson_interval(sum(row.successes for row in rows), sum(row.episodes for row in rows)),
        mean_depth=_mean([row.mean_depth for row in rows]),
        mean_executed=_mean([row.mean_executed for row in rows]),
        query_ms=_mean([row.query_ms for row in rows]),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def best_fixed(candidates: Sequence[Summary]) -> Summary | None:
    """The fixed depth with the highest mean success; the smallest one among equals."""
    fixed = [one for one in candidates if one.setting.depth is not None and one.success is not None]
    return max(fixed, key=lambda one: (one.success or 0.0, -(one.setting.depth or 0)), default=None)


def compare(
    first: Summary, second: Summary, *, episodes: Iterable[Episode], question: str
) -> Comparison | None:
    """Test two summaries on the episodes that both played; None when there are none."""
    outcomes: tuple[dict[tuple[str, int], bool], ...] = ({}, {})
    for episode in (one for one in episodes if one.error is None):
        for side, summary in zip(outcomes, (first, second), strict=True):
            if (episode.policy, episode.setting) == (summary.policy, summary.setting):
                side[f"{episode.env}/{episode.task}", episode.seed] = bool(episode.success)
    test = paired_test(*outcomes)
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
