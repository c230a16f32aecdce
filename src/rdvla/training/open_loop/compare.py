"""Compare a policy's action chunks with demonstrations, at several depths.

Nothing is executed: the policy sees recorded observations, so its own mistakes do not lead it elsewhere. A
small error is needed for success, and does not promise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from rdvla.control import parse_stop
from rdvla.data import EpisodeDataset, split_episodes
from rdvla.data.features import ACTION
from rdvla.policy import TRAINING, RDVLAPolicy
from rdvla.progress import Progress
from rdvla.training.samples import observe, spread_frames
from rdvla.types import Observation

Floats = NDArray[np.float64]
BATCH_SIZE = 32  # observations per query
RESAMPLES = 2000  # of the episodes, for the intervals


Seen = Literal["held out", "trained on", "not known"]


@dataclass(frozen=True)
class Row:
    """How far a policy's actions are from the demonstrated ones, under one stop rule.

    Attributes:
        stop: the rule.
        depth: iterations per query on average.
        error: mean L1 of normalised actions, every episode counting alike.
        interval: 95% of it, by resampling episodes; None if there is one episode.
        by_dimension: (A,) mean absolute error in the robot's units.
    """

    stop: str
    depth: float
    error: float
    interval: tuple[float, float] | None
    by_dimension: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """One episode, as if the policy's whole chunks were executed one after the other.

    Attributes:
        episode: its number.
        instruction: its task.
        demonstrated, predicted: (T, A) actions in the robot's units.
        depths: iterations of each query.
        starts: the step of each query.
    """

    episode: int
    instruction: str
    demonstrated: Floats
    predicted: Floats
    depths: tuple[int, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True)
class OpenLoop:
    """What an open-loop evaluation found."""

    episodes: tuple[int, ...]
    seen: Seen  # whether the policy was trained on them
    samples: int
    names: tuple[str, ...]  # of the action's dimensions
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...]


def compare(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    *,
    stops: Sequence[str],
    samples: int,
    seed: int = 0,
    curves: int = 3,
    console: Console | None = None,
) -> OpenLoop:
    """Compare a policy with demonstrations: those that its training held out, if the dataset is its own.

    Args:
        policy: of any head.
        dataset: opened for it (`open_samples`).
        stops: stop rules; all see the same samples and start from the same noise.
        samples: at most so many, evenly spread over the episodes.
        seed: of the noise.
        curves: at most so many episodes are followed from beginning to end, under the policy's own rule.
        console: shows the progress.
    """
    episodes, seen = _episodes(policy, dataset)
    chosen = dataset.subset(episodes)
    frames = spread_frames(chosen, at_most=samples)
    batches = [frames[start : start + BATCH_SIZE] for start in range(0, len(frames), BATCH_SIZE)]
    found: dict[str, list[_Errors]] = {stop: [] for stop in stops}
    with Progress(console or Console()) as progress:
        bar = progress.add_task("queries", total=len(batches) * len(found))
        for number, batch in enumerate(batches):
            observation = observe(dataset, batch)  # decoded once for all stop rules
            for stop in found:
                errors = _errors(policy, dataset, batch, observation, stop=stop, seed=seed + number)
                found[stop].append(errors)
                progress.update(bar, advance=1)
    episode = dataset.episode_of(frames)
    followed = episodes[:: max(1, len(episodes) // curves)][:curves]
    return OpenLoop(
        episodes=tuple(episodes),
        seen=seen,
        samples=len(frames),
        names=tuple(dataset.names(ACTION) or (str(n) for n in range(dataset.action_dim))),
        rows=tuple(_row(stop, episode, errors) for stop, errors in found.items()),
        curves=tuple(_curve(policy, dataset, episode, seed=seed) for episode in followed),
    )


def _episodes(policy: RDVLAPolicy, dataset: EpisodeDataset) -> tuple[list[int], Seen]:
    record: dict[str, Any] = policy.records.get(TRAINING, {})
    everything = dataset.episodes.tolist()
    if record.get("dataset", {}).get("fingerprint") != dataset.fingerprint():
        return everything, "not known"  # another dataset may hold the same episodes
    data = record["config"]["data"]
    held_out = split_episodes(dataset, data["validation_fraction"], data["split_seed"])[1]
    return (held_out, "held out") if held_out else (everything, "trained on")


@dataclass(frozen=True)
class _Errors:
    """Errors of some samples."""

    depth: NDArray[np.int64]  # (B,)
    normalized: Floats  # (B,) mean over steps and dimensions
    by_dimension: Floats  # (B, A) mean over steps, in the robot's units


def _errors(
    policy: RDVLAPolicy,
    dataset: EpisodeDataset,
    frames: NDArray[np.int64],
    observation: Observation,
    *,
    stop: str,
    seed: int,
) -> _Errors:
    generator = torch.Generator().manual_seed(seed)
    prediction = policy.predict(observation, stop=parse_stop(stop), generator=generator)
    predicted, demonstrated = prediction.actions.float().cpu(), dataset.actions(frames)
    exists = (~dataset.action_is_pad(frames)).unsqueeze(-1).double()
    steps = exists.sum(dim=1)
    normalize = policy.action_normalizer.normalize
    normalized = ((normalize(predicted) - normalize(demonstrated)).abs() * exists).sum(dim=1) / steps
    real = ((predicted - demonstrated).abs() * exists).sum(dim=1) / steps
    return _Errors(prediction.depth.cpu().numpy(), normalized.mean(dim=1).numpy(), real.numpy())


def _row(stop: str, episode: NDArray[np.int64], found: Sequence[_Errors]) -> Row:
    normalized = np.concatenate([each.normalized for each in found])
    of_episodes = np.array([normalized[episode == number].mean() for number in np.unique(episode)])
    interval = None
    if len(of_episodes) > 1:
        draws = np.random.default_rng(0).integers(len(of_episodes), size=(RESAMPLES, len(of_episodes)))
        low, high = np.quantile(of_episodes[draws].mean(axis=1), [0.025, 0.975])
        interval = (float(low), float(high))
    return Row(
        stop=stop,
        depth=float(np.concatenate([each.depth for each in found]).mean()),
        error=float(of_episodes.mean()),
        interval=interval,
        by_dimension=tuple(np.concatenate([each.by_dimension for each in found]).mean(axis=0).tolist()),
    )


def _curve(policy: RDVLAPolicy, dataset: EpisodeDataset, episode: int, *, seed: int) -> Curve:
    frames = np.asarray(dataset.episode_frames(episode), dtype=np.int64)
    starts = frames[:: dataset.chunk_size]
    demonstrated = dataset.column(ACTION)[frames].astype(np.float64)
    predicted = np.empty_like(demonstrated)
    depths: list[int] = []
    for first in range(0, len(starts), BATCH_SIZE):
        some = starts[first : first + BATCH_SIZE]
        generator = torch.Generator().manual_seed(seed + first)
        prediction = policy.predict(observe(dataset, some), generator=generator)
        depths += prediction.depth.tolist()
        chunks = prediction.actions.float().cpu().numpy()
        for start, chunk in zip((some - frames[0]).tolist(), chunks, strict=True):
            end = min(start + dataset.chunk_size, len(frames))
            predicted[start:end] = chunk[: end - start]
    return Curve(
        episode=episode,
        instruction=dataset.tasks[dataset.episode_task(episode)],
        demonstrated=demonstrated,
        predicted=predicted,
        depths=tuple(depths),
        starts=tuple((starts - frames[0]).tolist()),
    )
