"""Paired tests on episodes that both sides played: same environment, task, seed and conditions.

`compare_runs` compares two evaluations; `rdvla.evaluation.standard` settings and policies for the report.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rdvla.evaluation.records import Episode, ResultsError
from rdvla.evaluation.results import Results, check_alike
from rdvla.evaluation.statistics import PairedTest, paired_test
from rdvla.rollout.jobs import Setting


def outcomes(episodes: Iterable[Episode]) -> dict[tuple[str, str, int], bool]:
    """Return success by (environment, task, seed), for the episodes that ended by themselves."""
    return {(each.env, each.task, each.seed): bool(each.success) for each in episodes if each.error is None}


@dataclass(frozen=True)
class Side:
    """Either of two evaluations, under one setting."""

    policy: str
    setting: Setting
    unpaired: int  # episodes that the other side did not play to an end
    errors: int  # episodes that ended with an exception, which are left out

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.policy}, {self.setting.describe()}, {self.setting.execution}"


@dataclass(frozen=True)
class PairedRuns:
    """Two evaluations, each under one setting, on the episodes that they share."""

    first: Side
    second: Side
    suites: dict[str, PairedTest]  # by environment
    total: PairedTest  # environments with equal weight


@dataclass(frozen=True)
class Compared:
    """What two evaluations have in common."""

    pairs: list[PairedRuns]
    left_out: list[Setting]  # of either evaluation; they share no episode under these

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return dataclasses.asdict(self)


def compare_runs(
    first: Results,
    second: Results,
    *,
    first_setting: Setting | None = None,
    second_setting: Setting | None = None,
) -> Compared:
    """Compare two evaluations by paired tests.

    Args:
        first: an evaluation; differences are its success minus the other's.
        second: the other; the same results twice compare two settings of an evaluation.
        first_setting: the setting of `first` to compare. If just one of the two is given, it holds for both;
            if neither is, every setting that both evaluations have is compared with itself, and settings
            without a shared episode are left out.
        second_setting: the setting of `second`.

    Raises:
        ResultsError: the evaluations share no setting or no episode, or differ in step limits, rendering or
            another entry of the protocol; or one of them holds an episode twice.
    """
    check_alike(first, second)
    compared = [
        _pair(first, second, settings=pair)
        for pair in _setting_pairs(first, second, named=(first_setting, second_setting))
    ]
    found = [pair for pair in compared if pair is not None]
    if not found:
        raise ResultsError(
            "the two evaluations share no episode (same environment, task and seed): "
            f"the first has {_extent(first)}, the second {_extent(second)}"
        )
    if first_setting is not None or second_setting is not None:
        return Compared(pairs=found, left_out=[])
    settings = dict.fromkeys(row.setting for row in [*first.rows, *second.rows])
    kept = {pair.first.setting for pair in found}
    return Compared(pairs=found, left_out=[setting for setting in settings if setting not in kept])


def _setting_pairs(
    first: Results, second: Results, *, named: tuple[Setting | None, Setting | None]
) -> list[tuple[Setting, Setting]]:
    available = [list(dict.fromkeys(row.setting for row in side.rows)) for side in (first, second)]
    if named == (None, None):
        both = [(setting, setting) for setting in available[0] if setting in available[1]]
        if not both:
            raise ResultsError(
                f"the two evaluations share no setting: the first has {_names(available[0])}, "
                f"the second {_names(available[1])}; name one of each"
            )
        return both
    wanted = (named[0] or named[1], named[1] or named[0])
    for setting, there, which in zip(wanted, available, ("first", "second"), strict=True):
        if setting not in there:
            missing = "" if setting is None else _names([setting])
            raise ResultsError(f"the {which} evaluation has no setting {missing}; it has {_names(there)}")
    assert wanted[0] is not None and wanted[1] is not None
    return [(wanted[0], wanted[1])]


def _pair(first: Results, second: Results, *, settings: tuple[Setting, Setting]) -> PairedRuns | None:
    own = [
        [episode for episode in side.episodes if episode.setting == setting]
        for side, setting in zip((first, second), settings, strict=True)
    ]
    for episodes in own:
        _played_once(episodes)
    played = [outcomes(episodes) for episodes in own]
    total = paired_test(*played)
    if total is None:
        return None
    tests = {
        env: paired_test(*({key: side[key] for key in side if key[0] == env} for side in played))
        for env in dict.fromkeys(key[0] for key in played[0])
    }
    sides = [
        Side(
            policy=episodes[0].policy,
            setting=setting,
            unpaired=len(done) - total.pairs,
            errors=len(episodes) - len(done),
        )
        for episodes, done, setting in zip(own, played, settings, strict=True)
    ]
    suites = {env: test for env, test in tests.items() if test is not None}
    return PairedRuns(first=sides[0], second=sides[1], suites=suites, total=total)


def _played_once(episodes: Sequence[Episode]) -> None:
    """Check that no episode is there twice: pairs would be made of episodes of several policies."""
    counted = Counter((each.env, each.task, each.seed) for each in episodes)
    for (env, task, seed), count in counted.items():
        if count > 1:
            raise ResultsError(
                f"one side holds {task} of {env} with seed {seed} {count} times at "
                f"{episodes[0].setting.describe()}: a side is one policy"
            )


def _extent(results: Results) -> str:
    seeds = sorted({episode.seed for episode in results.episodes})
    envs = ", ".join(dict.fromkeys(episode.env for episode in results.episodes))
    return f"{envs} with seeds {seeds[0]} to {seeds[-1]}" if seeds else "no episode"


def _names(settings: Sequence[Setting]) -> str:
    return ", ".join(setting.name for setting in settings) or "none"
