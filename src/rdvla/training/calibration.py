"""Stop rules without the coda, calibrated on demonstrations so that they keep the paper's promise.

The paper's rule reads the actions in every iteration and stops where they change by less than delta. The
latent state is at hand anyway. Two thresholds on its relative change are found from samples:

- for `latent_change`: the largest at which, among n samples, at most a share `risk` stops while the actions
  still change by delta or more, counted as (violations + 1) / (n + 1) <= risk (conformal risk control,
  Angelopoulos et al., 2024: the expected risk of a new exchangeable sample is then below `risk`, as far as
  a looser threshold is never the safer one);
- for `deferred_action_change`: the value above which no sample stops by the paper's rule but a share `risk`
  of them (a split-conformal quantile), so that the coda need not run there.

Samples of one episode resemble each other; half of the episodes calibrate, the others tell what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from rdvla.control import Stop
from rdvla.data import EpisodeDataset, split_episodes
from rdvla.errors import ConfigError, RDVLAError
from rdvla.policy import RDVLAPolicy
from rdvla.progress import Progress
from rdvla.training.samples import observe, spread_frames

_SEED = 0  # of the split, and of the initial states
_AT_ONCE = 16  # samples

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Changes:
    """What every iteration changed, for n samples; the first iteration has no change: NaN."""

    action: Floats  # (T, n), mean((a_k - a_{k-1})^2), normalised units
    latent: Floats  # (T, n), |S_k - S_{k-1}| / |S_k|

    @property
    def samples(self) -> int:
        """How many samples, n."""
        return int(self.action.shape[1])

    def stops(self, rule: Stop) -> NDArray[np.int64]:
        """(n,) the depth at which each sample stops under a rule, its limits included."""
        changes = {"action_change": self.action, "latent_change": self.latent}
        satisfied = np.all([changes[name] < limit for name, limit in rule.below.items()], axis=0)
        satisfied = satisfied[: rule.max_depth]
        satisfied[: rule.min_depth - 1] = False
        satisfied[-1] = True
        depths: NDArray[np.int64] = satisfied.argmax(axis=0) + 1
        return depths

    def at(self, values: Floats, depths: NDArray[np.int64]) -> Floats:
        """(n,) the entry of `values` (T, n) at each sample's depth."""
        found: Floats = values[depths - 1, np.arange(self.samples)]
        return found


@dataclass(frozen=True)
class Outcome:
    """What a rule did on samples that it was not calibrated on."""

    rule: str
    mean_depth: float
    mean_coda_reads: float  # batches of one or two states that the coda read
    moving: float  # share of samples that stopped while the actions changed by delta or more
    same_depth: float  # share that stopped where the paper's rule does


@dataclass(frozen=True)
class Calibration:
    """Two calibrated rules beside the paper's."""

    delta: float
    risk: float
    calibration_samples: int
    test_samples: int
    outcomes: tuple[Outcome, ...]  # of the paper's rule, the latent one, the deferred one, on the test half

    def table(self) -> str:
        """The outcomes as lines of text."""
        lines = [
            f"{self.calibration_samples} samples calibrated, {self.test_samples} of other episodes tested; "
            f"delta {self.delta:g}, risk {self.risk:g}",
            f"{'rule':<44} {'depth':>6} {'coda':>6} {'moving':>7} {'same depth':>11}",
        ]
        lines += [
            f"{one.rule:<44} {one.mean_depth:>6.2f} {one.mean_coda_reads:>6.2f} {one.moving:>7.1%} "
            f"{one.same_depth:>11.1%}"
            for one in self.outcomes
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
    """Find and test the thresholds of both rules.

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
        RDVLAError: hardly any sample satisfies the paper's rule, so that there is nothing to calibrate to, or
            the policy computes NaN.
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
    if not np.isfinite([changes.action[1:], changes.latent[1:]]).all():  # the first iteration has no change
        raise RDVLAError("the policy's states or actions are not finite on these samples: train it anew")
    known = Changes(changes.action[:, : len(fitting)], changes.latent[:, : len(fitting)])
    new = Changes(changes.action[:, len(fitting) :], changes.latent[:, len(fitting) :])
    paper = Stop("action_change", threshold=delta, max_depth=max_depth)
    rules = (
        paper,
        Stop("latent_change", threshold=latent_threshold(known, paper, risk=risk), max_depth=max_depth),
        Stop(
            "deferred_action_change",
            threshold=delta,
            coda_below=deferral(known, paper, risk=risk),
            max_depth=max_depth,
        ),
    )
    outcomes = tuple(outcome(rule, new, paper=paper) for rule in rules)
    return Calibration(delta, risk, known.samples, new.samples, outcomes)


def latent_threshold(changes: Changes, paper: Stop, *, risk: float) -> float:
    """The largest threshold of `latent_change` up to which all keep the risk.

    Where actions move on while the state hardly does, that is one below which hardly any sample ever comes.
    """
    latents, delta = changes.latent[1 : paper.max_depth], paper.below["action_change"]
    candidates = np.unique(np.quantile(latents[latents > 0], np.linspace(0, 1, 401)))
    chosen = candidates[0]  # the strictest: no sample's change is below it
    for candidate in candidates[1:]:
        stops = changes.stops(Stop("latent_change", threshold=float(candidate), max_depth=paper.max_depth))
        moving = changes.at(changes.action, stops) >= delta
        moving &= stops < paper.max_depth
        if (moving.sum() + 1) / (changes.samples + 1) > risk:
            break
        chosen = candidate
    return float(chosen)


def deferral(changes: Changes, paper: Stop, *, risk: float) -> float:
    """The latent change below which all but a share `risk` of the samples are when the paper's rule stops.

    Raises:
        RDVLAError: too few samples ever satisfy the paper's rule.
    """
    stops = changes.stops(paper)
    delta = paper.below["action_change"]
    satisfied = changes.at(changes.action, stops) < delta
    latents = np.sort(changes.at(changes.latent, stops)[satisfied])
    rank = int(np.ceil((len(latents) + 1) * (1 - risk)))  # split-conformal quantile
    if rank > len(latents):
        raise RDVLAError(
            f"only {len(latents)} samples stop by action_change:{delta:g} within {paper.max_depth} "
            f"iterations, too few for a risk of {risk:g}: take more samples, or a larger delta or risk"
        )
    # A threshold is compared by "less than": the next number up lets the sample at the quantile pass.
    return float(np.nextafter(np.float32(latents[rank - 1]), np.float32(np.inf)))


def outcome(rule: Stop, changes: Changes, *, paper: Stop) -> Outcome:
    """What a rule does on samples."""
    stops = changes.stops(rule)
    stopped_by_itself = stops < rule.max_depth
    moving = (changes.at(changes.action, stops) >= paper.below["action_change"]) & stopped_by_itself
    return Outcome(
        rule=rule.describe(),
        mean_depth=float(stops.mean()),
        mean_coda_reads=float(_coda_reads(rule, changes, stops).mean()),
        moving=float(moving.mean()),
        same_depth=float((stops == changes.stops(paper)).mean()),
    )


def _coda_reads(rule: Stop, changes: Changes, stops: NDArray[np.int64]) -> Floats:
    if "action_change" not in rule.below:
        return np.ones(changes.samples)
    if "latent_change" not in rule.below:
        every: Floats = stops.astype(np.float64)
        return every
    iterations = np.arange(1, len(changes.latent) + 1)[:, None]
    asked = (
        (changes.latent < rule.below["latent_change"])
        & (iterations >= rule.min_depth)
        & (iterations <= stops)
    )
    at_limit = (stops == rule.max_depth) & ~changes.at(asked.astype(np.float64), stops).astype(bool)
    reads: Floats = (asked.sum(axis=0) + at_limit).astype(np.float64)
    return reads


def changes_of(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    frames: NDArray[np.int64],
    depth: int,
    *,
    console: Console | None = None,
) -> Changes:
    """Run samples to a fixed depth and keep what every iteration changed."""
    parts: list[tuple[Floats, Floats]] = []
    with Progress(console or Console()) as progress:
        bar = progress.add_task("samples", total=len(frames))
        for start in range(0, len(frames), _AT_ONCE):
            of_batch = frames[start : start + _AT_ONCE]
            observation = observe(dataset, of_batch)
            generator = torch.Generator().manual_seed(_SEED + start)
            trace = policy.predict(observation, stop=depth, generator=generator, trace=True).trace
            assert trace is not None
            parts.append((_numpy(trace.action_change), _numpy(trace.latent_change)))
            progress.update(bar, advance=len(of_batch))
    action, latent = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    return Changes(action, latent)


def _numpy(values: Tensor) -> Floats:
    array: Floats = values.double().cpu().numpy()
    return array
