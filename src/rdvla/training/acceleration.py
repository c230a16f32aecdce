"""Trades a policy's memory and start-up time for speed in training; what it computes stays the same."""

from __future__ import annotations

from torch import nn

from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training.compute import ComputeConfig


def accelerate_policy(policy: RDVLAPolicy, config: ComputeConfig) -> None:
    """Switch on what the configuration asks for, in place; names of weights stay as they are.

    Args:
        policy: frozen and adapted as it is in training; its operations are counted already.
        config: of the run.

    Raises:
        ConfigError: there is nothing to compile, or no compiler.
    """
    if config.gradient_checkpointing:
        checkpoint_gradients(policy)
    if config.compile:
        compile_blocks(policy)


def checkpoint_gradients(policy: RDVLAPolicy) -> None:
    """Keep less of the forward pass: the head's iterations, and a trained backbone's layers, run twice."""
    policy.head.gradient_checkpointing = True
    if not policy.backbone.frozen:
        policy.backbone.checkpoint_gradients()


def compile_blocks(policy: RDVLAPolicy, *, backend: str = "inductor") -> None:
    """Compile the head's blocks, which do most of the work, each where it stands.

    The loop over iterations stays outside, so a new depth needs no new code. All blocks share what was
    compiled for the first: with gradient, without, and for an input that needs none.

    Args:
        policy: in place.
        backend: of `torch.compile`.

    Raises:
        ConfigError: the head has no blocks, or this machine no C++ compiler.
    """
    blocks = blocks_of(policy.head)
    if not blocks:
        raise ConfigError(
            f"compute.compile compiles the blocks of a head, and {type(policy.head).__name__} has none; set "
            "it to false."
        )
    if backend == "inductor" and policy.device.type == "cpu":
        _check_compiler()
    for block in blocks:
        block.compile(backend=backend)


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the outermost members of a module's lists of modules: what repeats in it."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [block for child in module.children() for block in blocks_of(child)]


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "compute.compile needs a C++ compiler such as g++, and this machine has none: install one, or "
            "set it to false."
        ) from error
