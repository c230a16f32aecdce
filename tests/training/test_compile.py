"""Compiled blocks compute the same, whatever the depth, and are compiled a few times in all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training import Trainer, train
from rdvla.training.acceleration import checkpoint_gradients, compile_blocks
from rdvla.training.metrics import read_metrics
from tests.support.regression_head import RegressionConfig
from tests.support.tiny_training import policy_config, tiny_batch, tiny_policy, train_config

QUIET = Console(quiet=True)
BLOCKS = {"core": ("late", "late"), "coda": ("late",)}
# Blocks with gradient, the same whose input needs none, and without gradient.
GRAPHS = 3


@pytest.fixture(autouse=True)
def no_compiled_code() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def compiled(backend: str = "aot_eager") -> RDVLAPolicy:
    policy = tiny_policy(**BLOCKS).train()
    compile_blocks(policy, backend=backend)
    return policy


def gradients(policy: RDVLAPolicy, depth: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    batch = tiny_batch(policy, 4)
    policy.zero_grad()
    policy(batch, generator=torch.Generator().manual_seed(2), depth=depth).total.backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        # A few hundred float32 additions per number, in another order: 1e-7 each, of the largest gradient.
        torch.testing.assert_close(
            actual[name], value, rtol=1e-3, atol=1e-4 * value.abs().max().item() + 1e-9
        )


def test_no_depth_needs_new_code() -> None:
    policy = compiled()
    for depth in range(1, 33):
        gradients(policy, depth)
    assert 0 < counters["stats"]["unique_graphs"] <= GRAPHS
    assert not counters["graph_break"]


def test_new_depths_after_the_first_ones_compile_nothing() -> None:
    policy = compiled()
    for depth in (1, 3):
        gradients(policy, depth)
    with torch.compiler.set_stance("fail_on_recompile"):
        for depth in (2, 7, 32):
            gradients(policy, depth)


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_gradients_are_the_same(depth: int) -> None:
    assert_same(gradients(compiled(), depth), gradients(tiny_policy(**BLOCKS).train(), depth))


def test_checkpointing_and_compiled_blocks_go_together() -> None:
    policy = compiled()
    checkpoint_gradients(policy)
    assert_same(gradients(policy, 5), gradients(tiny_policy(**BLOCKS).train(), 5))


def test_names_of_weights_stay() -> None:
    assert compiled().state_dict().keys() == tiny_policy(**BLOCKS).state_dict().keys()


def test_a_head_without_blocks_is_refused(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    head = RegressionConfig(chunk_size=4, action_dim=4, context_dim=16)
    config = replace(
        config,
        policy=replace(policy_config(), head=head),
        compute=replace(config.compute, compile=True),
    )
    with pytest.raises(ConfigError, match=r"compiles the blocks of a head, and .* has none"):
        Trainer(config, console=QUIET)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for processors with g++")
def test_a_compiled_run_learns_the_same_and_resumes_uncompiled(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "plain", steps=6)
    other = replace(
        config, output_dir=str(tmp_path / "compiled"), compute=replace(config.compute, compile=True)
    )
    train(config, console=QUIET)
    train(other, console=QUIET)
    plain, fast = (
        read_metrics(tmp_path / run / "metrics.jsonl", kind="train") for run in ("plain", "compiled")
    )
    for expected, actual in zip(plain, fast, strict=True):
        assert actual["depth"] == expected["depth"]
        # Rounding may turn the sign of a nearly vanishing gradient, which AdamW makes a whole step of.
        assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-2)
    files = [
        tmp_path / run / "checkpoints/step-00000006/weights.safetensors" for run in ("plain", "compiled")
    ]
    assert load_file(files[0]).keys() == load_file(files[1]).keys()
    again = replace(other, steps=8, resume=True, compute=replace(config.compute, compile=False))
    assert train(again, console=QUIET).step == 8
