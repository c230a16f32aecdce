"""Training in two and three processes, which talk over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from rdvla.config import encode_config
from rdvla.errors import ConfigError
from rdvla.training import Trainer, train
from rdvla.training.checkpoints import CheckpointStore
from rdvla.training.compute import ComputeConfig
from rdvla.training.config import CheckpointConfig, TrainConfig
from rdvla.training.metrics import read_metrics
from tests.support.rank_host import BATCH, CASES, DEPTHS, case, gradients
from tests.support.tiny_training import train_config
from tests.support.tiny_vlms import save_tiny_vlm

QUIET = Console(quiet=True)
ROOT = Path(__file__).parents[2]
WAIT = 300  # seconds that any of these processes may take
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "RDVLA_DEBUG": "0"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("peft")
    return save_tiny_vlm(tmp_path_factory.mktemp("model"), "smolvlm")


def by_torchrun(what: str, count: int, dataset: Path, folder: Path, model: str) -> list[dict[str, Any]]:
    """Run `rank_host` in some processes; return what each saw."""
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    host = ["-m", "tests.support.rank_host", what, str(dataset), str(folder), model]
    done = subprocess.run(
        [sys.executable, *launcher, *host], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
        timeout=WAIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank-{number}.json").read_text()) for number in range(count)]


# --- what processes compute ---


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_together_give_the_gradients_of_one(
    dataset: Path, tmp_path: Path, model: str, count: int
) -> None:
    """Of head, projector, latents and LoRA; at a depth at which a parameter has none, all leave it out."""
    seen = by_torchrun("compare", count, dataset, tmp_path / "together", model)
    for name in CASES:
        config = case(name, dataset, tmp_path / "alone", model=model)
        expected = gradients(Trainer(replace(config, compute=ComputeConfig()), console=QUIET))
        found = load_file(tmp_path / "together" / f"{name}.safetensors")
        assert found.keys() == expected.keys()
        assert f"{DEPTHS[0]}/head.gamma_init" in found and f"{DEPTHS[1]}/head.gamma_init" not in found
        assert_equal_sums(found, expected)
        assert len({rank[name]["gradients"] for rank in seen}) == 1
        assert len({tuple(rank[name]["depths"]) for rank in seen}) == 1
        rows = [row for rank in seen for share in rank[name]["rows"] for row in share]
        assert sorted(rows) == list(range(BATCH))
    parts = ("head.core", "proprio_projector", "backbone.latents", ".lora_A", ".lora_B")
    assert all(any(part in name for name in found) for part in parts)


def assert_equal_sums(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same float32 terms, added in another order: at most ~1000 rounding errors of the largest value."""
    for depth in DEPTHS:
        names = [name for name in expected if name.startswith(f"{depth}/")]
        scale = max(float(expected[name].abs().max()) for name in names)
        for name in names:
            tolerance = 1000 * torch.finfo(torch.float32).eps * scale
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)


@pytest.mark.slow
def test_whatever_ends_one_process_ends_all_alike(dataset: Path, tmp_path: Path) -> None:
    """The last process gets SIGTERM, or meets a NaN, or other options; the first finds its disk full."""
    first, second = by_torchrun("ends", 2, dataset, tmp_path / "ends", "")
    assert first["SIGTERM"] == second["SIGTERM"] == "finished False at step 5"
    assert CheckpointStore(tmp_path / "ends/SIGTERM/checkpoints").steps() == [3, 5]
    assert first["not finite"] == second["not finite"]
    assert "NonFiniteLossError after step 7" in first["not finite"]
    assert "the action is not finite in frames" in first["not finite"]
    assert "RDVLAError after step 6: checkpoint: no space is left" in first["disk"]
    assert "process 0 of the run failed: checkpoint: no space is left" in second["disk"]
    assert CheckpointStore(tmp_path / "ends/disk/checkpoints").steps() == [3]
    assert first["options"] == second["options"]
    assert (
        "ConfigError: process 1 of the run has other options than process 0: seed is 1, there 0. "
        in (first["options"])
    )


# --- `rdvla train` ---


@pytest.mark.slow
def test_a_run_goes_on_in_other_numbers_of_processes(dataset: Path, tmp_path: Path) -> None:
    """Two, of which one is killed; then one, which is interrupted; then three, whose launcher is killed.

    Losses are those of one, and nothing is left of what was killed.
    """
    keep = CheckpointConfig(every=3, keep=100)
    config = train_config(dataset, tmp_path / "run", steps=40, log_every=1, checkpoints=keep)
    train(replace(config, output_dir=str(tmp_path / "alone")), console=QUIET)

    with Started(config, processes=2) as launcher:
        until(lambda: CheckpointStore(tmp_path / "run/checkpoints").steps(), launcher)
        ranks = {process.environ()["RANK"]: process for process in psutil.Process(launcher.pid).children()}
        ranks["1"].kill()
        _, said = launcher.communicate(timeout=WAIT)
    assert launcher.returncode == 2
    log = tmp_path / "run/logs/rank-1.log"
    assert f"process 1 of 2 was ended by SIGKILL; its output is in {log}" in said
    assert "policy          " in log.read_text()
    assert not any(process.is_running() for process in ranks.values())
    latest = CheckpointStore(tmp_path / "run/checkpoints").load_latest()
    assert latest is not None and str(tmp_path / "run/checkpoints") in said
    assert latest.step < 30, "the run was too far: make it longer"

    alone = Trainer(replace(config, resume=True), console=QUIET)
    stop_before(alone, latest.step + 3)
    alone.run()
    steps = CheckpointStore(tmp_path / "run/checkpoints").steps
    with Started(replace(config, resume=True), processes=3) as launcher:
        until(lambda: max(steps()) > latest.step + 3, launcher)
        orphans = psutil.Process(launcher.pid).children()
        launcher.kill()
    assert len(orphans) == 3
    _, stay = psutil.wait_procs(orphans, timeout=WAIT)
    assert not stay
    with Started(replace(config, resume=True), processes=3) as launcher:
        _, said = launcher.communicate(timeout=WAIT)
    assert launcher.returncode == 0, said
    assert {path.name for path in (tmp_path / "run/logs").iterdir()} == {"rank-1.log", "rank-2.log"}
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "alone")]
    for found, expected in zip(*lines, strict=True):
        assert (found["step"], found["kind"]) == (expected["step"], expected["kind"])
        assert found.get("depth") == expected.get("depth")
        name = "loss" if found["kind"] == "train" else "l1_depth_4"
        # Rounding errors of 1e-7 grow with every update, to about 1e-5 in these 40.
        assert found[name] == pytest.approx(expected[name], rel=1e-3)


class Started:
    """`rdvla train` in some processes, ended if a test leaves it."""

    def __init__(self, config: TrainConfig, *, processes: int) -> None:
        compute = replace(config.compute, processes=processes)
        file = Path(config.output_dir).parent / f"{processes}.yaml"
        file.write_text(yaml.safe_dump(encode_config(replace(config, compute=compute))))
        self.command = [sys.executable, "-m", "rdvla.cli", "train", "--config", str(file)]

    def __enter__(self) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            self.command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=WAIT)


def until(holds: Any, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + WAIT
    while not holds():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def stop_before(trainer: Trainer, step: int) -> None:
    draw = trainer.sampler.draw

    def interrupt(number: int) -> Any:
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(number)

    trainer.sampler.draw = interrupt  # type: ignore[method-assign]


def test_several_processes_are_not_trained_in_one(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run", compute=ComputeConfig(processes=2))
    with pytest.raises(ConfigError, match=r"compute.processes is 2, but this is one process"):
        Trainer(config, console=QUIET)


@pytest.mark.parametrize(
    ("variable", "value", "instead"),
    [
        ("ACCELERATE_USE_FSDP", "true", r"compute\.strategy=fsdp"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", r"compute\.strategy=fsdp"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", r"set compute\.accumulation_steps"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", r"set compute\.compile=true"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", r"set mixed_precision"),
    ],
)
def test_what_a_launcher_would_do_in_its_own_way_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, instead: str
) -> None:
    """Accelerate would divide gradients by its steps, for example, or leave its precision out in silence."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"{variable}={value.lower()} is set.*{instead}"):
        Trainer(train_config(dataset, tmp_path / "run"), console=QUIET)


def test_a_launcher_that_asks_for_what_the_run_does_is_welcome(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    Trainer(train_config(dataset, tmp_path / "run", mixed_precision="bf16"), console=QUIET)
