"""One or several datasets with the same features, read as one.

Frames, episodes and tasks are numbered through all of them. Each dataset may have another format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.decoding import ImageConverter
from rdvla.data.features import ACTION, KEYPOINTS, Camera, Columns, camera_name
from rdvla.data.formats.base import DatasetReader
from rdvla.data.formats.registry import open_reader
from rdvla.data.frames import FrameNumbers
from rdvla.data.statistics import QUANTILES, Statistics, combine, feature_statistics
from rdvla.errors import ConfigError, DatasetError, nearest
from rdvla.processing.fit import ImageFit


@dataclass(frozen=True)
class Member:
    """One dataset of a mixture.

    Attributes:
        reader: reads it.
        cameras: name in the mixture -> the dataset's own name, for every camera in its order.
        first_frame: number of its first frame in the mixture.
        first_episode: number of its first episode in the mixture.
    """

    reader: DatasetReader
    cameras: dict[str, str]
    first_frame: int
    first_episode: int

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.reader.root

    def camera(self, name: str) -> Camera:
        """Return a camera by its name in the mixture."""
        return self.reader.cameras[self.cameras[name]]


@dataclass(frozen=True)
class Mixture:
    """Datasets that are read as one."""

    members: tuple[Member, ...]

    @classmethod
    def open(
        cls, roots: Sequence[Path], *, cameras: Sequence[str] | None, camera_names: Mapping[str, str]
    ) -> Mixture:
        """Read what the datasets say of themselves, and check that they can be read as one.

        Args:
            roots: folders, at least one.
            cameras: names of the cameras to read; None: all of the first dataset.
            camera_names: a dataset's name of a camera -> its name in the mixture. Names that a dataset lacks
                are ignored; cameras without an entry keep their names.

        Raises:
            DatasetError: a dataset is damaged, lacks actions, or differs from the first in a feature (named).
            ConfigError: a dataset lacks one of `cameras`, or two of its cameras would share a name.
        """
        members: list[Member] = []
        frame = episode = 0
        for root in roots:
            reader = open_reader(root)
            if ACTION not in reader.features:
                raise DatasetError(f"{root} has no feature {ACTION!r}.{nearest(ACTION, reader.features)}")
            members.append(Member(reader, _named_cameras(reader, camera_names), frame, episode))
            frame, episode = frame + int(reader.lengths.sum()), episode + len(reader.lengths)
        wanted = members[0].cameras if cameras is None else [camera_name(name) for name in cameras]
        for member in members:
            _check_cameras(member, list(wanted))
            _check_alike(members[0], member, list(wanted))
        return cls(tuple(members))

    @property
    def name(self) -> str:
        """The folder, or the folders, for messages."""
        return ", ".join(str(member.root) for member in self.members)

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        return self.members[0].reader.fps

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) number of frames of each episode."""
        return np.concatenate([member.reader.lengths for member in self.members])

    @property
    def tasks(self) -> list[str]:
        """The instructions of all datasets, each once."""
        return list(dict.fromkeys(task for member in self.members for task in member.reader.tasks))

    @property
    def sources(self) -> list[Mapping[str, Any]]:
        """What each episode says of its origin."""
        return [source for member in self.members for source in member.reader.sources]

    def columns(self) -> Columns:
        """Read every numeric feature as (N, size), and what numbers the frames.

        The latter are `index`, `frame_index` (in the episode), `episode_index`, `task_index` (in `tasks`) and
        `timestamp` (seconds since the episode began).

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        number = {task: index for index, task in enumerate(self.tasks)}
        read: list[Columns] = []
        tasks: list[NDArray[np.int64]] = []
        for member in self.members:
            read.append(member.reader.columns(list(member.reader.features)))
            own = np.array([number[task] for task in member.reader.tasks], dtype=np.int64)
            tasks.append(own[member.reader.task_of_frames()])
        numbers = FrameNumbers(self.lengths, None)
        index, episode = np.arange(len(numbers), dtype=np.int64), numbers.episode
        frame = index - numbers.start[episode]
        facts: Columns = {
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": episode,
            "index": index,
            "task_index": np.concatenate(tasks),
        }
        columns = {name: np.concatenate([own[name] for own in read]) for name in read[0]}
        return columns | {name: values[:, None] for name, values in facts.items()}

    def statistics(self, columns: Columns) -> dict[str, Statistics]:
        """Return statistics over all datasets.

        A single dataset's recorded statistics hold; features without quantiles (datasets that were converted)
        are computed from `columns`. For several datasets all features are computed, and the recorded image
        statistics are combined as LeRobot does.
        """
        recorded = [member.reader.statistics for member in self.members]
        merged = dict(recorded[0]) if len(recorded) == 1 else self._image_statistics(recorded)
        for name, values in columns.items():
            if len(recorded) > 1 or not merged.get(name, {}).keys() >= {"mean", "std", *QUANTILES}:
                merged[name] = feature_statistics(values)
        return merged

    def fingerprint(self) -> str:
        """Return a text that changes with the content of a dataset, or the order of the datasets."""
        own = [member.reader.fingerprint() for member in self.members]
        return own[0] if len(own) == 1 else hashlib.sha256("\n".join(own).encode()).hexdigest()[:16]

    def split(self, frames: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield, for each member with some of (B,) frames, its number and their indices in `frames`."""
        owner = np.searchsorted([member.first_frame for member in self.members], frames, side="right") - 1
        for number in np.unique(owner).tolist():
            yield number, np.flatnonzero(owner == number)

    def _image_statistics(self, recorded: Sequence[Mapping[str, Statistics]]) -> dict[str, Statistics]:
        merged = {}
        for name in self.members[0].cameras:
            keys = [member.camera(name).key if name in member.cameras else "" for member in self.members]
            entries = [own.get(key) for key, own in zip(keys, recorded, strict=True)]
            if all(entry is not None and "count" in entry for entry in entries):
                merged[keys[0]] = combine([entry for entry in entries if entry is not None])
        return merged


class MixtureImages:
    """Reads camera images from all datasets of a mixture. Every process and thread needs its own.

    Attributes:
        cameras: their names, in order.
        fits: camera -> what makes its images square; those of other cameras keep their recorded shape.
    """

    def __init__(
        self, mixture: Mixture, cameras: Sequence[str], *, fits: Mapping[str, ImageFit] | None = None
    ) -> None:
        """Open no file yet."""
        self._mixture = mixture
        self.cameras = list(cameras)
        self.fits = dict(fits or {})
        self._readers = [
            {
                name: member.reader.open_camera(member.cameras[name], ImageConverter(self.fits.get(name)))
                for name in cameras
            }
            for member in mixture.members
        ]

    def copy(self) -> MixtureImages:
        """Return a reader of the same images that opens files of its own."""
        return MixtureImages(self._mixture, self.cameras, fits=self.fits)

    def read(self, frames: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
        """Read the images of (B,) frames, camera name -> (B, H, W, 3) RGB.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        found: dict[str, list[NDArray[np.uint8]]] = {camera: [] for camera in self.cameras}
        order: list[NDArray[np.int64]] = []
        for number, indices in self._mixture.split(frames):
            own = frames[indices] - self._mixture.members[number].first_frame
            order.append(indices)
            for camera, reader in self._readers[number].items():
                found[camera].append(reader.read(own))
        if len(order) == 1:
            return {camera: images[0] for camera, images in found.items()}
        back = np.argsort(np.concatenate(order))
        return {camera: np.concatenate(images)[back] for camera, images in found.items()}


def _named_cameras(reader: DatasetReader, names: Mapping[str, str]) -> dict[str, str]:
    short = {camera_name(old): new for old, new in names.items()}
    named = {short.get(name, name): name for name in reader.cameras}
    if len(named) < len(reader.cameras):
        raise ConfigError(
            f"two cameras of {reader.root} would go by one name: it has {list(reader.cameras)}, "
            f"and the new names are {short}"
        )
    return named


def _check_cameras(member: Member, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in member.cameras:
            raise ConfigError(
                f"{member.root} has no camera {name!r}, only {list(member.cameras)}."
                f"{nearest(name, member.cameras)} Give its cameras the names that the policy uses "
                f"(data.cameras), for example '{{{next(iter(member.cameras), 'image')}: {name}}}'."
            )


def _check_alike(first: Member, other: Member, cameras: Sequence[str]) -> None:
    here, there = _facts(first, cameras), _facts(other, cameras)
    for name in dict.fromkeys((*here, *there)):
        if here.get(name) != there.get(name):
            raise DatasetError(
                f"{other.root} cannot be read together with {first.root}: {name} is "
                f"{there.get(name, 'missing')} in the former and {here.get(name, 'missing')} in the latter"
            )


def _facts(member: Member, cameras: Sequence[str]) -> dict[str, Any]:
    """Return what datasets that are read together must agree in."""
    features = member.reader.features
    facts: dict[str, Any] = {"fps": member.reader.fps}
    facts |= {f"the shape of {name!r}": list(feature["shape"]) for name, feature in features.items()}
    for name in cameras:
        camera = member.camera(name)
        facts[f"the image size of {name!r}"] = (camera.height, camera.width)
    if KEYPOINTS in features:
        facts[f"the cameras' order, which {KEYPOINTS!r} follows,"] = list(member.cameras)
    return facts
