"""Samples that start where an earlier query of their episode ended, as a robot's queries may."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training.batches import BatchSource
from rdvla.training.config import WarmStartConfig
from rdvla.warm_start import WarmStart

NO_ROW = -1


def earlier_rows(dataset: EpisodeDataset, rows: Tensor, *, executed: int) -> NDArray[np.int64]:
    """(B,) the row of the query before the one at each of (B,) rows, or `NO_ROW`.

    That is the last row with a new image at or before `row - executed`, in the same episode. Where cameras
    take an image only every n-th control step, a policy is queried when one has come, with image and
    proprioception of one moment; samples are such moments, and so is the earlier query. It may therefore
    lie up to n - 1 steps further back than `executed`. There is none for the first queries of an episode,
    and where `sample_every` left out that image.
    """
    later = np.asarray(rows, dtype=np.int64)
    wanted = later - executed
    found = dataset.captured_at(np.maximum(wanted, 0))
    exists = (wanted >= 0) & (dataset.episode_of(found) == dataset.episode_of(later))
    exists &= np.isin(found, dataset.sample_index)
    return np.where(exists, found, NO_ROW)


class WarmStarts:
    """Makes S_0 of samples from the last state of the query before.

    The earlier query is made as `policy.predict` would make it: with the weights of the moment, without
    dropout, gradient, shifted images or noise on the proprioception.

    Args:
        config: which samples, and how.
        dataset: where earlier rows are looked up, with the samples of training and validation.
        source: gives the inputs of earlier rows.

    Raises:
        ConfigError: no sample of the dataset has such an earlier query.
    """

    def __init__(self, config: WarmStartConfig, dataset: EpisodeDataset, source: BatchSource) -> None:
        self._config = config
        self._dataset = dataset
        self._source = source
        self._warm_start = WarmStart(config.kind)
        if not (self._earlier(torch.from_numpy(dataset.sample_index)) != NO_ROW).any():
            raise ConfigError(
                f"No sample of {dataset.name} has an earlier query warm_start.executed={config.executed} "
                "control steps before it: the episodes are shorter, or data.sample_every="
                f"{dataset.sample_every} leaves those images out. Change one of the two, or set "
                "warm_start.share=0."
            )

    def for_update(
        self, policy: RDVLAPolicy, rows: Tensor, noise: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """S_0 of an update's samples, each of which is chosen for a warm start with probability `share`.

        Args:
            policy: that is trained.
            rows: (B,) dataset rows.
            noise: (B, K, D), the S_0 of samples that are not chosen or have no earlier query.
            generator: draws (B,) choices, then the noise that the earlier queries start from.

        Returns:
            (B, K, D), without gradient into the earlier queries.
        """
        chosen = torch.rand(len(rows), generator=generator) < self._config.share
        return self._start(policy, rows, noise, chosen.numpy(), generator)

    def for_all(
        self, policy: RDVLAPolicy, rows: Tensor, noise: Tensor, *, generator: torch.Generator
    ) -> Tensor:
        """The same with every sample chosen, for validation; no choices are drawn."""
        return self._start(policy, rows, noise, np.ones(len(rows), dtype=bool), generator)

    def _start(
        self,
        policy: RDVLAPolicy,
        rows: Tensor,
        noise: Tensor,
        chosen: NDArray[np.bool_],
        generator: torch.Generator,
    ) -> Tensor:
        earlier = self._earlier(rows)
        places = np.flatnonzero(chosen & (earlier != NO_ROW))
        if len(places) == 0:
            return noise
        ended = self._last_states(policy, torch.from_numpy(earlier[places]), generator)
        executed = (rows.numpy() - earlier)[places].tolist()
        states = noise + 0  # a copy
        states[places] = self._warm_start.start(noise[places], ended.to(noise), executed)
        return states

    def _earlier(self, rows: Tensor) -> NDArray[np.int64]:
        return earlier_rows(self._dataset, rows, executed=self._config.executed)

    @torch.no_grad()
    def _last_states(self, policy: RDVLAPolicy, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(n, K, D) what queries at (n,) rows end with."""
        was_training = policy.training
        policy.eval()  # dropout would make another answer than the one that a robot goes on from
        try:
            batch = self._source.batch(rows)
            context = policy.context_from(batch.features, batch.state)
            noise = policy.initial_state(batch.size, generator)
            ended: Tensor = policy.head(context, depth=self._config.depth, initial_state=noise).state
            return ended
        finally:
            policy.train(was_training)
