"""What every iteration changes, on samples of a dataset, and where a stop rule would have ended it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from rdvla.data import EpisodeDataset
from rdvla.head import ActionChange, DeferredActionChange, LatentChange, StopRule
from rdvla.policy import RDVLAPolicy
from rdvla.progress import Progress
from rdvla.training.samples import observe

_SEED = 0  # of the initial states
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

    def stops(self, rule: StopRule) -> NDArray[np.int64]:
        """(n,) the depth at which each sample stops under a rule, its limits included."""
        if isinstance(rule, DeferredActionChange):
            satisfied = (self.action < rule.threshold) & (self.latent < rule.coda_below)
        elif isinstance(rule, ActionChange):
            satisfied = self.action < rule.threshold
        else:
            assert isinstance(rule, LatentChange)
            satisfied = self.latent < rule.threshold
        satisfied = satisfied[: rule.max_depth].copy()
        satisfied[: rule.min_depth - 1] = False
        satisfied[-1] = True
        depths: NDArray[np.int64] = satisfied.argmax(axis=0) + 1
        return depths

    def at(self, values: Floats, depths: NDArray[np.int64]) -> Floats:
        """(n,) the entry of `values` (T, n) at each sample's depth."""
        found: Floats = values[depths - 1, np.arange(self.samples)]
        return found


def changes_of(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    rows: NDArray[np.int64],
    depth: int,
    *,
    console: Console | None = None,
) -> Changes:
    """Run samples to a fixed depth and keep what every iteration changed."""
    parts: list[tuple[Floats, Floats]] = []
    with Progress(console or Console()) as progress:
        bar = progress.add_task("samples", total=len(rows))
        for start in range(0, len(rows), _AT_ONCE):
            of_batch = rows[start : start + _AT_ONCE]
            observation = observe(dataset, of_batch)
            generator = torch.Generator().manual_seed(_SEED + start)
            trace = policy.predict(observation, depth=depth, generator=generator, trace=True).trace
            assert trace is not None
            parts.append((_numpy(trace.action_change), _numpy(trace.latent_change)))
            progress.update(bar, advance=len(of_batch))
    action, latent = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    return Changes(action, latent)


def _numpy(values: Tensor) -> Floats:
    array: Floats = values.double().cpu().numpy()
    return array
