"""Frozen features of dataset frames, computed once and kept on disk.

A frozen image encoder would otherwise repeat the same work in every epoch. Features are kept only for frames
with a new image. A frame with a held image gets the features of the frame that its image was captured at. If
datasets are read together, each has a folder of its own, which every selection of them shares. Processes that
fill a cache at the same time share the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.dataset import EpisodeDataset
from rdvla.data.feature_plan import CachePlan, Shard
from rdvla.data.frames import Frames
from rdvla.data.missing_shards import MissingShards, Progress, remove_if_damaged, remove_locks
from rdvla.data.shards import MappedShard, map_shard, write_shard
from rdvla.errors import ConfigError, DatasetError
from rdvla.leftovers import remove_dead

Images = Callable[[NDArray[np.int64]], dict[str, Tensor]]  # (B,) frames -> {camera: (B, H, W, 3) uint8}
Encode = Callable[[dict[str, Tensor], list[str]], dict[str, Tensor]]  # images, instructions -> features
Say = Callable[[str], None]  # takes a sentence for the user
Fill = Callable[[MissingShards], None]  # computes and writes shards until none is missing


@dataclass(frozen=True)
class Filling:
    """How the missing shards of a cache are computed, and who hears of it."""

    fill: Fill | None = None  # in another way than here, such as by several processes
    frame_bytes: int = 0  # of one frame's features, so shards of large ones hold fewer frames; 0: unknown
    computed_by: Mapping[str, Any] = field(default_factory=dict)  # decides the last bits; shards record it
    progress: Progress | None = None  # called with (frames done, frames in all) after each batch
    say: Say = lambda _sentence: None  # takes sentences about damaged files, which are computed anew


class FeatureCache:
    """Frozen features of dataset frames. Make one with `open_or_build`.

    Attributes:
        computed_by: what the shards say of the arithmetic that computed them, each different one once.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        frames: NDArray[np.int64],
        shards: Sequence[dict[str, Tensor]],
        *,
        computed_by: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Take shards that hold, in this order, the features of (N,) ascending frames with a new image."""
        sizes = [len(next(iter(shard.values()))) for shard in shards]
        self.computed_by = list(computed_by)
        self._dataset = dataset
        self._frames = frames
        self._shards = list(shards)
        self._shard_of = np.repeat(np.arange(len(shards)), sizes)  # (N,)
        self._index_of = np.concatenate([np.arange(size) for size in sizes])  # (N,) in its shard

    @classmethod
    def open_or_build(
        cls,
        dataset: EpisodeDataset,
        frames: Frames,
        encode: Encode,
        *,
        key: str,
        directory: Path | str,
        images: Images | None = None,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float16,
        filling: Filling | None = None,
        in_memory: bool = False,
    ) -> FeatureCache:
        """Open the cache of these frames, after computing what is missing or damaged.

        The cache lies in folders `directory/<key>-<hash>/`, one per dataset. The hash covers the dataset's
        content, the cameras and the frames. Shards of up to 512 frames are written whole, so an interrupted
        build continues with the next shard.

        Args:
            dataset: gives images and instructions.
            frames: all frames that `get` will be asked for (training and validation together).
            encode: ({camera: (n, H, W, 3) uint8}, n instructions) -> {name: (n, ...)}; called without
                gradient.
            key: names the encoder; it must change if the encoder's output would (`policy.cache_key()`).
            directory: parent folder of all caches.
            images: gives the images of frames; None: `dataset.images`.
            batch_size: frames per call of `encode`.
            dtype: dtype that floating-point features are stored in, float16 or float32.
            filling: how missing shards are computed; None: here, in silence.
            in_memory: read all features into memory instead of mapping the files.

        Raises:
            DatasetError: an image is damaged, or the dataset changed meanwhile; it is named.
            ConfigError: the encoder's output has the wrong first dimension, or does not fit `dtype`.
        """
        how = filling or Filling()
        plan = CachePlan.of(
            dataset, frames, key=key, directory=Path(directory), dtype=dtype, frame_bytes=how.frame_bytes
        )
        found = _open_intact(plan, how.say)
        missing = [shard for shard in plan.shards if shard.path not in found]
        encoder = Encoder(dataset, images or dataset.images, encode, batch_size, dtype, how.computed_by)
        with MissingShards(missing, total=len(plan.frames), progress=how.progress) as work:
            (how.fill or partial(encoder.fill, plan))(work)
        _tidy(plan)
        shards = [found.get(shard.path) or _open(shard) for shard in plan.shards]
        _check_alike(plan, shards)
        held = [shard.tensors for shard in shards]
        if in_memory:
            held = [{name: torch.cat([shard[name] for shard in held]) for name in held[0]}]
        different = {json.dumps(shard.computed_by, sort_keys=True): shard.computed_by for shard in shards}
        return cls(dataset, plan.frames, held, computed_by=list(different.values()))

    @staticmethod
    def exists(
        dataset: EpisodeDataset,
        frames: Frames,
        *,
        key: str,
        directory: Path | str,
        dtype: torch.dtype = torch.float16,
    ) -> bool:
        """Return whether `open_or_build` would find every file (without reading them)."""
        return CachePlan.of(dataset, frames, key=key, directory=Path(directory), dtype=dtype).is_complete

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Feature name -> shape of one frame's feature."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self._shards[0].items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all features, as they are stored."""
        return sum(tensor.nbytes for shard in self._shards for tensor in shard.values())

    def get(self, frames: Frames, *, dtype: torch.dtype | None = torch.float32) -> dict[str, Tensor]:
        """Return features of (B,) frames, name -> (B, ...).

        Args:
            frames: of the dataset; a frame with a held image gives the features of that image.
            dtype: dtype that floating-point features are converted to; None: keep the stored one.

        Raises:
            ConfigError: the cache was not built for one of the frames.
        """
        captured = self._dataset.captured_at(frames)
        index = np.searchsorted(self._frames, captured)
        found = self._frames[np.minimum(index, len(self._frames) - 1)] == captured
        if not found.all():
            raise ConfigError(
                f"frame {int(captured[~found][0])} is not in the feature cache: build it with that frame"
            )
        return {name: self._gather(name, index, dtype) for name in self._shards[0]}

    def _gather(self, name: str, index: NDArray[np.int64], dtype: torch.dtype | None) -> Tensor:
        first = self._shards[0][name]
        returned = dtype if dtype is not None and first.is_floating_point() else first.dtype
        gathered = torch.empty(len(index), *first.shape[1:], dtype=returned)
        wanted = zip(self._shard_of[index].tolist(), self._index_of[index].tolist(), strict=True)
        for target, (shard, source) in enumerate(wanted):
            # Convert while copying: one pass over the memory.
            gathered[target] = self._shards[shard][name][source]
        return gathered


@dataclass(frozen=True)
class Encoder:
    """Computes features batch by batch, and checks them."""

    dataset: EpisodeDataset
    images: Images
    encode: Encode
    batch_size: int  # frames per call of `encode`
    dtype: torch.dtype  # of floating-point features
    computed_by: Mapping[str, Any] = field(default_factory=dict)  # what the shards record of the arithmetic

    def fill(self, plan: CachePlan, missing: MissingShards) -> None:
        """Compute shards until none is missing."""
        while (shard := missing.take()) is not None:
            self.write(shard, plan, partial(missing.advance, shard))
            missing.finish(shard)

    def write(self, shard: Shard, plan: CachePlan, advance: Callable[[int], None]) -> None:
        """Compute one shard of a plan, and write it.

        Args:
            shard: whose place may be below another folder than the plan's.
            plan: of the cache that it belongs to.
            advance: called with the number of frames done after each batch.

        Raises:
            DatasetError: the dataset changed meanwhile, so these may be features of something else.
            ConfigError: the encoder's output has the wrong first dimension, or does not fit `dtype`.
        """
        features = self.features(shard.frames, advance)
        folder = plan.folder_of(shard.name)
        assert folder is not None
        folder.check_unchanged()
        write_shard(shard.path, features, computed_by=self.computed_by)

    def features(self, frames: NDArray[np.int64], advance: Callable[[int], None]) -> dict[str, Tensor]:
        """Return the features of (N,) ascending frames, name -> (N, ...) on the CPU."""
        batches: list[dict[str, Tensor]] = []
        for start in range(0, len(frames), self.batch_size):
            batch = frames[start : start + self.batch_size]
            with torch.no_grad():
                features = self.encode(self.images(batch), self.dataset.instructions(batch))
            batches.append({name: self._stored(name, value, len(batch)) for name, value in features.items()})
            advance(start + len(batch))
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}

    def _stored(self, name: str, value: Tensor, length: int) -> Tensor:
        if value.shape[:1] != (length,):
            raise ConfigError(f"the encoder's {name!r} has shape {tuple(value.shape)} for {length} frames")
        value = value.detach().cpu()
        stored = value.to(self.dtype) if value.is_floating_point() else value
        if stored.is_floating_point() and not torch.isfinite(stored).all():
            raise ConfigError(
                f"the encoder's {name!r} is not finite in {self.dtype} (float16 ends at 65504; try float32)"
            )
        return stored


def _open_intact(plan: CachePlan, say: Say) -> dict[Path, MappedShard]:
    """Open the shards that are there; damaged ones are named and removed, so that they are computed anew."""
    for folder in plan.folders:
        if (damage := folder.write_index()) is not None:
            say(damage)
    found = {}
    for shard in plan.shards:
        if shard.path.exists():
            try:
                found[shard.path] = _open(shard)
            except DatasetError as error:
                say(f"{error}: its features are computed anew")
                remove_if_damaged(shard, partial(_is_damaged, shard))
    return found


def _is_damaged(shard: Shard) -> bool:
    try:
        _open(shard)
    except DatasetError:
        return True
    return False


def _tidy(plan: CachePlan) -> None:
    """Remove what killed processes left next to the shards, which are all written."""
    for folder in plan.folders:
        remove_dead(folder.path)
        remove_locks(folder.path)


def _open(shard: Shard) -> MappedShard:
    return map_shard(shard.path, length=len(shard.frames))


def _check_alike(plan: CachePlan, shards: Sequence[MappedShard]) -> None:
    kinds = [
        {name: (tensor.shape[1:], tensor.dtype) for name, tensor in shard.tensors.items()} for shard in shards
    ]
    for shard, kind in zip(plan.shards, kinds, strict=True):
        if kind != kinds[0]:
            raise DatasetError(
                f"{shard.path} holds other features than the first shard: the encoder changed under the same "
                f"key; delete {shard.path.parent} and run again"
            )
