"""AdamW over the trainable parameters, and its state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.errors import ConfigError
from rdvla.training.config import OptimizerConfig


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that take a gradient, by name, in the module's order."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def parameter_groups(parameters: Mapping[str, nn.Parameter], *, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into those with and those without weight decay.

    Matrices (two or more dimensions) decay. Vectors and scalars - norm weights, biases, the vision gate - do
    not: decay would pull norm weights away from 1, the scale they are meant to keep, and would hold the gate
    tanh(g) shut; neither limits what the network can express, which is all that decay is for.
    """
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    others = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.AdamW:
    """Build AdamW, fused where every parameter's device offers it.

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
    """Put back what `optimizer_tensors` returned; hyper-parameters stay those of the configuration.

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
        optimizer.state[parameter][key] = own.copy_(value).to(parameter.device)
