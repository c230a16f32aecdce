"""Which frames updates are made of: uniform, weighted by dataset, or within a window of video files."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rdvla.config import load_config
from rdvla.errors import ConfigError
from rdvla.heads import ConstantDepth
from rdvla.training import TrainConfig, Trainer, train
from rdvla.training.batches import Draw, Sampler
from rdvla.training.choices import FrameChoice, WeightedChoice, WindowedChoice, WindowedMember
from rdvla.training.config import DataConfig
from tests.support.tiny_training import train_config, write_dataset

QUIET = Console(quiet=True)
FAR = 6  # standard deviations: by chance once in 5e8


def sampler(choice: FrameChoice, *, batch_size: int = 50, seed: int = 3) -> Sampler:
    return Sampler(choice, batch_size=batch_size, seed=seed, depth=ConstantDepth(1))


def frames_of(chosen: Sampler, steps: range) -> np.ndarray:
    return torch.cat([chosen.draw(step).frames for step in steps]).numpy()


def windowed(sizes: list[int], window: int, start: int = 0) -> WindowedMember:
    shards = np.repeat(np.arange(len(sizes)) * 7, sizes)  # numbers with gaps, as where files are held out
    return WindowedMember(np.arange(start, start + len(shards)), shards, window)


def test_weights_are_the_probabilities_of_the_datasets_and_each_is_drawn_uniformly() -> None:
    members = [torch.arange(100), torch.arange(100, 1000), torch.arange(1000, 1007)]
    weights = [0.7, 0.1, 0.2]
    drawn = frames_of(sampler(WeightedChoice(members, weights)), range(400))
    total = len(drawn)
    for own, weight in zip(members, weights, strict=True):
        count = np.isin(drawn, own.numpy()).sum()
        assert abs(count - total * weight) < FAR * math.sqrt(total * weight * (1 - weight))
    counts = np.bincount(drawn, minlength=1007)[1000:]
    share = 0.2 / 7
    assert np.abs(counts - total * share).max() < FAR * math.sqrt(total * share * (1 - share))


def test_windowed_batches_hold_every_frame_once_per_epoch_wherever_they_are_cut() -> None:
    sizes = [30, 50, 20, 41, 9]
    chosen = sampler(WindowedChoice([windowed(sizes, 2)], seed=3), batch_size=25)
    assert sorted(frames_of(chosen, range(6)).tolist()) == list(range(150))
    assert sorted(frames_of(chosen, range(6, 12)).tolist()) == list(range(150))
    fresh = sampler(WindowedChoice([windowed(sizes, 2)], seed=3), batch_size=25)
    np.testing.assert_array_equal(frames_of(fresh, range(7, 9)), frames_of(chosen, range(7, 9)))


def test_windowed_and_weighted_datasets_have_epochs_of_their_own() -> None:
    members = [windowed([30, 20], 1), windowed([400] * 20, 3, start=50)]
    weights = [0.25, 0.75]
    chosen = sampler(WindowedChoice(members, seed=1, weights=weights), batch_size=128)
    drawn = frames_of(chosen, range(1100))  # beyond the samples whose dataset is drawn at once
    own = drawn < 50
    assert abs(own.sum() - len(drawn) * 0.25) < FAR * math.sqrt(len(drawn) * 0.25 * 0.75)
    small, large = drawn[own], drawn[~own]
    for epoch in range(len(small) // 50):
        assert sorted(small[epoch * 50 :][:50].tolist()) == list(range(50))
    assert sorted(large[:8000].tolist()) == list(range(50, 8050))
    late = sampler(WindowedChoice(members, seed=1, weights=weights), batch_size=128)
    np.testing.assert_array_equal(frames_of(late, range(1050, 1060)), drawn[1050 * 128 : 1060 * 128])


def test_the_open_files_are_told_by_their_own_numbers() -> None:
    choice = WindowedChoice([windowed([10] * 6, 2)], seed=0)
    chosen = sampler(choice, batch_size=5)
    for step in range(12):
        is_open = {shard for at in range(step * 5, step * 5 + 5) for shard in choice.open_shards(at)}
        assert {int(frame) // 10 * 7 for frame in chosen.draw(step).frames} <= is_open
        assert not set(choice.next_shards(step * 5)) & set(choice.open_shards(step * 5)) or step >= 8


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("[0.5, 0.3, 0.2]", "3 numbers for 2 datasets"),
        ("[1]", "1 numbers for 2 datasets"),
        ("[0.5, -0.1]", "every weight must be 0 or larger"),
        ("[.nan, 1]", "must be"),
        ("[0, 0]", "at least one weight"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(pair: str, tmp_path: Path, weights: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config = load_config(
            TrainConfig,
            [f"--dataset={pair}", f"--output_dir={tmp_path / 'run'}", f"--data.weights={weights}"],
        )
        train(replace(train_config(Path(), tmp_path / "run"), dataset=pair, data=config.data), console=QUIET)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="module")
def pair(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    other = write_dataset(tmp_path_factory.mktemp("second") / "more", episodes=4, length=15)
    return f"{dataset},{other}"


def data_of(**changes: Any) -> DataConfig:
    return replace(DataConfig(validation_fraction=0.34, image_shift=2), **changes)


@pytest.mark.parametrize(
    "data",
    [data_of(sampling="windowed", window=2), data_of(weights=(1, 3), sampling="windowed", window=2)],
    ids=["windowed", "windowed and weighted"],
)
def test_a_run_that_stopped_within_an_epoch_goes_on_bit_by_bit(
    pair: str, tmp_path: Path, data: DataConfig
) -> None:
    whole = replace(train_config(Path(), tmp_path / "whole"), dataset=pair, data=data)
    seen: list[Draw] = []

    class Watching(Trainer):
        def update(self, draw: Draw) -> Any:
            seen.append(draw)
            return super().update(draw)

    class Stopping(Watching):
        def update(self, draw: Draw) -> Any:
            if draw.step == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().update(draw)

    Watching(whole, console=QUIET).run()
    uninterrupted, seen[:] = [draw.frames.tolist() for draw in seen], []
    stopped = replace(whole, output_dir=str(tmp_path / "stopped"))
    assert not Stopping(stopped, console=QUIET).run().finished
    Watching(replace(stopped, resume=True), console=QUIET).run()
    assert [draw.frames.tolist() for draw in seen] == uninterrupted
    one, other = (load_file(Path(c.output_dir) / "policy/model.safetensors") for c in (whole, stopped))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_and_sampling_are_told_and_may_not_change_when_a_run_goes_on(
    pair: str, tmp_path: Path
) -> None:
    config = replace(
        train_config(Path(), tmp_path / "run", steps=6), dataset=pair, data=data_of(weights=(1, 3))
    )
    with (tmp_path / "told").open("w") as file:
        train(config, console=Console(file=file, width=400))
    told = (tmp_path / "told").read_text()
    # Of 6 x 8 samples 12 come from the 48 of the first dataset, 36 from the 20 of the second.
    assert "squares: 6 episodes, 48 samples; 25.0% of the batches, 0.25 epochs" in told
    assert "more: 4 episodes, 20 samples; 75.0% of the batches, 1.80 epochs" in told
    assert (tmp_path / "run" / "config.yaml").read_text().count("windowed") == 0
    for change in ({"weights": (1.0, 2.0)}, {"weights": ()}, {"sampling": "windowed"}):
        changed = replace(config, data=replace(config.data, **change), resume=True, steps=8)
        with pytest.raises(ConfigError, match="cannot be resumed with another configuration: data"):
            train(changed, console=QUIET)
    assert train(replace(config, resume=True, steps=7), console=QUIET).finished
