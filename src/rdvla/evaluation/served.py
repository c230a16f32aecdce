"""What policy servers did with the queries of an evaluation: times, and deadlines kept."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from rdvla.evaluation.records import Episode
from rdvla.rollout.jobs import Setting


@dataclass(frozen=True)
class ServedShares:
    """The queries of one setting."""

    queries: int
    median_ms: float  # from asking to the answer
    ended_by_deadline: float | None  # share that a deadline ended; None: the server does not say
    kept: float | None  # share that was answered within its deadline, network included; None: there is none


def served_shares(episodes: Iterable[Episode]) -> dict[Setting, ServedShares]:
    """Return what happened to the queries of every setting that a server answered."""
    grouped: dict[Setting, list[Episode]] = {}
    for episode in episodes:
        if episode.served is not None and episode.served.milliseconds:
            grouped.setdefault(episode.setting, []).append(episode)
    return {setting: _shares(setting, group) for setting, group in grouped.items()}


def _shares(setting: Setting, episodes: Iterable[Episode]) -> ServedShares:
    served = [episode.served for episode in episodes if episode.served is not None]
    times = [each for queries in served for each in queries.milliseconds]
    ends = [each for queries in served for each in queries.ended_by]
    deadline = setting.deadline_ms
    return ServedShares(
        queries=len(times),
        median_ms=statistics.median(times),
        ended_by_deadline=ends.count("deadline") / len(ends) if ends else None,
        kept=None if deadline is None else sum(each <= deadline for each in times) / len(times),
    )
