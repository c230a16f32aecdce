"""Which episodes have their images in the same file, so that they are best read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdvla.data.formats.base import ImagesInFiles
from rdvla.data.mixture import Member, Mixture


@dataclass(frozen=True)
class ShardFile:
    """A file with images.

    Attributes:
        member: number of its dataset in the mixture.
        name: relative to the dataset.
        size: in bytes.
    """

    member: int
    name: str
    size: int


@dataclass(frozen=True)
class ImageShards:
    """The shards of a mixture: episodes whose images of the largest camera lie in one file.

    A file of another camera may belong to two shards, as cameras begin new files at different episodes.

    Attributes:
        of_episode: (E,) shard of each episode, numbered from 0 in their order.
        files: all files of each shard, of every camera.
    """

    of_episode: NDArray[np.int64]
    files: tuple[tuple[ShardFile, ...], ...]

    @classmethod
    def of(cls, mixture: Mixture, cameras: Sequence[str]) -> ImageShards:
        """Find the shards.

        Args:
            mixture: the datasets. One whose format does not tell files has one shard per episode.
            cameras: names in the mixture of the cameras that are read.
        """
        owners: list[NDArray[np.int64]] = []
        files: list[tuple[ShardFile, ...]] = []
        for number, member in enumerate(mixture.members):
            own, found = _of_member(member, number, cameras)
            owners.append(own + len(files))
            files += found
        return cls(np.concatenate(owners), tuple(files))

    def size(self, shard: int) -> int:
        """Return the bytes of a shard's files."""
        return sum(file.size for file in self.files[shard])


def _of_member(
    member: Member, number: int, cameras: Sequence[str]
) -> tuple[NDArray[np.int64], list[tuple[ShardFile, ...]]]:
    reader = member.reader
    if not isinstance(reader, ImagesInFiles) or not cameras:
        episodes = len(reader.lengths)
        return np.arange(episodes, dtype=np.int64), [()] * episodes
    names = {camera: list(reader.image_files(member.cameras[camera])) for camera in cameras}
    sizes = {name: reader.file_size(name) for name in sorted({n for own in names.values() for n in own})}
    largest = max(cameras, key=lambda camera: sum(sizes[name] for name in set(names[camera])))
    place = {name: shard for shard, name in enumerate(dict.fromkeys(names[largest]))}
    owners = np.array([place[name] for name in names[largest]], dtype=np.int64)
    files: list[dict[str, ShardFile]] = [{} for _ in place]
    for own in names.values():
        for shard, name in zip(owners.tolist(), own, strict=True):
            files[shard][name] = ShardFile(number, name, sizes[name])
    return owners, [tuple(found.values()) for found in files]
