"""What an update changes: weights, AdamW's running values, the averaged weights, the number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.errors import ConfigError
from rdvla.hashing import hash_tensors
from rdvla.policy import RDVLAPolicy
from rdvla.training.checkpoints import Best, Checkpoint, CheckpointError
from rdvla.training.config import OptimizerConfig, TrainConfig
from rdvla.training.schedule import Length, Schedule, with_length
from rdvla.training.sharding import forget_gathered, like, shard, whole


class TrainingState:
    """Weights, their average, the optimiser, and how far they have come.

    Args:
        policy: its weights are the first ones.
        config: of the run.

    Attributes:
        step: updates done.
        seconds: of training, over all resumptions.
        best: the lowest validation loss so far.
        lengths: how long the run was meant to be, from the first choice on.
        parameters: what is trained, by name.
        ema: their average.

    Raises:
        ConfigError: no parameter is trainable.
    """

    def __init__(self, policy: nn.Module, config: TrainConfig) -> None:
        self.step = 0
        self.seconds = 0.0
        self.best: Best | None = None
        self.parameters = trainable_parameters(policy)
        self.ema = ExponentialMovingAverage(self.parameters, decay=config.ema.decay, warmup=config.ema.warmup)
        self._policy = policy
        self._config = config.optimizer
        self._optimizer = make_optimizer(self.parameters, config.optimizer)
        self._steps = config.steps
        self._set_lengths(())

    def clear_gradient(self) -> None:
        """Forget the last update's gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def clip_gradient(self) -> Tensor:
        """Shorten the gradient to the largest norm that is allowed; return its norm before, ()."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._config.clip_norm)
        return whole({"norm": norm})["norm"]

    def follow_gradient(self, step: int) -> float:
        """Do update number `step` (from 0), also of the average; return its learning rate."""
        learning_rate = self._config.learning_rate * self._schedule.factor(step)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.ema.update(step)
        return learning_rate

    def improves(self, loss: float) -> bool:
        """Return whether a validation of the present average is the best so far, and remember it if it is."""
        if self.best is not None and loss >= self.best.loss:
            return False
        self.best = Best(step=self.step, loss=loss)
        return True

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the policy compute with the averaged weights for a `with` block; all ranks call this alike."""
        try:
            with self.ema.applied():
                forget_gathered(self._policy)
                yield
        finally:
            forget_gathered(self._policy)

    def checkpoint(self) -> Checkpoint:
        """Return everything that a run needs to go on from here, whole; all ranks call this alike."""
        return Checkpoint(
            step=self.step,
            seconds=self.seconds,
            best=self.best,
            lengths=self.lengths,
            weights=whole(changing_tensors(self._policy)),
            ema=whole(self.ema.state_dict()),
            optimizer=whole(optimizer_tensors(self._optimizer, self.parameters)),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint.

        Raises:
            CheckpointError: the checkpoint holds other tensors than this policy trains.
        """
        own = changing_tensors(self._policy)
        if own.keys() != checkpoint.weights.keys():
            other = sorted(own.keys() ^ checkpoint.weights.keys())
            raise CheckpointError(
                f"The checkpoint after step {checkpoint.step} does not fit the policy: {other[:4]}"
            )
        weights = {name: like(value, own[name]) for name, value in checkpoint.weights.items()}
        self._policy.load_state_dict(weights, strict=False)
        self.ema.load_state_dict(checkpoint.ema)
        load_optimizer_tensors(self._optimizer, self.parameters, checkpoint.optimizer)
        self.step, self.seconds, self.best = checkpoint.step, checkpoint.seconds, checkpoint.best
        self._set_lengths(checkpoint.lengths)

    def _set_lengths(self, so_far: tuple[Length, ...]) -> None:
        self.lengths = with_length(so_far, start=self.step, steps=self._steps)
        self._schedule = Schedule(
            self.lengths,
            warmup=self._config.warmup,
            final_fraction=self._config.final_fraction,
        )


def sharded(state: TrainingState, policy: RDVLAPolicy, config: TrainConfig) -> TrainingState:
    """Share out a policy's weights over all ranks, and what is kept of them; see `rdvla.training.sharding`.

    Args:
        state: of the policy, whole; it is of no use afterwards.
        policy: changed in place.
        config: of the run.
    """
    here = state.checkpoint()
    shard(policy)
    shared = TrainingState(policy, config)
    shared.restore(here)
    return shared


# --- which tensors are trained ---


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that take a gradient, by name, in the module's order."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def changing_tensors(policy: nn.Module) -> dict[str, Tensor]:
    """Return what training changes and a checkpoint must hold: trainable weights and saved buffers."""
    fixed = {name for name, parameter in policy.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in policy.state_dict().items() if name not in fixed}


def fixed_weights(policy: nn.Module, *, used: tuple[str, ...] = ("backbone.",)) -> str:
    """Return a fingerprint of the parameters that training uses and does not change.

    A head that perception leaves out does not count: its random weights, drawn from the seed, differ in their
    last bits between kinds of processors, and a run may go on on another one.

    Args:
        policy: of the run.
        used: starts of the names that count.
    """
    fixed = ((name, value) for name, value in policy.named_parameters() if not value.requires_grad)
    return hash_tensors(item for item in fixed if item[0].startswith(used))


# --- the optimiser ---


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW, fused if every parameter's device offers it.

    Raises:
        ConfigError: nothing is trainable.
    """
    if not parameters:
        raise ConfigError(
            "No parameter is trainable: the objective and freeze_backbone leave nothing to train."
        )
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters.values())
    return torch.optim.AdamW(
        parameter_groups(parameters, weight_decay=config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=fused,
    )


def parameter_groups(parameters: Mapping[str, nn.Parameter], *, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those with and those without weight decay.

    Matrices (two or more dimensions) decay. Vectors and scalars - norm weights, biases, the vision gate - do
    not. Decay would pull norm weights away from 1, the scale they are meant to keep, and would hold the gate
    tanh(g) shut. Neither limits what the network can express, which is all that decay is for.
    """
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    others = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the optimiser's running values as `<parameter name>/<value name>` -> tensor.

    Parameters that have had no gradient yet have no entry, exactly as in the optimiser.
    """
    tensors = {}
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value
    return tensors


@torch.no_grad()
def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned; hyper-parameters stay the configuration's.

    Raises:
        KeyError: `tensors` names a parameter that is not trained.
    """
    optimizer.state.clear()
    for full_name, value in tensors.items():
        name, key = full_name.rsplit("/", 1)
        parameter = parameters[name]
        # Fused AdamW walks parameter and running means in step, so they must lie in memory alike (channels
        # last).
        own = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
        optimizer.state[parameter][key] = own.copy_(like(value, own)).to(parameter.device)


# --- the average ---


class ExponentialMovingAverage:
    """average <- average + (1 - d_n) (weight - average),  d_n = min(decay, (1 + n) / (warmup + n)).

    n counts the updates before this one. The warm-up lets the average forget the random start: without it a
    decay of 0.995 still holds 8 % of the initial weights after 500 updates.

    Args:
        parameters: the trainable parameters by name; the average starts at their present values.
        decay: d, 0 <= d < 1; 0 makes the average equal to the weights.
        warmup: see above, in updates.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], *, decay: float, warmup: int) -> None:
        self.decay = decay
        self.warmup = warmup
        self._parameters = dict(parameters)
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}

    def decay_at(self, updates: int) -> float:
        """Return d_n for the update that follows `updates` earlier ones."""
        return min(self.decay, (1 + updates) / (self.warmup + updates))

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the present weights, after an optimiser step that followed `updates` earlier ones."""
        weights = [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self._average.values()), weights, 1 - self.decay_at(updates))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model for a `with` block, then the very same weights back."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged tensors by parameter name."""
        return dict(self._average)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over averaged tensors that `state_dict` returned; names and shapes must agree.

        Raises:
            KeyError: a parameter has no average in `state`.
        """
        for name, average in self._average.items():
            average.copy_(like(state[name], average))
