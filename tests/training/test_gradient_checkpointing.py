"""Gradient checkpointing changes no gradient and keeps less of the forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from rdvla.policy import RDVLAPolicy
from rdvla.training import train
from rdvla.training.acceleration import checkpoint_gradients
from rdvla.training.compute import ComputeConfig
from tests.support.tiny_training import tiny_batch, tiny_policy, train_config

QUIET = Console(quiet=True)
BLOCKS = {"core": ("late", "late"), "coda": ("late",), "backprop_depth": 4}


def policies(*, frozen: bool = False) -> tuple[RDVLAPolicy, RDVLAPolicy]:
    plain, checkpointed = tiny_policy(**BLOCKS).train(), tiny_policy(**BLOCKS).train()
    if frozen:
        plain.freeze_backbone()
        checkpointed.freeze_backbone()
    checkpoint_gradients(checkpointed)
    return plain, checkpointed


def loss_of(policy: RDVLAPolicy, depth: int) -> Tensor:
    torch.manual_seed(1)
    batch = tiny_batch(policy, 4)
    return policy(batch, generator=torch.Generator().manual_seed(2), depth=depth).total


def kept_numbers(run: Callable[[], Tensor]) -> int:
    """Count the numbers that a forward pass keeps for its backward pass, each tensor once."""
    kept: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run()
    return sum(value.untyped_storage().nbytes() for value in kept.values())


@pytest.mark.parametrize("depth", [1, 4, 7])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_the_same(depth: int, frozen: bool) -> None:
    plain, checkpointed = policies(frozen=frozen)
    for policy in (plain, checkpointed):
        loss_of(policy, depth).backward()
    for (name, expected), actual in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert (expected.grad is None) == (actual.grad is None), name
        if expected.grad is not None:
            assert actual.grad is not None
            # The same operations on the same shapes; only the order in which gradients add up may differ.
            scale = expected.grad.abs().max().item()
            torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-5, atol=1e-5 * scale + 1e-12)


def test_dropout_is_the_same_in_both_passes() -> None:
    plain, checkpointed = policies()
    for policy in (plain, checkpointed):
        for layer in policy.backbone.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.5
        loss_of(policy, 3).backward()
    for expected, actual in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-5, atol=1e-7)


def test_each_iteration_keeps_its_state_instead_of_its_activations() -> None:
    plain, checkpointed = policies(frozen=True)
    state = 4 * 4 * 16 * 4  # (B, K, D) in float32, bytes
    growth = [
        kept_numbers(lambda: loss_of(policy, 4)) - kept_numbers(lambda: loss_of(policy, 3))  # noqa: B023
        for policy in (plain, checkpointed)
    ]
    assert growth[0] > 10 * state
    assert growth[1] <= state


def test_a_trained_backbone_keeps_less_too() -> None:
    of_backbone = []
    for frozen in (False, True):
        plain, checkpointed = policies(frozen=frozen)
        of_backbone.append([kept_numbers(lambda: loss_of(p, 1)) for p in (plain, checkpointed)])  # noqa: B023
    plain_share, checkpointed_share = (trained - frozen for trained, frozen in zip(*of_backbone, strict=True))
    assert 0 < checkpointed_share < plain_share / 2


def test_evaluation_computes_nothing_twice() -> None:
    _, checkpointed = policies()
    plain, _ = policies()
    for policy in (plain, checkpointed):
        policy.eval()
    assert kept_numbers(lambda: loss_of(checkpointed, 3)) == kept_numbers(lambda: loss_of(plain, 3))


def test_a_run_learns_the_same(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "plain", steps=4)
    compute = replace(config.compute, gradient_checkpointing=True)
    train(config, console=QUIET)
    train(replace(config, output_dir=str(tmp_path / "less"), compute=compute), console=QUIET)
    plain, less = (
        load_file(tmp_path / run / "checkpoints/step-00000004/weights.safetensors")
        for run in ("plain", "less")
    )
    assert plain.keys() == less.keys()
    for name, expected in plain.items():
        # Four updates of AdamW move a weight by at most four learning rates; where a gradient is nearly 0,
        # its sign may turn by rounding.
        torch.testing.assert_close(less[name], expected, rtol=0, atol=4 * 2 * config.optimizer.learning_rate)
    assert ComputeConfig() == config.compute
