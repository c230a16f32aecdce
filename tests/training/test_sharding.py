"""Weights that two processes share out train as they do in one, and leave the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import load_file

from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training import Trainer, train
from rdvla.training.compute import ComputeConfig
from rdvla.training.config import EMAConfig, WarmStartConfig
from rdvla.training.metrics import read_metrics
from rdvla.training.optimization import TrainingState, sharded
from rdvla.training.sharding import is_sharded
from tests.support.sharded_host import sharded_config, with_lora
from tests.support.tiny_training import tiny_batch, tiny_policy, train_config, write_dataset
from tests.support.tiny_vlms import save_tiny_vlm

QUIET = Console(quiet=True)
ROOT = Path(__file__).parents[2]
STEPS = 6


def in_two(dataset: Path, folder: Path, strategy: str, *options: str, steps: int = STEPS) -> list[Any]:
    """Train in two processes over gloo; return what each says of its weights."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    host = ["-m", "tests.support.sharded_host", str(dataset), str(folder), strategy, str(steps), *options]
    done = subprocess.run(
        [sys.executable, *launcher, *host], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(file.read_text()) for file in sorted(folder.parent.glob(f"{folder.name}-rank-*.json"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process, in two that average gradients, and in two that share weights out."""
    folder = tmp_path_factory.mktemp("runs")
    write_dataset(folder / "data")
    train(sharded_config(folder / "data", folder / "one", steps=STEPS), console=QUIET)
    for strategy in ("ddp", "fsdp"):
        in_two(folder / "data", folder / strategy, strategy)
    return folder


def assert_same_figures(run: Path, other: Path, *, relative: float = 1e-3) -> None:
    """Losses agree; rounding errors of 1e-7 grow with every update."""
    found, expected = (read_metrics(folder / "metrics.jsonl") for folder in (run, other))
    assert [(line["step"], line["kind"]) for line in found] == [
        (line["step"], line["kind"]) for line in expected
    ]
    for line, wanted in zip(found, expected, strict=True):
        for name in wanted.keys() & {
            "loss",
            "perception_loss",
            "grad_norm",
            "l1_depth_1",
            "l1_depth_4",
            "depth",
        }:
            assert line[name] == pytest.approx(wanted[name], rel=relative), (line["step"], name)


@pytest.mark.slow
def test_each_process_keeps_its_share(runs: Path) -> None:
    facts = [json.loads((runs / f"fsdp-rank-{number}.json").read_text()) for number in (0, 1)]
    assert all(fact["sharded"] for fact in facts)
    assert sum(fact["kept"] for fact in facts) == facts[0]["all"]
    assert max(fact["kept"] for fact in facts) < 0.6 * facts[0]["all"]
    assert not json.loads((runs / "ddp-rank-0.json").read_text())["sharded"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_losses_and_validations_are_those_of_one_process(runs: Path, strategy: str) -> None:
    assert_same_figures(runs / strategy, runs / "one")


@pytest.mark.slow
def test_checkpoints_have_the_same_names_shapes_and_weights(runs: Path) -> None:
    for file in ("weights", "ema", "optimizer"):
        one, fsdp = (
            load_file(runs / run / f"checkpoints/step-{STEPS:08d}/{file}.safetensors")
            for run in ("one", "fsdp")
        )
        assert one.keys() == fsdp.keys()
        for name, value in one.items():
            assert fsdp[name].shape == value.shape and fsdp[name].dtype == value.dtype
            # Rounding may turn the sign of a nearly vanishing gradient: AdamW makes a whole step of it.
            torch.testing.assert_close(fsdp[name], value, rtol=1e-2, atol=2 * STEPS * 1e-3)


@pytest.mark.slow
def test_the_policy_holds_the_averaged_weights(runs: Path) -> None:
    best = json.loads((runs / "fsdp/checkpoints/best.json").read_text())["checkpoint"]
    average = load_file(runs / f"fsdp/checkpoints/{best}/ema.safetensors")
    policy = RDVLAPolicy.from_pretrained(runs / "fsdp/policy")
    weights = policy.state_dict()
    assert all(weights[name].equal(value) for name, value in average.items())


@pytest.mark.slow
def test_a_run_goes_on_in_one_process_and_shared_out_again(runs: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    shutil.copytree(runs / "one", alone)
    shutil.copytree(runs / "fsdp", shared)
    for folder in (alone, shared):
        config = sharded_config(runs / "data", folder, steps=STEPS + 3, resume=True)
        assert train(config, console=QUIET).step == STEPS + 3
    assert_same_figures(shared, alone)
    config = sharded_config(runs / "data", alone, steps=STEPS + 6, resume=True)
    train(config, console=QUIET)
    in_two(runs / "data", shared, "fsdp", "resume", "accumulation", "checkpointing", steps=STEPS + 6)
    assert_same_figures(shared, alone)


@pytest.mark.slow
def test_low_rank_pairs_train_next_to_weights_of_another_dtype(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = save_tiny_vlm(tmp_path / "model", "smolvlm")
    alone = with_lora(sharded_config(runs / "data", tmp_path / "alone", steps=STEPS), model)
    train(alone, console=QUIET)
    facts = in_two(runs / "data", tmp_path / "shared", "fsdp", f"model={model}", "checkpointing")
    assert all(fact["sharded"] for fact in facts)
    # bfloat16 sums of other batch sizes differ by 2^-8.
    assert_same_figures(tmp_path / "shared", tmp_path / "alone", relative=5e-2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_bfloat16_accumulation_checkpointing_and_compiled_blocks_work_in_two_processes(
    runs: Path, tmp_path: Path, strategy: str
) -> None:
    options = ("bf16", "accumulation", "checkpointing", "compile")
    in_two(runs / "data", tmp_path / "run", strategy, *options)
    # bfloat16 has 8 bits: errors of 0.4% per product, in a dozen layers.
    assert_same_losses(tmp_path / "run", runs / "one", relative=0.1)


def assert_same_losses(run: Path, other: Path, *, relative: float) -> None:
    found, expected = (read_metrics(folder / "metrics.jsonl", kind="train") for folder in (run, other))
    assert [line["loss"] for line in found] == pytest.approx(
        [line["loss"] for line in expected], rel=relative
    )


def test_bfloat16_and_accumulation_on_a_processor(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run", steps=4, log_every=1)
    train(config, console=QUIET)
    narrow = replace(
        config,
        output_dir=str(tmp_path / "bf16"),
        mixed_precision="bf16",
        compute=ComputeConfig(accumulation_steps=2, gradient_checkpointing=True),
    )
    train(narrow, console=QUIET)
    assert_same_losses(tmp_path / "bf16", tmp_path / "run", relative=0.1)
    weights = load_file(tmp_path / "bf16/checkpoints/step-00000004/weights.safetensors")
    assert all(value.dtype == torch.float32 for value in weights.values())
    first, other = (
        read_metrics(tmp_path / run / "metrics.jsonl", kind="train")[0] for run in ("bf16", "run")
    )
    assert first["loss"] != other["loss"]  # it did compute in bfloat16


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone, whose weights are gathered and freed as those of many are."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_after_a_validation_the_weights_compute_again_and_not_their_average(
    dataset: Path, tmp_path: Path
) -> None:
    policy = tiny_policy().train()
    ema = EMAConfig(decay=0.99, warmup=1)
    config = train_config(dataset, tmp_path / "run", ema=ema)
    state = sharded(TrainingState(policy, config), policy, config)
    assert is_sharded(policy)
    torch.manual_seed(1)
    batch = tiny_batch(policy)

    def loss() -> torch.Tensor:
        return policy(batch, generator=torch.Generator().manual_seed(2), depth=3).total

    first = loss()
    before = first.item()
    first.backward()
    state.follow_gradient(step=100)
    with torch.no_grad():
        after = float(loss())
        with state.averaged():
            averaged = float(loss())
        again = float(loss())
    assert again == after
    # The average has taken in a hundredth of the update.
    assert abs(averaged - before) < 0.1 * abs(after - before)


def test_one_process_has_nothing_to_share_out(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run", compute=ComputeConfig(strategy="fsdp"), steps=4)
    trainer = Trainer(config, console=QUIET)
    assert trainer.run().step == 4
    assert all(type(value) is torch.nn.Parameter for value in trainer.policy.parameters())


def test_warm_starts_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights cannot be shared out\. Set compute\.strategy=ddp"):
        train_config(
            dataset,
            tmp_path / "run",
            compute=ComputeConfig(strategy="fsdp"),
            warm_start=WarmStartConfig(share=0.5, executed=3),
        )


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"compute\.strategy is 'fsdp2'"):
        ComputeConfig(strategy="fsdp2")  # type: ignore[arg-type]
