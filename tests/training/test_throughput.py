"""Operations of an update are counted as its matrices' sizes say, and the log says how fast they ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rdvla.policy.losses import LossWeights
from rdvla.training import Trainer, train
from rdvla.training.metrics import Update, read_metrics
from rdvla.training.throughput import (
    Operations,
    Throughput,
    count_operations,
    named_peak,
    operations_of,
    update_operations,
)
from tests.support.tiny_training import tiny_batch, tiny_policy, train_config

QUIET = Console(quiet=True)
CLONING = LossWeights()


def update(depth: int, seconds: float) -> Update:
    return Update(depth=depth, grad_norm=1.0, learning_rate=0.1, seconds=seconds, scalars={"loss": 1.0})


def test_an_iteration_costs_the_products_of_its_matrices() -> None:
    policy = tiny_policy()
    policy.freeze_backbone()
    head, context = policy.config.head, 3 + 3 + 1  # slots; latents with the instruction's; proprioception
    width, chunk = head.hidden_dim, head.chunk_size
    weights = (4 + 2 + 3 * head.feedforward_multiple) * width**2 + width**2  # a block; the state's adapter
    products = chunk * weights + 2 * chunk**2 * width + 2 * chunk * context * width
    found = update_operations(policy, tiny_batch(policy, 1), losses=CLONING)
    without_gradient = 2 * products
    assert found.deep[1] == without_gradient
    assert found.shallow[1] == 3 * without_gradient  # the gradient of a product is two products
    several = update_operations(policy, tiny_batch(policy, 1), losses=CLONING, candidates=4)
    assert several.deep[1] == 5 * without_gradient  # each is run first, and the nearest once more
    assert several.shallow[1] == 7 * without_gradient


def test_a_count_at_few_depths_gives_the_count_at_each() -> None:
    policy = tiny_policy(backprop_depth=3)
    batch = tiny_batch(policy, 1)
    found = update_operations(policy, batch, losses=CLONING)
    for depth in (1, 2, 3, 4, 5, 9):
        counted = operations_of(lambda: policy(batch, depth=depth).total, policy)  # noqa: B023
        assert found.at(depth) == counted


@pytest.mark.parametrize("gradient_depth", [1, 2, 8, 40])
def test_the_cost_of_truncated_backpropagation_is_two_lines(gradient_depth: int) -> None:
    def cost(depth: int) -> int:
        return 1000 + 30 * min(depth, gradient_depth) + 10 * max(depth - gradient_depth, 0)

    found = count_operations(cost, gradient_depth=gradient_depth)
    assert [found.at(depth) for depth in range(1, 65)] == [cost(depth) for depth in range(1, 65)]


def test_what_is_frozen_costs_no_gradient() -> None:
    policy = tiny_policy()
    batch = tiny_batch(policy, 1)
    trained = update_operations(policy, batch, losses=CLONING).at(4)
    policy.freeze_backbone()
    frozen = update_operations(policy, tiny_batch(policy, 1), losses=CLONING).at(4)
    assert frozen < trained


def test_counting_leaves_no_trace() -> None:
    policy = tiny_policy().train()
    batch = tiny_batch(policy, 1)
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    update_operations(policy, batch, losses=CLONING)
    assert torch.randn(3).equal(expected)
    assert policy.training and all(parameter.grad is None for parameter in policy.parameters())
    assert all(value.equal(weights[name]) for name, value in policy.state_dict().items())


def test_speed_is_samples_and_operations_by_the_seconds() -> None:
    throughput = Throughput(
        batch_size=10, operations=Operations(4, shallow=(1e9, 2e9), deep=(1e9, 2e9)), peak=None
    )
    figures = throughput.figures([update(1, 0.5), update(3, 1.5)])
    assert figures == {"samples_per_second": 10.0, "tflops": pytest.approx(10 * (3 + 7) * 1e9 / 2 / 1e12)}
    known = replace(throughput, peak=1e11).figures([update(1, 0.5), update(3, 1.5)])
    assert known["utilisation"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "bfloat16", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", True, 312),
        ("NVIDIA A100-SXM4-80GB", False, 19.5),
        ("NVIDIA H100 80GB HBM3", True, 989),
        ("NVIDIA H100 PCIe", True, 756),
        ("NVIDIA GH200 480GB", True, 989),
        ("NVIDIA L4", True, 121),
        ("NVIDIA L40S", True, 362),
        ("NVIDIA GeForce RTX 4090", False, 82.6),
    ],
)
def test_the_peak_of_a_known_gpu_is_found_by_its_name(name: str, bfloat16: bool, teraflops: float) -> None:
    assert named_peak(name, bfloat16=bfloat16) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize("name", ["NVIDIA L40", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "Some GPU"])
def test_the_peak_of_another_device_is_not_guessed(name: str) -> None:
    assert named_peak(name, bfloat16=True) is None


def test_a_run_logs_its_speed_and_on_an_unknown_device_no_utilisation(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run", steps=4)
    train(config, console=QUIET)
    lines = read_metrics(tmp_path / "run/metrics.jsonl", kind="train")
    assert len(lines) == 2
    for line in lines:
        assert line["samples_per_second"] == pytest.approx(config.batch_size / line["ms_per_step"] * 1000)
        assert line["tflops"] > 0 and "utilisation" not in line


def test_a_named_peak_gives_the_utilisation_of_any_device(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run", steps=4)
    train(replace(config, compute=replace(config.compute, peak_tflops=0.5)), console=QUIET)
    line = read_metrics(tmp_path / "run/metrics.jsonl", kind="train")[-1]
    assert line["utilisation"] == pytest.approx(line["tflops"] / 0.5)


def test_what_the_cache_holds_is_not_counted(dataset: Path, tmp_path: Path) -> None:
    trained = Trainer(train_config(dataset, tmp_path / "a"), console=QUIET)
    config = train_config(dataset, tmp_path / "b", freeze_backbone=True)
    frozen = Trainer(replace(config, data=replace(config.data, image_shift=0)), console=QUIET)
    # Features come from the cache, so the update is the head's alone.
    head = tiny_policy()
    head.freeze_backbone()
    alone = update_operations(head, tiny_batch(head, 1), losses=CLONING)
    assert frozen.throughput.operations == alone
    assert frozen.throughput.operations.at(1) < trained.throughput.operations.at(1)
