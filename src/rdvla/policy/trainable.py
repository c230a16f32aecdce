"""The policy as training sees it: a batch goes in, a loss comes out, and no caller touches its components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.backbone import Backbone, Features, is_lora
from rdvla.control import Stops
from rdvla.engine import Predictor
from rdvla.errors import ConfigError
from rdvla.heads import ActionHead, Context, Loss, ProprioProjector, RecurrentDepthHead, Score
from rdvla.heads.recurrent.modes import nearest_initial_state
from rdvla.policy.batch import Batch
from rdvla.policy.losses import LossWeights, environment_state_error, perception_loss
from rdvla.types import Prediction

CLONING = LossWeights()


class Trainable(nn.Module):
    """Loss and validation of a policy.

    Gradients reach every trained parameter through `forward` alone, so what wraps a module to train it in
    several processes can wrap a policy.
    """

    backbone: Backbone
    head: ActionHead
    engine: Predictor
    proprio_projector: ProprioProjector

    def forward(
        self,
        batch: Batch,
        *,
        losses: LossWeights = CLONING,
        generator: torch.Generator | None = None,
        depth: int | None = None,
        initial_state: Tensor | None = None,
        candidates: int = 1,
    ) -> Loss:
        """Return the weighted sum of the losses; the backbone runs once for all of them.

        Args:
            batch: B samples.
            losses: which losses count, and how much.
            generator: for the draws of the head.
            depth: iterations of a head that iterates, the same in all processes; drawn if not given.
            initial_state: S_0, (B, K, D); continued from `batch.earlier`, or drawn, if not given.
            candidates: how many are drawn if it is not given; each sample trains the one that ends nearest.

        Returns:
            The sum. Its scalars hold the head's figures and `perception_loss`; with actions of weight 0,
            the perception loss alone is called `loss`.

        Raises:
            ConfigError: a loss needs a target that the batch lacks; or the head is not recurrent, and has
                several candidates.
        """
        features = self.backbone.features(batch.features)
        if losses.actions == 0:
            seen = perception_loss(self.backbone, features, batch, keypoint_weight=losses.keypoints)
            return Loss(total=losses.perception * seen, scalars={"loss": seen.detach()})
        context = self._context(features, batch.state)
        if initial_state is None:
            initial_state = self._start(context, batch, generator, depth=depth, candidates=candidates)
        loss = self.head.loss(
            context,
            batch.actions,
            is_pad=batch.action_is_pad,
            generator=generator,
            depth=depth,
            initial_state=initial_state,
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
        self,
        batch: Batch,
        *,
        depths: Sequence[int],
        generator: torch.Generator | None = None,
        candidates: int = 1,
    ) -> dict[int, Score]:
        """Return the L1 of normalised actions after each of `depths` iterations, all of one run of the core.

        Args:
            batch: B samples.
            depths: iterations; a head that does not iterate gives the same error for all.
            generator: for the draws of the head.
            candidates: how many initial states are drawn for each sample; the one that ends nearest after
                the last of `depths` counts.
        """
        context = self._context(self.backbone.features(batch.features), batch.state)
        return self.head.errors(
            context,
            batch.actions,
            is_pad=batch.action_is_pad,
            depths=depths,
            generator=generator,
            initial_state=self._start(context, batch, generator, depth=depths[-1], candidates=candidates),
        )

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
        stop: Stops,
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
        return self.engine.predict(context, stop=stop, initial_state=initial_state, generator=generator)

    def _start(
        self,
        context: Context,
        batch: Batch,
        generator: torch.Generator | None,
        *,
        depth: int | None,
        candidates: int,
    ) -> Tensor | None:
        """S_0, of several candidates the nearest; None: the head draws it."""
        if candidates == 1:
            is_plain = batch.share is None and batch.earlier is None
            return None if is_plain else self._continued(batch, generator)
        if not isinstance(self.head, RecurrentDepthHead):
            raise ConfigError(
                "several candidates are initial states of a recurrent head: set loss.candidates=1"
            )
        if depth is None:
            raise ValueError("several candidates need a depth: after how many iterations they are compared")
        return nearest_initial_state(
            self.head,
            context,
            batch.actions,
            is_pad=batch.action_is_pad,
            depth=depth,
            candidates=[self._continued(batch, generator) for _ in range(candidates)],
        )

    def _continued(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """S_0 of a batch or of a share, some of whose samples may go on from an earlier query."""
        if batch.share is None:
            noise = self.head.initial_state(batch.size, generator)
        else:
            noise = batch.share.of(self.head.initial_state(batch.share.whole, generator))
        return noise if batch.earlier is None else batch.earlier.initial_state(noise)

    def _context(self, features: Features, state: Tensor) -> Context:
        proprio = self.proprio_projector(state)
        return self.head.context(vision=features.vision, latents=features.latents, proprio=proprio)


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Return numbers of parameters: all, frozen, in low-rank pairs, and trained as they are."""
    sizes = {"all": 0, "frozen": 0, "lora": 0, "trained": 0}
    for name, parameter in module.named_parameters():
        kind = "lora" if is_lora(name) else "trained" if parameter.requires_grad else "frozen"
        sizes["all"] += parameter.numel()
        sizes[kind] += parameter.numel()
    return sizes
