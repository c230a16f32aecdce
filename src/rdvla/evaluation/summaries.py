"""Episodes summed up: rows by task, summaries by environment (suite), and their average."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rdvla.evaluation.records import Episode, Row
from rdvla.evaluation.statistics import Interval, mean_interval, wilson_interval
from rdvla.rollout.jobs import Setting


@dataclass(frozen=True)
class Summary:
    """One policy under one setting: over the tasks of one environment, or averaged over environments."""

    policy: str
    setting: Setting
    env: str | None  # None: the average over all environments
    rows: tuple[Row, ...]
    success: float | None  # of an environment's episodes pooled; over environments the mean of their values
    interval: Interval  # Wilson 95% of an environment's pooled episodes; over several see `mean_interval`
    mean_depth: float | None  # mean of the tasks, weighted by their episodes; over environments like success
    mean_executed: float | None

    @property
    def episodes(self) -> int:
        """Episodes that ended by themselves."""
        return sum(row.episodes for row in self.rows)

    @property
    def successes(self) -> int:
        """Episodes that ended with success of the policy alone."""
        return sum(row.successes for row in self.rows)

    @property
    def helped(self) -> int:
        """Episodes in which a person drove: none of them counts as a success."""
        return sum(row.helped for row in self.rows)

    @property
    def errors(self) -> int:
        """Episodes that an exception ended."""
        return sum(row.errors for row in self.rows)


def summarise(episodes: Iterable[Episode]) -> list[Row]:
    """Return one row per task and setting, in the order of first appearance."""
    keyed = [((each.policy, each.env, each.task, each.setting), each) for each in episodes]
    return [_row(group) for group in _grouped(keyed).values()]


def sort_rows(rows: Sequence[Row]) -> list[Row]:
    """Return rows for people: policies and environments as they came, tasks by name, depths before rules.

    Fixed depths rise, adaptive rules follow by name, each execution rule as it came. Of one rule, deadlines
    rise, and no deadline comes last.
    """
    order = [
        list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("policy", "execution", "env")
    ]

    def key(row: Row) -> tuple[int, int, bool, int, str, str, float, int, str]:
        policy, execution, env = (
            known.index(value)
            for known, value in zip(order, (row.policy, row.execution, row.env), strict=True)
        )
        setting = row.setting
        depth, deadline = setting.depth, setting.deadline_ms or math.inf
        rule, start = setting.rule, setting.start.kind
        return policy, execution, depth is None, depth or 0, rule, start, deadline, env, row.task

    return sorted(rows, key=key)


def suite_summaries(rows: Iterable[Row]) -> list[Summary]:
    """Return one summary per policy, setting and environment, in the order of first appearance."""
    grouped = _grouped([((row.policy, row.setting, row.env), row) for row in rows])
    return [suite_summary(group) for group in grouped.values()]


def summaries(rows: Iterable[Row]) -> list[Summary]:
    """Return one summary per policy and setting, in which environments have equal weight."""
    grouped = _grouped([((suite.policy, suite.setting), suite) for suite in suite_summaries(rows)])
    return [_average(group) for group in grouped.values()]


def suite_summary(rows: Sequence[Row]) -> Summary:
    """Return the summary of rows that share policy, setting and environment; at least one row.

    Every episode that ended by itself has the same weight, in the values and in the interval. If all tasks
    have equally many, this is the mean over tasks.
    """
    episodes, successes = sum(row.episodes for row in rows), sum(row.successes for row in rows)
    return Summary(
        policy=rows[0].policy,
        setting=rows[0].setting,
        env=rows[0].env,
        rows=tuple(rows),
        success=successes / episodes if episodes else None,
        interval=wilson_interval(successes, episodes),
        mean_depth=_weighted_mean([(row.episodes, row.mean_depth) for row in rows]),
        mean_executed=_weighted_mean([(row.episodes, row.mean_executed) for row in rows]),
    )


def within(summary: Summary, env: str) -> Summary | None:
    """Return the summary of one environment's rows only; None if it has none."""
    rows = [row for row in summary.rows if row.env == env]
    return suite_summary(rows) if rows else None


def _average(suites: Sequence[Summary]) -> Summary:
    estimates = [(suite.success, suite.interval) for suite in suites if suite.success is not None]
    return Summary(
        policy=suites[0].policy,
        setting=suites[0].setting,
        env=None,
        rows=tuple(row for suite in suites for row in suite.rows),
        success=_mean([suite.success for suite in suites]),
        interval=mean_interval(estimates) if len(estimates) == len(suites) else Interval(0.0, 1.0),
        mean_depth=_mean([suite.mean_depth for suite in suites]),
        mean_executed=_mean([suite.mean_executed for suite in suites]),
    )


def _row(group: Sequence[Episode]) -> Row:
    first, ended = group[0], [episode for episode in group if episode.error is None]
    successes = sum(bool(episode.success) for episode in ended)
    interval = wilson_interval(successes, len(ended))
    return Row(
        env=first.env,
        task=first.task,
        policy=first.policy,
        stop=first.stop,
        execution=first.execution,
        episodes=len(ended),
        successes=successes,
        errors=len(group) - len(ended),
        success_low=interval.low,
        success_high=interval.high,
        mean_depth=_mean([depth for episode in ended for depth in episode.depths]),
        mean_executed=_mean([count for episode in ended for count in episode.executed]),
        mean_steps=_mean([episode.steps for episode in ended]),
        helped=sum(episode.success_with_help is not None for episode in ended),
        helped_successes=sum(bool(episode.success_with_help) for episode in ended),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """None without values, or if one is missing: the mean of the others would mean something else."""
    return _weighted_mean([(1, value) for value in values])


def _weighted_mean(weighted: Iterable[tuple[int, float | None]]) -> float | None:
    """The mean of (weight, value), as `_mean`; entries without weight need no value."""
    counted = [(weight, value) for weight, value in weighted if weight]
    present = [(weight, value) for weight, value in counted if value is not None]
    if not present or len(present) < len(counted):
        return None
    return statistics.fmean([value for _, value in present], [weight for weight, _ in present])


Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def _grouped(keyed: Iterable[tuple[Key, Item]]) -> dict[Key, list[Item]]:
    """Items by key, keys in the order of first appearance."""
    groups: dict[Key, list[Item]] = {}
    for key, item in keyed:
        groups.setdefault(key, []).append(item)
    return groups
