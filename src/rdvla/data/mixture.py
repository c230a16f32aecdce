"""One or several datasets with the same features, read as one.

Frames, episodes and tasks are numbered through all of them. Each dataset may have another format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.decoding import ImageConverter
from rdvla.data.features import ACTION, KEYPOINTS, STATE, Camera, Columns, Feature, camera_name
from rdvla.data.formats.base import DatasetReader
from rdvla.data.formats.registry import open_reader
from rdvla.data.frames import FrameNumbers
from rdvla.data.selected import SelectedFeatures, common, declared_facts
from rdvla.errors import ConfigError, DatasetError, nearest
from rdvla.processing.fit import ImageFit


@dataclass(frozen=True)
class Member:
    """One dataset of a mixture.

    Attributes:
        reader: reads it.
        selected: its features that are read.
        cameras: name in the mixture -> the dataset's own name, for every camera in its order.
        first_frame: number of its first frame in the mixture.
        first_episode: number of its first episode in the mixture.
    """

    reader: DatasetReader
    selected: SelectedFeatures
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
    """Datasets that are read as one.

    Attributes:
        members: in their order.
        needed: names of the features to read when the datasets are opened.
        notes: sentences about what was repaired or left out.
    """

    members: tuple[Member, ...]
    needed: tuple[str, ...]
    notes: tuple[str, ...]

    @classmethod
    def open(
        cls,
        roots: Sequence[Path],
        *,
        cameras: Sequence[str] | None,
        camera_names: Mapping[str, str],
        action: Sequence[str] = (),
        state: Sequence[str] = (),
    ) -> Mixture:
        """Read what the datasets say of themselves, and check that they can be read as one.

        Args:
            roots: folders, at least one.
            cameras: names of the cameras to read; None: all of the first dataset.
            camera_names: a dataset's name of a camera -> its name in the mixture. Names that a dataset lacks
                are ignored if another has them; cameras without an entry keep their names.
            action: names of the features that make up the action, in their order; empty: `action`.
            state: names of the features that make up the proprioception; empty: `observation.state`.

        Raises:
            DatasetError: a dataset is damaged, lacks one of these features, or differs from the first in
                what it says of them, of the robot or of a camera (named).
            ConfigError: a dataset lacks one of `cameras`, two of its cameras would share a name, or no
                dataset has a camera that is renamed.
        """
        members: list[Member] = []
        wanted = None if cameras is None else [camera_name(name) for name in cameras]
        frame = episode = 0
        readers = [open_reader(root) for root in roots]
        _check_renamed(readers, camera_names)
        for root, reader in zip(roots, readers, strict=True):
            named = _named_cameras(reader, camera_names)
            _check_cameras(root, named, wanted or ())
            reader = reader.with_cameras(None if wanted is None else [named[name] for name in wanted])
            named = {name: own for name, own in named.items() if own in reader.cameras}
            wanted = list(named) if wanted is None else wanted
            selected = SelectedFeatures.choose(reader, action=action, state=state)
            members.append(Member(reader, selected, named, frame, episode))
            _check_alike(members[0], members[-1], wanted)
            frame, episode = frame + int(reader.lengths.sum()), episode + len(reader.lengths)
        needed, notes = common([member.selected for member in members])
        own = [note for m in members for note in (*m.reader.notes, *m.selected.notes)]
        return cls(tuple(members), tuple(needed), (*own, *notes))

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

    @cached_property
    def tasks(self) -> list[str]:
        """The instructions of the frames of all datasets, each once."""
        used = [(member.reader.tasks, np.unique(member.reader.task_of_frames())) for member in self.members]
        return list(dict.fromkeys(tasks[number] for tasks, numbers in used for number in numbers))

    @property
    def sources(self) -> list[Mapping[str, Any]]:
        """What each episode says of its origin."""
        return [source for member in self.members for source in member.reader.sources]

    @property
    def features(self) -> dict[str, Feature]:
        """Declarations of the features that every dataset has."""
        others = [member.selected.features for member in self.members[1:]]
        first = self.members[0].selected.features
        return {name: feature for name, feature in first.items() if all(name in own for own in others)}

    @property
    def robot_type(self) -> str | None:
        """What the datasets call their robot; None if none of them says."""
        return next((m.reader.robot_type for m in self.members if m.reader.robot_type), None)

    def columns(self, names: Sequence[str]) -> Columns:
        """Read features of `features` as (N, size).

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        read = [member.selected.columns(names) for member in self.members]
        return {name: np.concatenate([own[name] for own in read]) for name in names}

    def numbering(self) -> Columns:
        """Return what numbers the frames, each (N, 1).

        These are `index`, `frame_index` (in the episode), `episode_index`, `task_index` (in `tasks`) and
        `timestamp` (seconds since the episode began).

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        number = {task: index for index, task in enumerate(self.tasks)}
        tasks: list[NDArray[np.int64]] = []
        for member in self.members:
            own = np.array([number.get(task, -1) for task in member.reader.tasks], dtype=np.int64)
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
        return {name: values[:, None] for name, values in facts.items()}

    def fingerprint(self) -> str:
        """Return a text that changes with the content of a dataset, or the order of the datasets."""
        own = [member.reader.fingerprint() for member in self.members]
        return own[0] if len(own) == 1 else hashlib.sha256("\n".join(own).encode()).hexdigest()[:16]

    def split(self, frames: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield, for each member with some of (B,) frames, its number and their indices in `frames`."""
        owner = np.searchsorted([member.first_frame for member in self.members], frames, side="right") - 1
        for number in np.unique(owner).tolist():
            yield number, np.flatnonzero(owner == number)


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


def _check_renamed(readers: Sequence[DatasetReader], names: Mapping[str, str]) -> None:
    known = list(dict.fromkeys(camera for reader in readers for camera in reader.cameras))
    for name in map(camera_name, names):
        if name not in known:
            roots = ", ".join(str(reader.root) for reader in readers)
            raise ConfigError(
                f"{roots}: there is no camera {name!r} to rename, only {known}.{nearest(name, known)}"
            )


def _check_cameras(root: Path, named: Mapping[str, str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in named:
            raise ConfigError(
                f"{root} has no camera {name!r}, only {list(named)}.{nearest(name, named)} Give its cameras "
                f"the names that the policy uses (data.cameras), for example "
                f"'{{{next(iter(named), 'image')}: {name}}}'."
            )


def _check_alike(first: Member, other: Member, cameras: Sequence[str]) -> None:
    here, there = _facts(first, cameras), _facts(other, cameras)
    for name in (name for name in here if name in there):
        if here[name] != there[name]:
            raise DatasetError(
                f"{other.root} cannot be read together with {first.root}: {name} is {there[name]} in the "
                f"former and {here[name]} in the latter"
            )


def _facts(member: Member, cameras: Sequence[str]) -> dict[str, Any]:
    """Return what datasets that are read together must agree in; what one does not say is no difference."""
    features = member.selected.features
    facts: dict[str, Any] = {"fps": member.reader.fps}
    if member.reader.robot_type:
        facts["the robot type"] = repr(member.reader.robot_type)
    for name in (ACTION, STATE):
        facts |= declared_facts(features.get(name), name)
    for name in cameras:
        camera = member.camera(name)
        facts[f"the image size of {name!r}"] = (camera.height, camera.width)
    if KEYPOINTS in features:
        facts[f"the cameras' order, which {KEYPOINTS!r} follows,"] = list(member.cameras)
    return facts
