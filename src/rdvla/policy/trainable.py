"""The policy as training sees it: a batch goes in, a loss comes out, and no caller touches its components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.backbone import Backbone, Features
from rdvla.head import Context, LogNormalPoisson, Prediction, ProprioProjector, RecurrentDepthHead, StopRule
from rdvla.policy.batch import Batch
from rdvla.policy.losses import (
    Loss,
    LossWeights,
    Score,
    absolute_error,
    environment_state_error,
    perception_loss,
)

CLONING = LossWeights()


class Trainable(nn.Module):
    """Loss and validation of a policy.

    Gradients reach every trained parameter through `forward` alone, so what wraps a module to train it in
    several processes can wrap a policy.
    """

    backbone: Backbone
    head: RecurrentDepthHead
    proprio_projector: ProprioProjector

    def forward(
        self,
        batch: Batch,
        *,
        losses: LossWeights = CLONING,
        generator: torch.Generator | None = None,
        depth: int | None = None,
        initial_state: Tensor | None = None,
    ) -> Loss:
        """Return the weighted sum of the losses; the backbone runs once for all of them.

        Args:
            batch: B samples.
            losses: which losses count, and how much.
            generator: for the draws of the head.
            depth: iterations of a head that iterates, the same in all processes; drawn if not given.
            initial_state: S_0, (B, K, D); continued from `batch.earlier`, or drawn, if not given.

        Returns:
            The sum. Its scalars hold the head's figures and `perception_loss`; with actions of weight 0,
            the perception loss alone is called `loss`.

        Raises:
            ConfigError: a loss needs a target that the batch lacks.
        """
        features = self.backbone.features(batch.features)
        if losses.actions == 0:
            seen = perception_loss(self.backbone, features, batch, keypoint_weight=losses.keypoints)
            return Loss(total=losses.perception * seen, scalars={"loss": seen.detach()})
        if initial_state is None:
            initial_state = self._continued(batch, generator)
        loss = self._action_loss(
            self._context(features, batch.state), batch, generator, depth=depth, initial_state=initial_state
        )
        total, scalars = losses.actions * loss.total, dict(loss.scalars)
        if losses.perception > 0:
            seen = perception_loss(self.backbone, features, batch, keypoint_weight=losses.keypoints)
            total = total + losses.perception * seen
            scalars["perception_loss"] = seen.detach()
        return Loss(total=total, scalars=scalars)

    # --- which weights are trained, and where they come from ---

    def freeze_backbone(self) -> None:
        """Train the head and the projection of proprioception alone."""
        self.backbone.freeze()

    def freeze_head(self) -> None:
        """Train the backbone alone."""
        self.head.requires_grad_(False)
        self.proprio_projector.requires_grad_(False)

    def take_over_backbone(self, source: Trainable) -> None:
        """Start from the weights of another policy's backbone.

        Raises:
            ConfigError: it has other parameters.
        """
        self.backbone.take_over(source.backbone)

    def take_over_head(self, source: Trainable) -> None:
        """Start from the weights of another policy's head and projection of proprioception.

        Raises:
            RuntimeError: they have other parameters.
        """
        self.head.load_state_dict(source.head.state_dict())
        self.proprio_projector.load_state_dict(source.proprio_projector.state_dict())

    def published_files(self) -> dict[str, Any]:
        """Return what published files of the backbone say, for JSON: the frozen inputs depend on it."""
        return self.backbone.preparation()

    # --- validation and earlier queries, without gradient ---

    @torch.no_grad()
    def errors(
        self, batch: Batch, *, depths: Sequence[int], generator: torch.Generator | None = None
    ) -> dict[int, Score]:
        """Return the L1 of normalised actions after each of `depths` iterations, all of one run of the core.

        Args:
            batch: B samples.
            depths: iterations; a head that does not iterate gives the same error for all.
            generator: for the draws of the head.
        """
        encoded = self.head.encode(self._context(self.backbone.features(batch.features), batch.state))
        state = self._continued(batch, generator)
        state = self.head.initial_state(batch.size, generator) if state is None else state
        found = {}
        for depth in range(1, max(depths) + 1):
            state = self.head.iterate(state, encoded)
            if depth in depths:
                actions = self.head.decode(state, encoded).float()
                found[depth] = absolute_error(actions, batch.actions, is_pad=batch.action_is_pad)
        return {depth: found[depth] for depth in depths}

    @torch.no_grad()
    def perception_error(self, batch: Batch) -> Score:
        """Return the L1 of the standardised environment state that the backbone reads off the images.

        Raises:
            ConfigError: the batch has no environment state, or one of another size than the backbone's.
        """
        error = environment_state_error(self.backbone, self.backbone.features(batch.features), batch)
        size = torch.tensor(float(batch.size))
        return Score(total=error.cpu() * size, count=size)

    @torch.no_grad()
    def predict_batch(
        self,
        batch: Batch,
        *,
        stop: int | StopRule,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Prediction:
        """Predict as `predict` does, from inputs of training and in their normalised units.

        Args:
            batch: B samples, whose targets are not read.
            stop: iterations, or a stop rule.
            initial_state: S_0, (B, K, D); drawn if not given.
            generator: for S_0.
        """
        context = self._context(self.backbone.features(batch.features), batch.state)
        prediction: Prediction = self.head(
            context, depth=stop, initial_state=initial_state, generator=generator
        )
        return prediction

    def _continued(self, batch: Batch, generator: torch.Generator | None) -> Tensor | None:
        """S_0 of a batch with samples that go on from an earlier query; None: the head draws it."""
        if batch.earlier is None:
            return None
        return batch.earlier.initial_state(self.head.initial_state(batch.size, generator))

    def _action_loss(
        self,
        context: Context,
        batch: Batch,
        generator: torch.Generator | None,
        *,
        depth: int | None,
        initial_state: Tensor | None,
    ) -> Loss:
        if depth is None:
            depth = LogNormalPoisson(mean=self.head.config.mean_depth).sample(generator)
        actions = self.head.unroll(
            context, depth=depth, initial_state=initial_state, generator=generator
        ).actions
        error = absolute_error(actions.float(), batch.actions, is_pad=batch.action_is_pad)
        loss = error.total / error.count
        return Loss(total=loss, scalars={"loss": loss.detach()})

    def _context(self, features: Features, state: Tensor) -> Context:
        proprio = self.proprio_projector(state)
        return self.head.context(vision=features.vision, latents=features.latents, proprio=proprio)
