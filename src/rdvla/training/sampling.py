"""Which frames a run's batches and validations are made of, as `data.sampling` and `data.weights` say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data import EpisodeDataset
from rdvla.data.remote.mirror import GB, Streaming
from rdvla.errors import ConfigError
from rdvla.training.choices import (
    NO_FRAMES,
    FrameChoice,
    UniformChoice,
    WeightedChoice,
    WindowedChoice,
    WindowedMember,
)
from rdvla.training.config import DataConfig, TrainConfig

USUAL_WINDOW = 16  # shards of local data at least, or as many as hold the following samples
USUAL_WINDOW_SAMPLES = 20_000


def complete_data(data: DataConfig, dataset: EpisodeDataset) -> DataConfig:
    """Return the data's options with nothing about sampling left open.

    Raises:
        ConfigError: there are more or fewer weights than datasets.
    """
    members = len(dataset.mixture.members)
    if data.weights and len(data.weights) != members:
        raise ConfigError(
            f"data.weights has {len(data.weights)} numbers for {members} datasets; give one for each, in "
            "their order."
        )
    if data.sampling == "auto":
        data = replace(data, sampling="windowed" if dataset.is_streamed else "uniform")
    return replace(data, window=_window(data, dataset)) if data.sampling == "windowed" else data


def streaming_of(data: DataConfig) -> Streaming | None:
    """Return where streamed files are kept; None: the usual place, and hub ids are downloaded whole."""
    if data.cache_gb is None and not data.stream_dir:
        return None
    return Streaming.of(data.stream_dir, data.cache_gb)


def _window(data: DataConfig, dataset: EpisodeDataset) -> int:
    """Return how many shards are open at a time; of streamed data the next ones should fit next to them."""
    shards = dataset.shards
    count = len(shards.files)
    orders = max(1, sum(weight > 0 for weight in data.weights))  # each has at least one open, and a next one
    if not dataset.is_streamed:
        wanted = max(USUAL_WINDOW, -(-count * USUAL_WINDOW_SAMPLES // max(1, len(dataset))))
        return min(count, data.window or wanted)
    limit = Streaming.of(data.stream_dir, data.cache_gb).limit
    largest = max(shards.size(shard) for shard in range(count))
    fitting = limit // max(1, largest)
    if fitting < count:
        fitting -= min(orders, max(0, fitting - orders))  # room for the next ones
    wanted = min(max(data.window or 1, orders), count)
    if wanted > fitting:
        least = largest * min(wanted + orders, count) / GB
        raise ConfigError(
            f"data.cache_gb={limit / GB:g} holds {fitting} of the {count} shards of {dataset.name}, whose "
            f"largest has {largest / GB:.3f} GB, and {_needed(data, orders)} are needed at a time: "
            f"give data.cache_gb={least:.3f} or more{', or a smaller data.window' * (wanted > orders)}."
        )
    return min(count, data.window or fitting)


def _needed(data: DataConfig, orders: int) -> str:
    window = data.window or 1
    return f"data.window={window}" if window >= orders else f"{orders}, one for each dataset with a weight,"


def choose_frames(config: TrainConfig, dataset: EpisodeDataset, frames: Tensor) -> FrameChoice:
    """Return what chooses the frames of a run's updates.

    Args:
        config: with nothing left open.
        dataset: of the run.
        frames: (N,) frames of training, ascending.

    Raises:
        ConfigError: there are no frames, or a dataset with a weight has none.
    """
    data = config.data
    if len(frames) == 0:
        raise ConfigError(NO_FRAMES)
    weights = list(data.weights) or None
    parts = [frames] if weights is None else _parts(dataset, frames, weights)
    if weights is not None:
        weights = [weight / sum(weights) for weight in weights if weight > 0]
    if data.sampling == "windowed":
        window = max(1, data.window // len(parts))
        members = [WindowedMember(own.numpy(), _shards(dataset, own), window) for own in parts]
        return WindowedChoice(members, seed=config.seed, weights=weights)
    return UniformChoice(frames) if weights is None else WeightedChoice(parts, weights)


def within_window(data: DataConfig, dataset: EpisodeDataset, frames: Tensor) -> Tensor:
    """Return the held-out frames that are validated on: with windowed sampling those of a few shards.

    Args:
        data: its `window` is the largest number of shards.
        dataset: of the run.
        frames: (N,) held-out frames, ascending.
    """
    if data.sampling != "windowed" or len(frames) == 0:
        return frames
    shards = _shards(dataset, frames)
    held = np.unique(shards)
    chosen = held[np.linspace(0, len(held) - 1, min(len(held), data.window)).round().astype(np.int64)]
    return frames[torch.from_numpy(np.isin(shards, chosen))]


def describe_sampling(config: TrainConfig, dataset: EpisodeDataset) -> list[tuple[str, str]]:
    """Say how much each of several datasets gives to a batch, and how its frames are chosen."""
    data, members = config.data, dataset.mixture.members
    lines: list[tuple[str, str]] = []
    if len(members) > 1:
        counts = dict.fromkeys(range(len(members)), 0)
        counts |= {number: len(own) for number, own in dataset.mixture.split(dataset.sample_index)}
        weights = list(data.weights) or [float(counts[number]) for number in counts]
        drawn = config.steps * config.batch_size
        for number, member in enumerate(members):
            share = weights[number] / sum(weights)
            epochs = share * drawn / max(1, counts[number])
            lines.append(
                (
                    "",
                    f"{Path(member.root).name}: {len(member.reader.lengths):,} episodes, "
                    f"{counts[number]:,} samples; {share:.1%} of the batches, {epochs:,.2f} epochs",
                )
            )
    if dataset.is_streamed:
        files = {file for own in dataset.shards.files for file in own}
        limit = Streaming.of(data.stream_dir, data.cache_gb)
        lines.append(
            (
                "streamed",
                f"{sum(file.size for file in files) / GB:,.2f} GB in {len(files):,} files with images; at "
                f"most {limit.limit / GB:g} GB of them are kept, in {limit.folder}",
            )
        )
    if data.sampling == "windowed":
        lines.append(
            (
                "sampling",
                f"every frame once per epoch, out of {data.window} of {len(dataset.shards.files)} video "
                "files at a time",
            )
        )
    return lines


def _parts(dataset: EpisodeDataset, frames: Tensor, weights: list[float]) -> list[Tensor]:
    """Return the frames of each dataset with a weight above 0."""
    own = {number: frames[torch.from_numpy(index)] for number, index in dataset.mixture.split(frames.numpy())}
    wanted = [number for number, weight in enumerate(weights) if weight > 0]
    for number in wanted:
        if number not in own:
            raise ConfigError(
                f"data.weights gives {weights[number]} to {dataset.mixture.members[number].root}, which has "
                "no training frames; give it 0, or lower data.validation_fraction."
            )
    return [own[number] for number in wanted]


def _shards(dataset: EpisodeDataset, frames: Tensor) -> NDArray[np.int64]:
    return dataset.shards.of_episode[dataset.episode_of(frames.numpy())]
