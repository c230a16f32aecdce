"""What a run minimises: behaviour cloning, or regression of the environment's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rdvla.backbone.base import Features
from rdvla.data import EpisodeDataset
from rdvla.errors import ConfigError
from rdvla.head import Context
from rdvla.head.steps import EncodedContext
from rdvla.policy import RDVLAPolicy
from rdvla.training.batches import Batch, BatchSource
from rdvla.training.config import TrainConfig
from rdvla.training.warm_starts import WarmStarts


@dataclass(frozen=True)
class Loss:
    """A loss to differentiate, and the figures to log with it."""

    total: Tensor  # ()
    scalars: Mapping[str, Tensor]  # name -> (), without gradient


@dataclass(frozen=True)
class Score:
    """A sum over a validation batch and what to divide it by, so that batches of unequal size add up."""

    total: Tensor  # ()
    count: Tensor  # ()


class Objective(Protocol):
    """A training loss and its validation figures, the last of which decides which step is best."""

    def loss(self, policy: RDVLAPolicy, batch: Batch, *, depth: int, generator: torch.Generator) -> Loss:
        """Return the loss of one update."""
        ...

    def scores(self, policy: RDVLAPolicy, batch: Batch, *, generator: torch.Generator) -> dict[str, Score]:
        """Return the figures of one validation batch, without gradient."""
        ...


def absolute_error(predicted: Tensor, target: Tensor, *, is_pad: Tensor) -> Score:
    """Sum |predicted - target| over the steps that exist.

    A chunk that starts near the end of an episode reaches past it. Those steps are left out, not trained
    towards a repeated last action: nothing was demonstrated there, and with delta actions a repetition would
    be wrong.

    Args:
        predicted, target: (B, K, A).
        is_pad: (B, K), True past the episode's end.
    """
    kept = (~is_pad).unsqueeze(-1).to(predicted.dtype)
    return Score(total=((predicted - target).abs() * kept).sum(), count=kept.sum() * predicted.shape[-1])


@dataclass(frozen=True)
class ActionObjective:
    """The paper's behaviour cloning: L1 between the chunk after r iterations and the demonstrated one.

    Both are normalised. Gradient flows through the last `head.backprop_depth` iterations (inside
    `head.unroll`).
    """

    depths: Sequence[int] = (1, 2, 4, 8, 12, 32)  # iterations at which validation reads the chunk
    proprio_noise: float = 0.0  # standard deviation added to the normalised proprioception in training
    perception_weight: float = 0.0  # of the perception loss, which then shares one pass of the backbone
    keypoint_weight: float = 0.0  # of the keypoints within the perception loss
    warm_starts: WarmStarts | None = None  # of some samples; None: all start from noise

    def loss(self, policy: RDVLAPolicy, batch: Batch, *, depth: int, generator: torch.Generator) -> Loss:
        """See `Objective`. Draws the initial state, the proprioception's noise, what warm starts need."""
        initial = policy.head.initial_state(batch.size, generator=generator)
        state = batch.state
        if self.proprio_noise > 0:
            noise = torch.randn(state.shape, generator=generator).to(state)
            state = state + self.proprio_noise * noise
        if self.warm_starts is not None:
            initial = self.warm_starts.for_update(policy, batch.rows, initial, generator=generator)
        features = policy.backbone.features(batch.features)
        prediction = policy.head.unroll(_context(policy, features, state), depth=depth, initial_state=initial)
        error = absolute_error(prediction.actions.float(), batch.actions, is_pad=batch.action_is_pad)
        loss = error.total / error.count
        scalars = {"loss": loss.detach()}
        if self.perception_weight > 0:
            seen = _perception_loss(policy, features, batch, keypoint_weight=self.keypoint_weight)
            scalars |= {"perception_loss": seen.detach()}
            loss = loss + self.perception_weight * seen
        return Loss(total=loss, scalars=scalars)

    def scores(self, policy: RDVLAPolicy, batch: Batch, *, generator: torch.Generator) -> dict[str, Score]:
        """L1 at every depth of `depths`, all read from one run of the core: `l1_depth_<r>`.

        With warm starts also `warm_l1_depth_<r>`, of a second run in which every sample that has an earlier
        query starts from it. They come first, as the last figure decides.
        """
        head = policy.head
        encoded = head.encode(_context(policy, policy.backbone.features(batch.features), batch.state))
        noise = head.initial_state(batch.size, generator=generator)
        from_noise = self._read(policy, batch, encoded, noise, name="l1_depth")
        if self.warm_starts is None:
            return from_noise
        # A copy, so that the figures from noise are those that a run without warm starts would report.
        apart = generator.clone_state()
        warm = self.warm_starts.for_all(policy, batch.rows, noise, generator=apart)
        return self._read(policy, batch, encoded, warm, name="warm_l1_depth") | from_noise

    def _read(
        self, policy: RDVLAPolicy, batch: Batch, encoded: EncodedContext, state: Tensor, *, name: str
    ) -> dict[str, Score]:
        found = {}
        for depth in range(1, max(self.depths) + 1):
            state = policy.head.iterate(state, encoded)
            if depth in self.depths:
                actions = policy.head.decode(state, encoded).float()
                found[depth] = absolute_error(actions, batch.actions, is_pad=batch.action_is_pad)
        return {f"{name}_{depth}": found[depth] for depth in self.depths}


@dataclass(frozen=True)
class PerceptionObjective:
    """L1 on the standardised environment state, read off the backbone's features, and where it is seen.

    State and keypoints are training signals only: they are never inputs, and the read-out is not used in
    control.
    """

    keypoint_weight: float = 0.0  # of the attention's cross-entropy with the keypoints

    def loss(
        self,
        policy: RDVLAPolicy,
        batch: Batch,
        *,
        depth: int,  # noqa: ARG002
        generator: torch.Generator,  # noqa: ARG002
    ) -> Loss:
        """See `Objective`; depth and generator are not used, as the head takes no part."""
        features = policy.backbone.features(batch.features)
        loss = _perception_loss(policy, features, batch, keypoint_weight=self.keypoint_weight)
        return Loss(total=loss, scalars={"loss": loss.detach()})

    def scores(
        self,
        policy: RDVLAPolicy,
        batch: Batch,
        *,
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Score]:
        """Mean L1: `l1`."""
        predicted = policy.backbone.predict_environment_state(policy.backbone.features(batch.features))
        error = _perception_error(predicted, batch)
        size = torch.tensor(float(batch.size))
        return {"l1": Score(total=error.cpu() * size, count=size)}


def make_objective(
    config: TrainConfig, dataset: EpisodeDataset, source: BatchSource
) -> ActionObjective | PerceptionObjective:
    """Build the objective that the configuration names.

    Args:
        config: of the run.
        dataset, source: where warm starts find earlier queries.

    Raises:
        ConfigError: no sample of the dataset has the earlier query that `warm_start` asks for.
    """
    if config.objective == "perception":
        return PerceptionObjective(keypoint_weight=config.loss.keypoint_weight)
    warm = config.warm_start
    return ActionObjective(
        depths=config.validation.depths,
        proprio_noise=config.loss.proprio_noise,
        perception_weight=config.loss.perception_weight,
        keypoint_weight=config.loss.keypoint_weight,
        warm_starts=WarmStarts(warm, dataset, source) if warm.share > 0 else None,
    )


def _context(policy: RDVLAPolicy, features: Features, state: Tensor) -> Context:
    # What `policy.context_from` does, from features that the perception loss reads too.
    proprio = policy.proprio_projector(state)
    return policy.head.context(vision=features.vision, latents=features.latents, proprio=proprio)


def _perception_loss(
    policy: RDVLAPolicy, features: Features, batch: Batch, *, keypoint_weight: float
) -> Tensor:
    loss = _perception_error(policy.backbone.predict_environment_state(features), batch)
    if keypoint_weight == 0:
        return loss
    if batch.keypoints is None:
        raise ConfigError(
            "loss.keypoint_weight needs observation.environment_keypoints, which the dataset does not have; "
            "set loss.keypoint_weight=0."
        )
    return loss + keypoint_weight * policy.backbone.keypoint_loss(features, batch.keypoints)


def _perception_error(predicted: Tensor, batch: Batch) -> Tensor:
    target = batch.environment_state
    if target is None:
        raise ConfigError(
            "The perception loss needs observation.environment_state, which the dataset does not have; "
            "train with objective=actions and loss.perception_weight=0."
        )
    if predicted.shape != target.shape:
        raise ConfigError(
            f"The backbone predicts {predicted.shape[-1]} numbers, but observation.environment_state has "
            f"{target.shape[-1]}; set policy.backbone.environment_state_dim={target.shape[-1]}."
        )
    return (predicted.float() - target).abs().mean()
