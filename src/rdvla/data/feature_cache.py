"""Frozen features of dataset frames, computed once and kept on disk.

A frozen image encoder would otherwise repeat the same work in every epoch. Features are kept only for frames
with a new image. A frame with a held image gets the features of the frame that its image was captured at. If
datasets are read together, each has a folder of its own, which every selection of them shares.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.dataset import EpisodeDataset
from rdvla.data.frames import Frames
from rdvla.data.shards import map_shard, write_shard
from rdvla.errors import ConfigError, DatasetError, RDVLAError
from rdvla.files import read_json, write_json

Progress = Callable[[int, int], None]  # (frames done, frames in all)
Images = Callable[[NDArray[np.int64]], dict[str, Tensor]]  # (B,) frames -> {camera: (B, H, W, 3) uint8}
Encode = Callable[[dict[str, Tensor], list[str]], dict[str, Tensor]]  # images, instructions -> features

SHARD_FRAMES = 512
INDEX_FILE = "index.json"


class FeatureCache:
    """Frozen features of dataset frames. Make one with `open_or_build`."""

    def __init__(
        self, dataset: EpisodeDataset, frames: NDArray[np.int64], shards: list[dict[str, Tensor]]
    ) -> None:
        """Take shards that hold, in this order, the features of (N,) ascending frames with a new image."""
        sizes = [len(next(iter(shard.values()))) for shard in shards]
        self._dataset = dataset
        self._frames = frames
        self._shards = shards
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
        progress: Progress | None = None,
        in_memory: bool = False,
    ) -> FeatureCache:
        """Open the cache of these frames, after computing what is missing.

        The cache lies in folders `directory/<key>-<hash>/`, one per dataset. The hash covers the dataset's
        content, the cameras and the frames. Shards of 512 frames are written whole, so an interrupted build
        continues with the next shard.

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
            progress: called with (frames done, frames in all) after each batch.
            in_memory: read all features into memory instead of mapping the files.

        Raises:
            DatasetError: a shard, the index or an image is damaged; it is named.
            ConfigError: the encoder's output has the wrong first dimension, or does not fit `dtype`.
        """
        kept, folders = _plan(dataset, frames, key=key, directory=Path(directory), dtype=dtype)
        encoder = _Encoder(dataset, images or dataset.images, encode, batch_size, dtype)
        report = progress or (lambda _done, _total: None)
        shards: list[dict[str, Tensor]] = []
        done = 0
        for folder in folders:
            _check_index(folder.path, len(folder.frames))
            for path, own in folder.shards():
                if not path.exists():
                    write_shard(path, encoder.features(own, _after(report, done, len(kept))))
                shards.append(map_shard(path, length=len(own)))
                done += len(own)
                report(done, len(kept))
                _check_alike(path, shards)
        if in_memory:
            shards = [{name: torch.cat([shard[name] for shard in shards]) for name in shards[0]}]
        return cls(dataset, kept, shards)

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
        _, folders = _plan(dataset, frames, key=key, directory=Path(directory), dtype=dtype)
        return all(path.exists() for folder in folders for path, _ in folder.shards())

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Feature name -> shape of one frame's feature."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self._shards[0].items()}

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
class _Folder:
    """The folder for one dataset's share of the frames (ascending, numbered through all datasets)."""

    path: Path
    frames: NDArray[np.int64]

    def shards(self) -> list[tuple[Path, NDArray[np.int64]]]:
        """Return every file with its frames."""
        starts = range(0, len(self.frames), SHARD_FRAMES)
        return [
            (self.path / f"shard-{number:05d}.safetensors", self.frames[start : start + SHARD_FRAMES])
            for number, start in enumerate(starts)
        ]


def _plan(
    dataset: EpisodeDataset, frames: Frames, *, key: str, directory: Path, dtype: torch.dtype
) -> tuple[NDArray[np.int64], list[_Folder]]:
    """Return the frames with a new image to keep, ascending, and the folder of each dataset's share."""
    kept = np.unique(dataset.captured_at(frames))
    if len(kept) == 0:
        raise ConfigError("the feature cache needs at least one frame")
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", key)[:80]
    folders = []
    for number, indices in dataset.mixture.split(kept):
        member, own = dataset.mixture.members[number], kept[indices]
        cameras = [f"{name} {member.camera(name).key} {dataset.fits.get(name)}" for name in dataset.cameras]
        digest = hashlib.sha256((own - member.first_frame).tobytes())
        digest.update("\n".join([member.reader.fingerprint(), *cameras, key, str(dtype)]).encode())
        folders.append(_Folder(directory / f"{readable}-{digest.hexdigest()[:16]}", own))
    return kept, folders


@dataclass(frozen=True)
class _Encoder:
    """Computes features batch by batch, and checks them."""

    dataset: EpisodeDataset
    images: Images
    encode: Encode
    batch_size: int  # frames per call of `encode`
    dtype: torch.dtype  # of floating-point features

    def features(self, frames: NDArray[np.int64], report: Callable[[int], None]) -> dict[str, Tensor]:
        """Return the features of (N,) ascending frames, name -> (N, ...) on the CPU.

        `report` gets the number of frames done after each batch but the last.
        """
        batches: list[dict[str, Tensor]] = []
        for start in range(0, len(frames), self.batch_size):
            if start:
                report(start)
            batch = frames[start : start + self.batch_size]
            with torch.no_grad():
                features = self.encode(self.images(batch), self.dataset.instructions(batch))
            batches.append({name: self._stored(name, value, len(batch)) for name, value in features.items()})
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


def _after(report: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda more: report(done + more, total)


def _check_index(folder: Path, frames: int) -> None:
    """Write the folder's description of itself, or compare with the one that is there."""
    index = {"version": 1, "rows": frames, "shard_rows": SHARD_FRAMES}
    path = folder / INDEX_FILE
    if not path.exists():
        write_json(path, index)
        return
    try:
        found = read_json(path)
    except RDVLAError as error:
        raise DatasetError(f"{error}: delete that file and run again") from error
    if found != index:
        raise DatasetError(f"{path} does not describe this cache: delete {folder} and run again")


def _check_alike(path: Path, shards: list[dict[str, Tensor]]) -> None:
    first, last = (
        {name: (tensor.shape[1:], tensor.dtype) for name, tensor in shard.items()}
        for shard in (shards[0], shards[-1])
    )
    if first != last:
        raise DatasetError(
            f"{path} holds other features than the first shard: the encoder changed under the same key; "
            f"delete {path.parent} and run again"
        )
