"""What the trials of a sweep came to, and how settings compare."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rdvla.errors import RDVLAError
from rdvla.evaluation.results import Results, load_results
from rdvla.evaluation.statistics import Interval, PairedTest, paired_test, wilson_interval
from rdvla.rollout import Setting
from rdvla.sweep.trials import Trial
from rdvla.training.metrics import read_metrics

MOST_SEEDS = 20  # whose signs are all flipped: 2^20 sums


@dataclass(frozen=True)
class Outcome:
    """A finished trial."""

    trial: Trial
    loss: list[tuple[int, float]]  # of training, by step
    validation: list[tuple[int, float]]  # of the figure that decides, by step; empty: nothing was held out
    figure: str  # its name; empty without validation
    results: Results | None  # of the evaluation

    @property
    def best(self) -> float | None:
        """The lowest validation figure, whose weights are the policy."""
        return min((value for _, value in self.validation), default=None)


@dataclass(frozen=True)
class Success:
    """Episodes of all trials of a setting, under one stop and execution rule."""

    rule: Setting
    successes: int
    episodes: int  # without those that ended with an exception
    interval: Interval  # Wilson's 95%; it takes episodes of all trials as independent
    by_seed: dict[int, float]  # seed of the training -> success


@dataclass(frozen=True)
class SettingOutcome:
    """All finished trials of a setting."""

    setting: str
    outcomes: list[Outcome]
    mean: float | None  # of the best validation figures; None without validation
    deviation: float | None  # their sample standard deviation; None with fewer than two trials
    success: list[Success]  # by rule; empty without evaluation

    @property
    def figure(self) -> str:
        """Name of the validation figure that decided; empty without validation."""
        return ", ".join(dict.fromkeys(each.figure for each in self.outcomes if each.figure))


@dataclass(frozen=True)
class Paired:
    """A setting against the first one, on the seeds that both were trained with."""

    setting: str
    seeds: int
    # Of the mean validation figures, each the one that decided there: this minus the first.
    difference: float | None  # None without validation
    lowest: float | None  # of the seeds' differences
    highest: float | None
    p_value: float | None  # exact sign-flip test, two-sided; None with more than `MOST_SEEDS` seeds
    success: dict[str, PairedTest]  # by rule: this against the first, paired by training seed and episode


def read_outcome(trial: Trial, *, evaluated: bool) -> Outcome:
    """Read what a finished trial left.

    Args:
        trial: that is done.
        evaluated: whether its evaluation belongs to the sweep; a folder may hold one that never ended.

    Raises:
        RDVLAError: a file is missing or damaged; it is named.
    """
    path = trial.run / "metrics.jsonl"
    try:
        lines = read_metrics(path)
        training = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
        validations = [line for line in lines if line["kind"] == "validation"]
        figure = list(validations[-1])[-1] if validations else ""
        validation = [(line["step"], line[figure]) for line in validations]
    except (OSError, ValueError, KeyError) as error:
        raise RDVLAError(f"{path} cannot be read ({error}): delete {trial.folder} to run it anew") from error
    results = load_results(trial.evaluation) if evaluated else None
    return Outcome(trial, training, validation, figure, results)


def by_setting(outcomes: Sequence[Outcome]) -> list[SettingOutcome]:
    """Sum up the trials of each setting, in the order of first appearance."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.trial.setting, []).append(outcome)
    return [_summed(setting, group) for setting, group in groups.items()]


def compare(first: SettingOutcome, second: SettingOutcome) -> Paired:
    """Compare `second` with `first` by pairs of trials that have the same seed."""
    ours, theirs = _by_seed(second), _by_seed(first)
    seeds = [seed for seed in ours if seed in theirs]
    differences = [
        after - before
        for seed in seeds
        if (after := ours[seed].best) is not None and (before := theirs[seed].best) is not None
    ]
    rules = [success.rule for success in second.success]
    tests = {
        rule.name: test
        for rule in rules
        if (test := paired_test(_episodes(ours, seeds, rule), _episodes(theirs, seeds, rule))) is not None
    }
    return Paired(
        setting=second.setting,
        seeds=len(seeds),
        difference=statistics.fmean(differences) if differences else None,
        lowest=min(differences, default=None),
        highest=max(differences, default=None),
        p_value=sign_flip_test(differences) if differences else None,
        success=tests,
    )


def sign_flip_test(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the hypothesis that paired differences are symmetric about zero.

    Fisher's exact randomisation test: the share of all 2^n choices of signs whose mean is at least as far
    from zero as the one observed. With n pairs it cannot be below 2 / 2^n.

    Returns:
        p, or None with more than `MOST_SEEDS` differences.
    """
    if len(differences) > MOST_SEEDS:
        return None
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    observed = abs(math.fsum(differences))
    # The sum of all, rounded in another order, has to count as itself.
    slack = 1e-12 * math.fsum(abs(difference) for difference in differences)
    return float(np.mean(np.abs(sums) >= observed - slack))


def _summed(setting: str, group: list[Outcome]) -> SettingOutcome:
    best = [outcome.best for outcome in group if outcome.best is not None]
    return SettingOutcome(
        setting=setting,
        outcomes=group,
        mean=statistics.fmean(best) if best else None,
        deviation=statistics.stdev(best) if len(best) > 1 else None,
        success=_success(group),
    )


def _success(group: Sequence[Outcome]) -> list[Success]:
    episodes: dict[Setting, dict[int, list[bool]]] = {}
    for outcome in group:
        for episode in [] if outcome.results is None else outcome.results.episodes:
            if episode.error is None:
                rule = episodes.setdefault(episode.setting, {})
                rule.setdefault(outcome.trial.seed, []).append(bool(episode.success))
    found = []
    for setting, played in episodes.items():
        ends = list(itertools.chain(*played.values()))
        shares = {seed: sum(own) / len(own) for seed, own in played.items()}
        interval = wilson_interval(sum(ends), len(ends))
        found.append(Success(setting, sum(ends), len(ends), interval, shares))
    return found


def _by_seed(setting: SettingOutcome) -> dict[int, Outcome]:
    return {outcome.trial.seed: outcome for outcome in setting.outcomes}


def _episodes(
    outcomes: Mapping[int, Outcome], seeds: Sequence[int], rule: Setting
) -> dict[tuple[str, str, int], bool]:
    return {
        (episode.env, f"{episode.task}, trained with seed {seed}", episode.seed): bool(episode.success)
        for seed in seeds
        if (results := outcomes[seed].results) is not None
        for episode in results.episodes
        if episode.error is None and episode.setting == rule
    }
