"""Trades a policy's memory and start-up time for speed in training; what it computes stays the same."""

from __future__ import annotations

from rdvla.policy import RDVLAPolicy
from rdvla.training.compute import ComputeConfig


def accelerate_policy(policy: RDVLAPolicy, config: ComputeConfig) -> None:
    """Switch on what the configuration asks for, in place; names of weights stay as they are.

    Args:
        policy: frozen and adapted as it is in training; its operations are counted already.
        config: of the run.
    """
    if config.gradient_checkpointing:
        checkpoint_gradients(policy)


def checkpoint_gradients(policy: RDVLAPolicy) -> None:
    """Keep less of the forward pass: the head's iterations, and a trained backbone's layers, run twice."""
    policy.head.gradient_checkpointing = True
    if not policy.backbone.frozen:
        policy.backbone.checkpoint_gradients()
