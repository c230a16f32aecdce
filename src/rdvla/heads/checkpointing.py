"""Gradient checkpointing: less memory in training, for computing a part of the forward pass twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


class Checkpointing(nn.Module):
    """A module that can keep the inputs of its steps alone, and compute their activations again.

    Gradients stay the same: the steps run again with the same random numbers.
    """

    gradient_checkpointing: bool = False  # acts in training alone, where gradient flows

    def checkpointed(self, step: Callable[..., Result], *inputs: object) -> Result:
        """Run a step on its inputs, which are all that is kept of it if `gradient_checkpointing` is set."""
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()):
            return step(*inputs)
        result: Result = checkpoint(step, *inputs, use_reentrant=False, preserve_rng_state=True)
        return result
