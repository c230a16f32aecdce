"""Low-rank adaptation (LoRA, arXiv 2106.09685): train small matrices next to frozen ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rdvla.backbone.config import LoraSettings
from rdvla.errors import ConfigError, missing_extra


def add_lora(module: nn.Module, settings: LoraSettings, *, language: nn.Module) -> None:
    """Freeze a model in place and put trainable low-rank pairs next to its linear layers.

    The pairs are float32 in every model, as bfloat16 would lose small updates. One matrix of each pair starts
    at zero, so the model still computes the same.

    Args:
        module: the whole model.
        settings: which layers, and how large.
        language: the language model inside `module`.

    Raises:
        ConfigError: there is no linear layer to adapt.
        MissingExtraError: peft is not installed.
    """
    module.requires_grad_(False)
    if settings.where == "none":
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    names = _linear_layers(module, within=language if settings.where == "language" else module)
    if not names:
        raise ConfigError(f"lora.where={settings.where} finds no linear layer in {type(module).__name__}")
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=names
    )
    inject_adapter_in_model(config, module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_lora(name))
        if is_lora(name):
            parameter.data = parameter.data.float()


@torch.no_grad()
def merged_pairs(module: nn.Module, settings: LoraSettings) -> dict[str, Tensor]:
    """Return what the pairs add to each weight, (alpha / r) B A, by the weight's name without LoRA."""
    state = module.state_dict()
    down, up = ".lora_A.default.weight", ".lora_B.default.weight"
    return {
        name.removesuffix(down) + ".weight": settings.scale
        * (state[name.removesuffix(down) + up] @ state[name])
        for name in state
        if name.endswith(down)
    }  # fmt: skip


def is_lora(name: str) -> bool:
    """Return whether a parameter was added by `add_lora`, by its name."""
    return ".lora_" in name


def _linear_layers(module: nn.Module, *, within: nn.Module) -> list[str]:
    inside = {id(layer) for layer in within.modules()}
    # Subclasses of nn.Linear are left out: torch's own attention reads their weights without calling them.
    return [
        name for name, layer in module.named_modules() if type(layer) is nn.Linear and id(layer) in inside
    ]
