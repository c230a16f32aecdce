"""A cache is filled ahead, by several processes, with the bits that training itself would compute."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rdvla.cli import main
from rdvla.config import save_config
from rdvla.data import feature_plan
from rdvla.errors import ConfigError, RDVLAError
from rdvla.training import TrainConfig, Trainer
from rdvla.training.features import CacheOptions, frozen_features
from rdvla.training.filling import Crew, ShardJob, ShardRunner, fill_cache, open_frozen
from rdvla.workers import Link, LocalProcesses, parse_workers
from tests.support.tiny_training import train_config, write_dataset

QUIET = Console(quiet=True)


def recording() -> Console:
    return Console(record=True, force_terminal=False, width=300, file=io.StringIO())


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_plan, "SHARD_FRAMES", 12)


def frozen_config(dataset: Path, output: Path, **changes: object) -> TrainConfig:
    config = train_config(dataset, output, freeze_backbone=True)
    return replace(config, data=replace(config.data, image_shift=0, cache_batch_size=5, **changes))


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("**/shard-*")}


@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_processes_fill_a_cache_with_the_same_bits_and_training_finds_it(
    dataset: Path, tmp_path: Path, frozen: bool
) -> None:
    def config(name: str) -> TrainConfig:
        return (frozen_config if frozen else train_config)(dataset, tmp_path / name)

    Trainer(config("alone"), console=QUIET)
    expected = shards(tmp_path / "alone/cache")
    said = fill_cache(config("run"), parse_workers(2), console=QUIET)
    assert shards(tmp_path / "run/cache") == expected and len(expected) == 4
    assert str(tmp_path / "run/cache") in said and "48 frames" in said
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/cache/*/*")}
    Trainer(config("run"), console=QUIET)  # the folder holds nothing but its cache, so a run may begin there
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/cache/*/*")} == before


class DyingOnce(LocalProcesses):
    """Kills the first worker that has begun to work."""

    def __init__(self) -> None:
        self.killed = 0

    def wait(self, links: Sequence[Link], timeout: float | None = None) -> list[Link]:
        ready = super().wait(links, timeout)
        if ready and not self.killed:
            self.killed += 1
            ready[0].process.kill()  # type: ignore[attr-defined]
            ready[0].process.join(60)  # type: ignore[attr-defined]
        return ready


@pytest.mark.slow
def test_a_shard_whose_worker_died_is_computed_again(dataset: Path, tmp_path: Path) -> None:
    config = frozen_config(dataset, tmp_path / "run")
    Trainer(frozen_config(dataset, tmp_path / "alone"), console=QUIET)
    transport, folder = DyingOnce(), tmp_path / "run/cache"
    policy, opened = open_frozen(config)
    crew = Crew(ShardRunner(config, folder), transport, 1)
    frozen_features(
        policy, opened, CacheOptions(folder, batch_size=5, memory_limit=0, console=QUIET, fill=crew.fill)
    )
    assert transport.killed == 1
    assert shards(folder) == shards(tmp_path / "alone/cache")


def test_a_worker_refuses_another_dataset(dataset: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", episodes=5)
    runner = ShardRunner(frozen_config(other, tmp_path / "run"), tmp_path / "cache")
    job = ShardJob("features", f"{'0' * 16}-{'0' * 16}/shard-00000.safetensors", np.arange(4))
    with pytest.raises(ConfigError, match="another dataset or policy than this worker opened"):
        runner.run(job, lambda _: None)
    assert not (tmp_path / "cache").exists()


def test_what_a_worker_cannot_read_ends_the_command_with_its_sentence(dataset: Path, tmp_path: Path) -> None:
    root = shutil.copytree(dataset, tmp_path / "d")
    checksums = json.loads((root / "meta/checksums.json").read_text())
    video = next((root / "videos").rglob("*.mp4"))
    content = bytearray(video.read_bytes())
    content[len(content) * 3 // 4] ^= 255
    (root / "meta/checksums.json").write_text(json.dumps(checksums))
    config = frozen_config(root, tmp_path / "run")
    crew = Crew(ShardRunner(config, tmp_path / "cache"), LocalProcesses(), 1)
    policy, opened = open_frozen(config)
    options = CacheOptions(tmp_path / "cache", 5, memory_limit=0, console=QUIET, fill=crew.fill)
    opened.images(opened.sample_index[:1])  # this process has checked the file already
    video.write_bytes(content)
    with pytest.raises(RDVLAError, match=f"{video.name}"):
        frozen_features(policy, opened, options)


def test_the_verb_fills_the_cache_of_a_configuration(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(tmp_path / "train.yaml", frozen_config(dataset, tmp_path / "run"))
    arguments = ["data", "features", "--config", str(tmp_path / "train.yaml")]
    assert main([*arguments, "--workers", "1", "--data.cache_dir", str(tmp_path / "shared")]) == 0
    assert "48 frames" in capsys.readouterr().out
    assert len(shards(tmp_path / "shared")) == 4 and not (tmp_path / "run").exists()
    assert main([*arguments, "--workers", "none"]) == 2
    assert "workers must be a number" in capsys.readouterr().err
