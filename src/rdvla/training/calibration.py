"""Limits of stop rules, calibrated on demonstrations so that rules keep the promise of the paper's rule.

The paper's rule decodes actions in every iteration and stops once they change by less than delta. Changes of
the latent state need no decoding. Limits on them are found for every rule of `rdvla.control.STOP_RULES` that
asks for such a change:

- A rule that asks for nothing else may stop while the actions still change by delta or more. Its limit is
  the largest at which, among n samples, at most a share `risk` does so, counted as
  (violations + 1) / (n + 1) <= risk (conformal risk control, Angelopoulos et al., 2024). The expected risk of
  a new exchangeable sample is then below `risk`, as far as a looser limit is never the safer limit.
- A rule that also asks for the change of actions may stop later than the paper's rule. Its limit is the value
  above which only a share `risk` of the samples stop by the paper's rule (a split-conformal quantile), so
  the coda need not run there.

Samples of an episode resemble each other: half of the episodes calibrate, the other half tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from rdvla.control import CHANGES, STOP_RULES, Stop
from rdvla.data import EpisodeDataset, split_episodes
from rdvla.errors import ConfigError, RDVLAError
from rdvla.policy import RDVLAPolicy
from rdvla.progress import Progress
from rdvla.training.samples import observe, spread_frames

PAPER_RULE = "action_change"
_SEED = 0  # of the split, and of the initial states
_BATCH_SIZE = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Changes:
    """What every iteration changed, for n samples; NaN in the first iteration, which has no change."""

    by_name: Mapping[str, Floats]  # name in `rdvla.control.CHANGES` -> (T, n)

    @property
    def samples(self) -> int:
        """Number of samples, n."""
        return int(self[PAPER_RULE].shape[1])

    def __getitem__(self, name: str) -> Floats:
        return self.by_name[name]

    def select(self, samples: slice) -> Changes:
        """Return some of the samples."""
        return Changes({name: values[:, samples] for name, values in self.by_name.items()})

    def stops(self, stop: Stop) -> NDArray[np.int64]:
        """Return (n,) the depth at which each sample stops under a rule, within its smallest and largest."""
        satisfied = self._below(stop, tuple(stop.below))[: stop.max_depth]
        satisfied[: stop.min_depth - 1] = False
        satisfied[-1] = True
        depths: NDArray[np.int64] = satisfied.argmax(axis=0) + 1
        return depths

    def decodings(self, stop: Stop) -> NDArray[np.int64]:
        """Return (n,) how many batches of one or two states the coda decodes until each sample stops."""
        stops = self.stops(stop)
        asked_first = tuple(name for name in stop.below if CHANGES[name].of == "state")
        if PAPER_RULE not in stop.below:
            return np.ones_like(stops)  # at the end
        if not asked_first:
            return stops
        iterations = np.arange(1, len(self[PAPER_RULE]) + 1)[:, None]
        asked = self._below(stop, asked_first) & (iterations >= stop.min_depth) & (iterations <= stops)
        decoded_at_limit = (stops == stop.max_depth) & ~at(asked, stops)
        total: NDArray[np.int64] = asked.sum(axis=0) + decoded_at_limit
        return total

    def _below(self, stop: Stop, names: tuple[str, ...]) -> NDArray[np.bool_]:
        settled = np.ones(self[PAPER_RULE].shape, dtype=bool)
        for name in names:
            settled &= self[name] < stop.below[name]
        return settled


@dataclass(frozen=True)
class Outcome:
    """What a rule did on samples that it was not calibrated on."""

    rule: str  # as `parse_stop` reads it
    mean_depth: float
    mean_coda_reads: float  # batches of one or two states that the coda decoded
    moving: float  # share of samples that stopped while the actions changed by delta or more
    same_depth: float  # share that stopped at the same depth as under the paper's rule


@dataclass(frozen=True)
class Calibration:
    """Calibrated rules, next to the paper's."""

    delta: float
    risk: float
    calibration_samples: int
    test_samples: int
    outcomes: tuple[Outcome, ...]  # on the test half, the paper's rule first

    def table(self) -> str:
        """Return the outcomes as lines of text."""
        lines = [
            f"{self.calibration_samples} samples calibrated, {self.test_samples} of other episodes tested; "
            f"delta {self.delta:g}, risk {self.risk:g}",
            f"{'rule':<44} {'depth':>6} {'coda':>6} {'moving':>7} {'same depth':>11}",
        ]
        lines += [
            f"{outcome.rule:<44} {outcome.mean_depth:>6.2f} {outcome.mean_coda_reads:>6.2f} "
            f"{outcome.moving:>7.1%} {outcome.same_depth:>11.1%}"
            for outcome in self.outcomes
        ]
        return "\n".join(lines)


def calibrate(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    *,
    samples: int,
    delta: float,
    risk: float,
    max_depth: int = 32,
    console: Console | None = None,
) -> Calibration:
    """Find and test the limits of all rules that ask for a change of the state.

    Args:
        policy: it is left as it is.
        dataset: demonstrations, best of the kind that the policy was not trained on.
        samples: at most so many, evenly spread; half of the episodes calibrate.
        delta: the paper's threshold.
        risk: share of samples that may break the promise.
        max_depth: every sample stops there.
        console: for the progress bar.

    Raises:
        ConfigError: a number is out of range, or there are too few samples for the risk.
        RDVLAError: hardly any sample satisfies the paper's rule, so there is nothing to calibrate to, or the
            policy computes NaN.
    """
    if samples < 2 or not delta > 0 or not 0 < risk < 1 or max_depth < 2:
        raise ConfigError(
            f"samples must be at least 2, delta positive, risk between 0 and 1 and max_depth at least 2, got "
            f"{samples}, {delta}, {risk} and {max_depth}"
        )
    fitting, testing = (
        spread_frames(dataset.subset(episodes), at_most=samples // 2)
        for episodes in split_episodes(dataset, 0.5, _SEED)
    )
    if min(len(fitting), len(testing)) < 1 / risk:
        raise ConfigError(
            f"a risk of {risk:g} takes at least {int(np.ceil(1 / risk))} samples on either side, there are "
            f"{len(fitting)} and {len(testing)}: take more samples or a larger risk"
        )
    changes = changes_of(policy, dataset, np.concatenate([fitting, testing]), max_depth, console=console)
    if not all(np.isfinite(values[1:]).all() for values in changes.by_name.values()):
        raise RDVLAError("the policy's states or actions are not finite on these samples: train it anew")
    known, new = changes.select(slice(len(fitting))), changes.select(slice(len(fitting), None))
    paper = Stop(PAPER_RULE, threshold=delta, max_depth=max_depth)
    stops = [paper, *(calibrated(rule, known, paper, risk=risk) for rule in calibrated_rules())]
    outcomes = tuple(outcome(stop, new, paper=paper) for stop in stops)
    return Calibration(delta, risk, known.samples, new.samples, outcomes)


def calibrated_rules() -> list[str]:
    """Return the names of the rules with exactly one limit on a change of the state."""
    return [
        name
        for name, rule in STOP_RULES.items()
        if sum(CHANGES[limit.change].of == "state" for limit in rule.limits) == 1
    ]


def calibrated(rule: str, changes: Changes, paper: Stop, *, risk: float) -> Stop:
    """Return a rule with the limit that the samples suggest.

    Args:
        rule: one of `calibrated_rules`.
        changes: of the samples that calibrate.
        paper: the paper's rule, whose promise counts.
        risk: share of samples that may break it.

    Raises:
        RDVLAError: too few samples ever satisfy the paper's rule.
    """
    limits: dict[str, Any] = {}
    for limit in STOP_RULES[rule].limits:
        if limit.change == PAPER_RULE:
            limits[limit.parameter] = paper.below[PAPER_RULE]
        elif len(STOP_RULES[rule].limits) == 1:
            limits[limit.parameter] = alone(rule, changes, paper, risk=risk)
        else:
            limits[limit.parameter] = before_actions(limit.change, changes, paper, risk=risk)
    return Stop(rule, max_depth=paper.max_depth, **limits)


def alone(rule: str, changes: Changes, paper: Stop, *, risk: float) -> float:
    """Return the largest limit of a rule on the state alone, up to which all limits keep the risk.

    If actions move on while the state hardly does, hardly any sample ever comes below that limit.
    """
    (limit,) = STOP_RULES[rule].limits
    values = changes[limit.change][1 : paper.max_depth]
    candidates = np.unique(np.quantile(values[values > 0], np.linspace(0, 1, 401)))
    chosen = candidates[0]  # the strictest: no sample's change is below it
    for candidate in candidates[1:]:
        number: dict[str, Any] = {limit.parameter: float(candidate)}
        stop = Stop(rule, max_depth=paper.max_depth, **number)
        violations = int(_moving(changes, changes.stops(stop), paper).sum())
        if (violations + 1) / (changes.samples + 1) > risk:
            break
        chosen = candidate
    return float(chosen)


def before_actions(change: str, changes: Changes, paper: Stop, *, risk: float) -> float:
    """Return the limit below which all but a share `risk` of the samples are when the paper's rule stops.

    Args:
        change: of the state, asked for before the actions.
        changes: of the samples that calibrate.
        paper: the paper's rule.
        risk: see above.

    Raises:
        RDVLAError: too few samples ever satisfy the paper's rule.
    """
    stops = changes.stops(paper)
    delta = paper.below[PAPER_RULE]
    satisfied = at(changes[PAPER_RULE], stops) < delta
    values = np.sort(at(changes[change], stops)[satisfied])
    rank = int(np.ceil((len(values) + 1) * (1 - risk)))  # split-conformal quantile
    if rank > len(values):
        raise RDVLAError(
            f"only {len(values)} samples stop by {PAPER_RULE}:{delta:g} within {paper.max_depth} iterations, "
            f"too few for a risk of {risk:g}: take more samples, or a larger delta or risk"
        )
    # A limit is compared by "less than": the next number up lets the sample at the quantile pass.
    return float(np.nextafter(np.float32(values[rank - 1]), np.float32(np.inf)))


def outcome(stop: Stop, changes: Changes, *, paper: Stop) -> Outcome:
    """Return what a rule does on samples."""
    stops = changes.stops(stop)
    return Outcome(
        rule=stop.describe(),
        mean_depth=float(stops.mean()),
        mean_coda_reads=float(changes.decodings(stop).mean()),
        moving=float(_moving(changes, stops, paper).mean()),
        same_depth=float((stops == changes.stops(paper)).mean()),
    )


def changes_of(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    frames: NDArray[np.int64],
    depth: int,
    *,
    console: Console | None = None,
) -> Changes:
    """Run samples to a fixed depth and return what every iteration changed."""
    found: dict[str, list[Floats]] = {name: [] for name in CHANGES}
    with Progress(console or Console()) as progress:
        bar = progress.add_task("samples", total=len(frames))
        for start in range(0, len(frames), _BATCH_SIZE):
            batch = frames[start : start + _BATCH_SIZE]
            generator = torch.Generator().manual_seed(_SEED + start)
            trace = policy.predict(observe(dataset, batch), stop=depth, generator=generator, trace=True).trace
            assert trace is not None
            for name, values in found.items():
                values.append(trace.changes[name].double().cpu().numpy())
            progress.update(bar, advance=len(batch))
    return Changes({name: np.concatenate(values, axis=1) for name, values in found.items()})


def at(values: NDArray[Any], depths: NDArray[np.int64]) -> NDArray[Any]:
    """Return (n,) the entry of `values` (T, n) at each sample's depth."""
    return values[depths - 1, np.arange(len(depths))]


def _moving(changes: Changes, stops: NDArray[np.int64], paper: Stop) -> NDArray[np.bool_]:
    """Samples that stopped before the largest depth while their actions changed by delta or more."""
    still = at(changes[PAPER_RULE], stops) >= paper.below[PAPER_RULE]
    moving: NDArray[np.bool_] = still & (stops < paper.max_depth)
    return moving
