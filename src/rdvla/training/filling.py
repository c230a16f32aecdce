"""Fill the cache of a run's frozen inputs ahead of it, by several processes or machines.

A worker opens dataset and policy as the run itself will. It refuses if these are not what the cache is for:
the name of a cache's folder is a hash of all that decides its content. Files that it writes on another
machine come back with the job's result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from rdvla.data import EpisodeDataset
from rdvla.data.feature_cache import Encoder
from rdvla.data.feature_plan import CachePlan, Shard
from rdvla.data.image_cache import image_encoder, image_plan
from rdvla.data.missing_shards import MissingShards
from rdvla.errors import ConfigError, DatasetError, RDVLAError
from rdvla.policy import RDVLAPolicy
from rdvla.training.config import TrainConfig
from rdvla.training.features import CacheOptions, FrozenInputs, computed_by, frozen_features
from rdvla.training.inference import named
from rdvla.training.run_directory import cache_folder
from rdvla.training.setup import build_policy, load_source, make_accelerator, open_dataset
from rdvla.training.streamed_features import IMAGES
from rdvla.workers import Failed, Question, WorkerChoice, run_jobs
from rdvla.workers.ends import WORKER_DIED
from rdvla.workers.transport import Ask, Transport

RETRIES = 2  # of a shard whose worker died
SENTENCES = (RDVLAError, ConfigError, DatasetError)  # exceptions whose messages are for users


@dataclass(frozen=True)
class ShardJob:
    """A shard to compute."""

    kind: str  # IMAGES or FEATURES
    name: str  # folder and file, below the folder of all caches
    frames: NDArray[np.int64]  # (N,)

    def describe(self) -> str:
        """See `rdvla.workers.pool.Job`."""
        return f"computing {self.name}"


class ShardRunner:
    """Computes shards in a worker.

    Attributes:
        root: the folder of all caches.
    """

    def __init__(self, config: TrainConfig, root: Path) -> None:
        """Open nothing yet.

        Args:
            config: of the run that the cache is for.
            root: the folder of all caches.
        """
        self.root = root
        self._config = _with_whole_paths(config)

    def run(self, job: ShardJob, ask: Ask) -> None:
        """Compute and write a shard; tell how many of its frames are done, as questions without an answer.

        Raises:
            ConfigError: dataset or policy are not those that the cache is for.
        """
        encoder, plan = self._images if job.kind == IMAGES else self._features
        if plan.folder_of(job.name) is None:
            raise ConfigError(
                f"{job.name} is for another dataset or policy than this worker opened: both must be the same "
                "on every machine, and weights that are drawn at random, and frozen, on one kind of processor"
            )
        encoder.write(Shard(self.root / job.name, job.frames), plan, ask)

    def relocated(self, root: Path) -> Self:
        """Return a runner that writes below another folder."""
        return type(self)(self._config, root)

    def close(self) -> None:
        """Keep all: nothing that is open can be in a broken state."""

    @cached_property
    def _images(self) -> tuple[Encoder, CachePlan]:
        dataset, _ = open_dataset(self._config, load_source(self._config))
        return image_encoder(dataset), image_plan(dataset, directory=self.root)

    @cached_property
    def _features(self) -> tuple[Encoder, CachePlan]:
        policy, dataset = open_frozen(self._config)
        size = self._config.data.cache_batch_size
        inputs = FrozenInputs.of(policy.eval(), dataset)
        encoder = Encoder(
            dataset, dataset.images, inputs.encode, size, torch.float16, computed_by(policy, batch_size=size)
        )
        return encoder, CachePlan.of(
            dataset, dataset.sample_index, key=policy.cache_key(), directory=self.root
        )


@dataclass(frozen=True)
class Crew:
    """Workers that fill the caches of a run."""

    runner: ShardRunner
    transport: Transport
    workers: int

    def fill(self, kind: str, missing: MissingShards) -> None:
        """Compute shards until none is missing.

        Raises:
            RDVLAError: a shard cannot be computed, or workers keep dying.
        """
        while (first := missing.take()) is not None:
            self._fill(kind, missing, first)

    def _fill(self, kind: str, missing: MissingShards, first: Shard) -> None:
        waiting, given = [first], dict[str, Shard]()

        def next_job(_last: ShardJob | None) -> ShardJob | None:
            shard = waiting.pop() if waiting else missing.claim()
            if shard is None:
                return None
            given[shard.name] = shard
            return ShardJob(kind, shard.name, shard.frames)

        def count(told: Sequence[Question[ShardJob]]) -> Sequence[None]:
            for question in told:
                missing.advance(given[question.job.name], question.content)
            return [None] * len(told)

        for end in run_jobs(
            self.runner,
            next_job,
            transport=self.transport,
            workers=max(1, min(self.workers, len(missing))),
            answer=count,
            retries=RETRIES,
        ):
            if isinstance(end, Failed):
                raise _error(end)
            missing.finish(given[end.job.name])


def open_frozen(config: TrainConfig) -> tuple[RDVLAPolicy, EpisodeDataset]:
    """Open the dataset of a run, and its policy as it is before the first update.

    Raises:
        ConfigError: as `open_dataset` and `build_policy`.
        DatasetError: the dataset is missing or damaged.
    """
    torch.set_num_threads(config.threads)
    device = make_accelerator(config).device
    source = load_source(config)
    dataset, config = open_dataset(config, source)
    policy = build_policy(config, dataset.statistics, source)
    policy.to(device)
    policy.backbone.check_instructions(dataset.tasks)
    return policy, dataset


def fill_cache(config: TrainConfig, choice: WorkerChoice, *, console: Console) -> str:
    """Compute what is missing of the frozen inputs that a run of this configuration will ask for.

    Returns:
        What is cached, for the user.

    Args:
        config: of the run.
        choice: the workers.
        console: for progress and notes.

    Raises:
        RDVLAError: workers keep dying, or as `open_frozen`.
    """
    config = named(config)
    folder = cache_folder(config)
    policy, dataset = open_frozen(config)
    with choice.transport() as (transport, workers):
        features = frozen_features(
            policy,
            dataset,
            CacheOptions(
                folder=folder,
                batch_size=config.data.cache_batch_size,
                memory_limit=0,
                console=console,
                fill=Crew(ShardRunner(config, folder), transport, workers).fill,
            ),
        )
    return f"{folder}: {len(dataset):,} frames, {features.nbytes / 1e9:.2f} GB"


def _with_whole_paths(config: TrainConfig) -> TrainConfig:
    """Let paths lead to the same places from whatever folder a worker starts in."""
    backbone, stream = config.policy.backbone, config.data.stream_dir
    named = {name: _whole(getattr(backbone, name)) for name in backbone.naming_fields}
    return replace(
        config,
        dataset=",".join(_whole(path.strip()) or "" for path in config.dataset.split(",")),
        init_from=_whole(config.init_from) or "",
        policy=replace(config.policy, backbone=replace(backbone, **named)),
        data=replace(config.data, stream_dir=stream and str(Path(stream).absolute())),
    )


def _whole(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path and Path(path).exists() else path


def _error(end: Failed[ShardJob]) -> RDVLAError:
    if end.type in (WORKER_DIED, *(kind.__name__ for kind in SENTENCES)):
        return RDVLAError(f"{end.message}. What is finished is kept: the same command goes on")
    return RDVLAError(f"a worker failed while {end.job.describe()}: {end.type}: {end.message}")
