"""The losses that a policy is trained with, and how they add up."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rdvla.backbone import Backbone, Features
from rdvla.errors import ConfigError
from rdvla.policy.batch import Batch, Share


@dataclass(frozen=True)
class LossWeights:
    """Share of each loss in the sum that is minimised; a loss of weight 0 is not computed."""

    actions: float = 1.0  # the head's loss on the demonstrated chunk
    perception: float = 0.0  # L1 on the environment state that the backbone reads off the images
    keypoints: float = 0.0  # within the perception loss: cross-entropy of the attention with keypoints

    def of(self, share: Share | None) -> LossWeights:
        """Return the weights in a share of a batch: all shares' losses then add up to the whole batch's."""
        if share is None:
            return self
        return LossWeights(
            actions=self.actions * share.steps,
            perception=self.perception * share.samples,
            keypoints=self.keypoints * share.points / share.samples,
        )


def perception_loss(
    backbone: Backbone, features: Features, batch: Batch, *, keypoint_weight: float
) -> Tensor:
    """Return the error of the environment state plus `keypoint_weight` times the keypoint loss, ().

    Both train the backbone's perception only: they are never inputs, and control uses neither.

    Raises:
        ConfigError: the batch lacks a target, or the environment state has another size than the backbone's.
    """
    error = environment_state_error(backbone, features, batch)
    if keypoint_weight == 0:
        return error
    if batch.keypoints is None:
        raise ConfigError(
            "loss.keypoint_weight needs privileged.environment_keypoints, which the dataset does not have; "
            "set loss.keypoint_weight=0."
        )
    return error + keypoint_weight * backbone.keypoint_loss(features, batch.keypoints)


def environment_state_error(backbone: Backbone, features: Features, batch: Batch) -> Tensor:
    """Return the mean absolute error of the standardised environment state, ().

    Raises:
        ConfigError: the batch has no environment state, or one of another size than the backbone's.
    """
    target = batch.environment_state
    if target is None:
        raise ConfigError(
            "The perception loss needs privileged.environment_state, which the dataset does not have; "
            "train with objective=actions and loss.perception_weight=0."
        )
    predicted = backbone.predict_environment_state(features)
    if predicted.shape != target.shape:
        raise ConfigError(
            f"The backbone predicts {predicted.shape[-1]} numbers, but privileged.environment_state has "
            f"{target.shape[-1]}; set policy.backbone.environment_state_dim={target.shape[-1]}."
        )
    return (predicted.float() - target).abs().mean()
