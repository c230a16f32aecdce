"""Samples that start where an earlier query of their episode ended, as a robot's queries may."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.control import WarmStart
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import EarlierQueries, Share
from rdvla.training.batches import BatchSource
from rdvla.training.config import WarmStartConfig

NO_FRAME = -1


def earlier_frames(dataset: EpisodeDataset, frames: Tensor, *, executed: int) -> NDArray[np.int64]:
    """Return (B,) the frame of the query before each of (B,) frames, or `NO_FRAME`.

    The earlier query is at the last frame of the same episode that has a new image and lies `executed` or
    more control steps before. A camera may take an image only every n-th control step, and a policy is
    queried when an image has come, so up to n - 1 further steps may lie between. The first queries of an
    episode have no earlier query, and neither have samples whose earlier image `sample_every` left out.
    """
    later = np.asarray(frames, dtype=np.int64)
    wanted = later - executed
    found = dataset.captured_at(np.maximum(wanted, 0))
    exists = (wanted >= 0) & (dataset.episode_of(found) == dataset.episode_of(later))
    exists &= np.isin(found, dataset.sample_index)
    return np.where(exists, found, NO_FRAME)


class WarmStarts:
    """Finds the queries that samples go on from, and runs them.

    The earlier query runs as `policy.predict` would run it: with the weights of the moment, without
    dropout, gradient, shifted images or noise on the proprioception.

    Args:
        config: which samples, and how.
        dataset: finds earlier frames; with the samples of training and validation.
        source: gives the inputs of earlier frames.

    Raises:
        ConfigError: no sample of the dataset has such an earlier query.
    """

    def __init__(self, config: WarmStartConfig, dataset: EpisodeDataset, source: BatchSource) -> None:
        self._config = config
        self._dataset = dataset
        self._source = source
        self._warm_start = WarmStart(config.kind)
        if not (self._earlier(torch.from_numpy(dataset.sample_index)) != NO_FRAME).any():
            raise ConfigError(
                f"No sample of {dataset.name} has an earlier query warm_start.executed={config.executed} "
                "control steps before it: the episodes are shorter, or data.sample_every="
                f"{dataset.sample_every} leaves those images out. Change one of the two, or set "
                "warm_start.share=0."
            )

    def for_update(
        self, policy: RDVLAPolicy, frames: Tensor, *, generator: torch.Generator, share: Share | None = None
    ) -> EarlierQueries | None:
        """Return what an update's samples go on from; each is chosen with probability `share`.

        Args:
            policy: that is trained.
            frames: (B,) dataset frames of the whole batch.
            generator: draws (B,) choices, then the noise that the earlier queries start from.
            share: the rows whose earlier queries are run; None: all.

        Returns:
            None if all samples start from noise: not chosen, or without an earlier query.
        """
        chosen = torch.rand(len(frames), generator=generator) < self._config.share
        return self._run(policy, frames, chosen.numpy(), generator, share)

    def for_all(
        self, policy: RDVLAPolicy, frames: Tensor, *, generator: torch.Generator, share: Share | None = None
    ) -> EarlierQueries | None:
        """As `for_update` with every sample chosen, for validation; no choices are drawn."""
        return self._run(policy, frames, np.ones(len(frames), dtype=bool), generator, share)

    def _run(
        self,
        policy: RDVLAPolicy,
        frames: Tensor,
        chosen: NDArray[np.bool_],
        generator: torch.Generator,
        share: Share | None,
    ) -> EarlierQueries | None:
        earlier = self._earlier(frames)
        samples = np.flatnonzero(chosen & (earlier != NO_FRAME))
        if len(samples) == 0:
            return None
        with torch.no_grad():
            noise = policy.initial_state(len(samples), generator)
        first = 0
        if share is not None:  # of what was drawn for the whole batch
            own = (samples >= share.first) & (samples < share.first + share.size)
            samples, noise, first = samples[own], noise[torch.from_numpy(own)], share.first
            if len(samples) == 0:
                return None
        return EarlierQueries(
            warm_start=self._warm_start,
            samples=torch.from_numpy(samples - first).to(policy.device),
            states=self._last_states(policy, torch.from_numpy(earlier[samples]), noise),
            executed=tuple((frames.numpy() - earlier)[samples].tolist()),
        )

    def _earlier(self, frames: Tensor) -> NDArray[np.int64]:
        return earlier_frames(self._dataset, frames, executed=self._config.executed)

    def _last_states(self, policy: RDVLAPolicy, frames: Tensor, noise: Tensor) -> Tensor:
        """Return (n, K, D), what queries at (n,) frames end with that start from `noise` (n, K, D)."""
        was_training = policy.training
        policy.eval()  # dropout would give another answer than the one that a robot goes on from
        try:
            batch = self._source.batch(frames)
            ended: Tensor = policy.predict_batch(batch, stop=self._config.depth, initial_state=noise).state
            return ended
        finally:
            policy.train(was_training)
