"""Which files a feature cache consists of: the folder of each dataset, and the frames of each shard.

A folder's name is a hash of everything that decides the features: what the encoder says of itself, the
dataset's content, cameras, how images are made square, frames and dtype. So a cache of anything else is in
another folder, and a stale one is never found.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rdvla.data.dataset import EpisodeDataset
from rdvla.data.frames import Frames
from rdvla.data.mixture import Member
from rdvla.errors import ConfigError, DatasetError, RDVLAError
from rdvla.files import read_json, write_json

SHARD_FRAMES = 512  # at most
SHARD_BYTES = (
    256 << 20
)  # at most, as far as that leaves FEWEST_FRAMES; what a kill costs, and a worker's share
FEWEST_FRAMES = 4
INDEX_FILE = "index.json"


@dataclass(frozen=True)
class Shard:
    """A file of a cache, which appears whole or not at all."""

    path: Path
    frames: NDArray[np.int64]  # (N,), ascending, numbered through all datasets

    @property
    def name(self) -> str:
        """Its place below the folder of all caches."""
        return f"{self.path.parent.name}/{self.path.name}"


@dataclass(frozen=True)
class CacheFolder:
    """The folder for one dataset's share of the frames."""

    path: Path
    frames: NDArray[np.int64]  # (N,), ascending, numbered through all datasets
    shard_frames: int  # of every shard but the last
    member: Member
    fingerprint: str  # of the dataset when the plan was made

    def shards(self) -> list[Shard]:
        """Return every file with its frames."""
        starts = range(0, len(self.frames), self.shard_frames)
        return [
            Shard(
                self.path / f"shard-{number:05d}.safetensors", self.frames[start : start + self.shard_frames]
            )
            for number, start in enumerate(starts)
        ]

    def write_index(self) -> str | None:
        """Write the folder's description of itself, or compare with the one that is there.

        Returns:
            A sentence about a damaged description, which is written anew; None: there was none.

        Raises:
            DatasetError: another cache is there.
        """
        index = {"version": 1, "rows": len(self.frames), "shard_rows": self.shard_frames}
        path = self.path / INDEX_FILE
        if not path.exists():
            write_json(path, index)
            return None
        try:
            found = read_json(path)
        except RDVLAError as error:
            write_json(path, index)
            return f"{error}: it was written anew"
        if found != index:
            raise DatasetError(f"{path} does not describe this cache: delete {self.path} and run again")
        return None

    def check_unchanged(self) -> None:
        """Raise `DatasetError` if the dataset changed since the plan was made."""
        if self.member.reader.fingerprint() != self.fingerprint:
            raise DatasetError(
                f"{self.member.root} changed while its features were computed, so the last ones were not "
                "kept: run again"
            )


@dataclass(frozen=True)
class CachePlan:
    """All files of a cache, whether they are there or not."""

    frames: NDArray[np.int64]  # (N,) frames with a new image, ascending
    folders: tuple[CacheFolder, ...]

    @classmethod
    def of(
        cls,
        dataset: EpisodeDataset,
        frames: Frames,
        *,
        key: str,
        directory: Path,
        dtype: torch.dtype = torch.float16,
        frame_bytes: int = 0,
    ) -> CachePlan:
        """Plan the cache of some frames' images.

        Args:
            dataset: that the frames are from.
            frames: all that features will be asked for.
            key: names the encoder; it changes if the encoder's output would.
            directory: parent folder of all caches.
            dtype: dtype that floating-point features are stored in.
            frame_bytes: of one frame's features, so shards of large ones hold fewer frames; 0: unknown.

        Raises:
            ConfigError: there are no frames.
        """
        kept = np.unique(dataset.captured_at(frames))
        if len(kept) == 0:
            raise ConfigError("the feature cache needs at least one frame")
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", key)[:80]
        folders = []
        for number, indices in dataset.mixture.split(kept):
            member, own = dataset.mixture.members[number], kept[indices]
            fingerprint = member.reader.fingerprint()
            cameras = [
                f"{name} {member.camera(name).key} {dataset.fits.get(name)}" for name in dataset.cameras
            ]
            digest = hashlib.sha256((own - member.first_frame).tobytes())
            digest.update("\n".join([fingerprint, *cameras, key, str(dtype)]).encode())
            path = directory / f"{readable}-{digest.hexdigest()[:16]}"
            folders.append(CacheFolder(path, own, _shard_frames(path, frame_bytes), member, fingerprint))
        return cls(kept, tuple(folders))

    @property
    def shards(self) -> list[Shard]:
        """Every file, in the order of the frames."""
        return [shard for folder in self.folders for shard in folder.shards()]

    @property
    def is_complete(self) -> bool:
        """Whether every file is there; they are not read."""
        return all(shard.path.exists() for shard in self.shards)

    def folder_of(self, name: str) -> CacheFolder | None:
        """Return the folder of a shard's `name`; None: the shard belongs to another cache."""
        return next((folder for folder in self.folders if folder.path.name == name.split("/")[0]), None)


def _shard_frames(folder: Path, frame_bytes: int) -> int:
    """Return the frames of a shard: of a cache that is there already, as it has them."""
    try:
        found = read_json(folder / INDEX_FILE)["shard_rows"]
    except (RDVLAError, KeyError, TypeError):
        found = None
    if isinstance(found, int) and not isinstance(found, bool) and found > 0:
        return found
    return min(SHARD_FRAMES, max(FEWEST_FRAMES, SHARD_BYTES // max(frame_bytes, 1)))
