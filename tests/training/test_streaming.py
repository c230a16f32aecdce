"""Training on datasets whose videos do not lie here: the same numbers, within a bound, whatever happens."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rdvla.data import EpisodeDataset
from rdvla.data.remote import source
from rdvla.data.remote.mirror import GB, Streaming
from rdvla.errors import ConfigError, RDVLAError
from rdvla.training import TrainConfig, Trainer, prefetch, train
from rdvla.training.batches import Draw
from rdvla.training.checkpoints import CheckpointStore
from rdvla.training.choices import WindowedChoice, WindowedMember
from rdvla.training.config import DataConfig
from rdvla.training.prefetch import prefetching
from tests.support.far_datasets import (
    FILES,
    Fetched,
    fetched,
    in_memory,
    video_sizes,
    watched,
    write_sharded,
)
from tests.support.loopback_hub import serve_hub
from tests.support.tiny_training import train_config

__all__ = ["fetched"]
QUIET = Console(quiet=True)
WINDOW = 2


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sharded(tmp_path_factory.mktemp("far") / "demos")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FIRST_WAIT", 0.0)


def bound(root: Path, shards: float) -> float:
    return shards * max(video_sizes(root).values()) / GB


def data_of(folder: Path, **changes: Any) -> DataConfig:
    usual = DataConfig(
        validation_fraction=0.34, image_shift=2, sampling="windowed", window=WINDOW, stream_dir=str(folder)
    )
    return replace(usual, **changes)


def config_of(dataset: str, folder: Path, **changes: Any) -> TrainConfig:
    """12 updates of 8 samples: of 12 episodes with 8 images each, 4 are held out, so 1 1/2 epochs."""
    return replace(train_config(Path(), folder), dataset=dataset, **changes)


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "policy/model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def local_run(sharded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "local"
    data = data_of(Path(), stream_dir="")
    assert train(config_of(str(sharded), run, data=data), console=QUIET).finished
    return run


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_streamed_run_equals_a_local_one_bit_by_bit_and_keeps_its_bound(
    sharded: Path, local_run: Path, tmp_path: Path, fetched: Fetched, protocol: str
) -> None:
    address = in_memory(sharded) if protocol == "memory" else f"file://{sharded}"
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 3.2))
    config = config_of(address, tmp_path / "run", data=data)
    with watched(tmp_path / "far" / "files") as held:
        assert train(config, console=QUIET).finished
    assert same_weights(tmp_path / "run", local_run)
    assert max(held) <= data.cache_gb * GB
    # Images of validation are decoded once, out of WINDOW files; an epoch opens every file of training once.
    assert len(fetched.videos()) <= 1 + WINDOW + 2 * FILES + WINDOW
    assert not list((tmp_path / "run" / "cache").glob("images-*/shard-00001*")), "no cache of all images"


def test_without_options_a_streamed_dataset_is_sampled_in_windows_that_fit(
    sharded: Path, tmp_path: Path
) -> None:
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 4.2), sampling="auto", window=0)
    config = config_of(in_memory(sharded), tmp_path / "run", data=data)
    with (tmp_path / "told").open("w") as file:
        trainer = Trainer(config, console=Console(file=file, width=400))
    assert trainer.config.data.sampling == "windowed" and trainer.config.data.window == 3
    told = (tmp_path / "told").read_text()
    assert f"out of 3 of {FILES} video files at a time" in told
    assert f"in {FILES} files with images; at most" in told
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert "sampling: windowed" in written and "window: 3" in written


def test_a_bound_that_is_too_small_says_how_much_it_takes(sharded: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 2.5))
    with pytest.raises(ConfigError, match=r"data\.window=2 are needed at a time: give data\.cache_gb"):
        Trainer(config_of(in_memory(sharded), tmp_path / "run", data=data), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_mixture_keeps_the_open_files_of_every_dataset_while_it_fetches_ahead(
    sharded: Path, tmp_path: Path, fetched: Fetched
) -> None:
    """One file of each is open and one of each follows: nearly two epochs of each dataset's four files."""
    data = data_of(
        tmp_path / "far", cache_gb=bound(sharded, 4.2), weights=(0.5, 0.5), validation_fraction=0.0
    )
    trainer = Trainer(
        config_of(f"{in_memory(sharded)},{in_memory(sharded)}", tmp_path / "run", data=data, steps=22),
        console=QUIET,
    )
    before = len(fetched.videos())
    assert trainer.run().finished
    # Each once, but for those that were there already or that an epoch's end brings back.
    assert len(fetched.videos()) - before <= 2 * FILES + 4


def test_a_mixture_needs_room_for_a_file_of_each_dataset(sharded: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 1.5), window=1, weights=(0.5, 0.5))
    config = config_of(f"{in_memory(sharded)},{in_memory(sharded)}", tmp_path / "run", data=data)
    with pytest.raises(ConfigError, match=r"and 2, one for each dataset with a weight, are needed"):
        Trainer(config, console=QUIET)


def test_a_run_does_not_wait_for_a_file_that_is_fetched_ahead(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks a run to end may not wait for gigabytes."""
    monkeypatch.setattr(prefetch, "LAST_WAIT", 0.1)
    dataset = EpisodeDataset(in_memory(sharded), chunk_size=4, streaming=Streaming(tmp_path, 10**9))
    frames = dataset.sample_index
    shards = dataset.shards.of_episode[dataset.episode_of(frames)]
    choice = WindowedChoice([WindowedMember(frames, shards, WINDOW)], seed=0)
    begun, go_on = threading.Event(), threading.Event()

    def blocked(_self: Any, _path: str, to: str, **_options: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        raise FileNotFoundError(to)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", blocked)
    try:
        with prefetching(dataset, choice, batch_size=8) as ahead:
            ahead.before(0)
            assert begun.wait(60)
        assert not go_on.is_set(), "the body was left while a file was on its way"
    finally:
        go_on.set()


class Stopping(Trainer):
    def update(self, draw: Draw) -> Any:
        if draw.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().update(draw)


def test_a_streamed_run_that_stopped_within_an_epoch_goes_on_bit_by_bit_with_another_bound(
    sharded: Path, local_run: Path, tmp_path: Path
) -> None:
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 3.2))
    config = config_of(in_memory(sharded), tmp_path / "run", data=data)
    assert not Stopping(config, console=QUIET).run().finished
    elsewhere = replace(data, stream_dir=str(tmp_path / "other"), cache_gb=bound(sharded, 6.1))
    assert train(replace(config, data=elsewhere, resume=True), console=QUIET).finished
    assert same_weights(tmp_path / "run", local_run)


def test_a_network_that_fails_ends_a_run_with_a_checkpoint_to_go_on_from(
    sharded: Path, local_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 3.2))
    config = config_of(in_memory(sharded), tmp_path / "run", data=data)
    system = type(fsspec.filesystem("memory"))

    class Breaking(Trainer):
        def update(self, draw: Draw) -> Any:
            if draw.step == 4:
                monkeypatch.setattr(system, "get_file", self.fails)
            return super().update(draw)

        @staticmethod
        def fails(*_: Any, **__: Any) -> None:
            raise ConnectionResetError("the peer hung up")

    with pytest.raises(RDVLAError, match=r"tries failed.*check the network.*stopped after step (\d+); a ch"):
        Breaking(config, console=QUIET).run()
    monkeypatch.undo()
    assert max(CheckpointStore(tmp_path / "run" / "checkpoints").steps()) >= 4
    assert train(replace(config, resume=True), console=QUIET).finished
    assert same_weights(tmp_path / "run", local_run)


def test_features_of_a_frozen_backbone_are_computed_file_by_file(
    sharded: Path, tmp_path: Path, fetched: Fetched
) -> None:
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 1.5), window=1, image_shift=0)
    config = config_of(in_memory(sharded), tmp_path / "run", data=data, freeze_backbone=True)
    with watched(tmp_path / "far" / "files") as held:
        trainer = Trainer(config, console=QUIET)
    assert fetched.videos() == list(video_sizes(sharded)), "each file once, in its order"
    assert max(held) <= bound(sharded, 1.5) * GB
    here = Trainer(
        config_of(str(sharded), tmp_path / "local", data=replace(data, stream_dir=""), freeze_backbone=True),
        console=QUIET,
    )
    frames = trainer.dataset.sample_index[::3]
    one, other = (t.source.batch(torch.from_numpy(frames)).features for t in (trainer, here))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_dataset_on_the_hub_is_streamed_if_a_bound_is_given(
    sharded: Path, local_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_hub(tmp_path, monkeypatch) as hub:
        folder = hub.folder("somebody/demos", "datasets")
        folder.parent.mkdir(parents=True)
        folder.symlink_to(sharded)
        data = data_of(tmp_path / "far", cache_gb=bound(sharded, 3.2))
        config = config_of("somebody/demos", tmp_path / "run", data=data)
        assert train(config, console=QUIET).finished
        assert same_weights(tmp_path / "run", local_run)
        record = (tmp_path / "run" / "run.json").read_text() + (tmp_path / "run/config.yaml").read_text()
        assert "hf_" not in record
    there = list((tmp_path / "cache").rglob("*.mp4"))
    assert not there, "nothing is downloaded whole into the hub's own cache"


def test_validation_takes_the_files_of_one_window(sharded: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path / "far", cache_gb=bound(sharded, 3.2))
    trainer = Trainer(config_of(in_memory(sharded), tmp_path / "run", data=data), console=QUIET)
    frames = trainer.validation_frames.numpy()
    shards = trainer.dataset.shards.of_episode[trainer.dataset.episode_of(frames)]
    assert 1 <= len(np.unique(shards)) <= WINDOW
