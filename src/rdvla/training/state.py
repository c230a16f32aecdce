"""What changes from update to update, and its way into a checkpoint and back."""

from __future__ import annotations

import torch
from torch import Tensor

from rdvla.policy import RDVLAPolicy
from rdvla.training.checkpoint import Best, Checkpoint
from rdvla.training.config import TrainConfig
from rdvla.training.ema import ExponentialMovingAverage
from rdvla.training.optimizer import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    trainable_parameters,
)
from rdvla.training.schedule import WarmupCosine
from rdvla.training.setup import changing_tensors, load_weights


class TrainingState:
    """Weights, their average, the optimiser, and how far they have come.

    Attributes:
        step: updates done.
        seconds: of training, over all resumptions.
        best: the lowest validation loss so far.
        parameters: what is trained, by name.
        ema: the average of those.
    """

    def __init__(self, policy: RDVLAPolicy, config: TrainConfig) -> None:
        """Start from the policy's weights; raises ConfigError where none is trainable."""
        self.step = 0
        self.seconds = 0.0
        self.best: Best | None = None
        self.parameters = trainable_parameters(policy)
        self.ema = ExponentialMovingAverage(self.parameters, decay=config.ema.decay, warmup=config.ema.warmup)
        self._policy = policy
        self._config = config.optimizer
        self._optimizer = make_optimizer(self.parameters, config.optimizer)
        self._schedule = WarmupCosine(
            steps=config.steps,
            warmup_steps=config.optimizer.warmup_steps,
            final_fraction=config.optimizer.final_fraction,
        )

    def clear_gradient(self) -> None:
        """Forget the last update's gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def clip_gradient(self) -> Tensor:
        """Shorten the gradient to the largest norm that is allowed; returns its norm before, ()."""
        return torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._config.clip_norm)

    def follow_gradient(self, step: int) -> float:
        """Do update number `step` (from 0), also of the average; returns the learning rate that it had."""
        learning_rate = self._config.learning_rate * self._schedule.factor(step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.ema.update(step)
        return learning_rate

    def checkpoint(self) -> Checkpoint:
        """Everything that a run needs to go on from here."""
        return Checkpoint(
            step=self.step,
            seconds=self.seconds,
            best=self.best,
            weights=changing_tensors(self._policy),
            ema=self.ema.state_dict(),
            optimizer=optimizer_tensors(self._optimizer, self.parameters),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint; raises CheckpointError where it is of another policy."""
        load_weights(self._policy, checkpoint)
        self.ema.load_state_dict(checkpoint.ema)
        load_optimizer_tensors(self._optimizer, self.parameters, checkpoint.optimizer)
        self.step, self.seconds, self.best = checkpoint.step, checkpoint.seconds, checkpoint.best
