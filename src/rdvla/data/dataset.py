"""Read demonstrations as action chunks: numbers in memory, images decoded on demand.

A *frame* is one control step, numbered from 0 over all episodes of all datasets that are read together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.division import divide_by_task
from rdvla.data.features import (
    ACTION,
    ENVIRONMENT_STATE,
    IMAGE_IS_NEW,
    KEYPOINTS,
    STATE,
    Feature,
    camera_name,
    dimension_names,
    dimension_units,
)
from rdvla.data.formats.base import ImagesInFiles
from rdvla.data.frames import FrameNumbers, Frames
from rdvla.data.image_shards import ImageShards
from rdvla.data.locate import locate_all
from rdvla.data.mixture import Mixture, MixtureImages
from rdvla.data.remote.mirror import Streaming
from rdvla.data.statistics import as_json, feature_statistics
from rdvla.errors import ConfigError, DatasetError, nearest
from rdvla.processing.fit import ImageFit

PRIVILEGED = (ENVIRONMENT_STATE, KEYPOINTS)


class EpisodeDataset:
    """Demonstrations of one or several datasets, read as action chunks.

    `len(dataset)` is the number of frames that a chunk may start at (`sample_index`).
    """

    def __init__(  # noqa: PLR0913  # each is a choice of its own
        self,
        root: Path | str | Sequence[Path | str],
        *,
        chunk_size: int,
        cameras: Sequence[str] | None = None,
        camera_names: Mapping[str, str] | None = None,
        fits: Mapping[str, ImageFit] | None = None,
        only_new_images: bool = True,
        sample_every: int = 1,
        episodes: Sequence[int] | None = None,
        action: Sequence[str] = (),
        state: Sequence[str] = (),
        privileged: bool = True,
        streaming: Streaming | None = None,
    ) -> None:
        """Read the metadata and the numbers that training needs.

        Args:
            root: a local folder in a known format (`rdvla.data.formats`), or the id of a dataset on the
                Hugging Face hub ("user/name"). Several, as a sequence or in one text with commas between, are
                read as one dataset; they must have the same actions, proprioception, cameras and robot.
            chunk_size: K, number of actions in a chunk.
            cameras: names of the cameras to read; None: all of the dataset.
            camera_names: other names for the dataset's cameras, e.g. {"image": "agentview"}; `cameras` then
                holds the new ones.
            fits: camera -> what makes its images square; the images of other cameras keep their shape.
            only_new_images: start chunks only at frames with a new image. Datasets without the feature
                `camera_is_new` have a new image in every frame.
            sample_every: start chunks at every n-th such frame of an episode; the others are left out.
            episodes: start chunks in these episodes only; None: in all.
            action: names of the features that make up the action, in their order; empty: `action`.
            state: names of the features that make up the proprioception; empty: `observation.state`, or
                nothing if there is none.
            privileged: read the environment's state and keypoints, if there are any; they train perception.
            streaming: where to keep the files of a dataset that lies elsewhere, which are fetched when they
                are needed; None: the usual place for addresses, and hub datasets are downloaded whole.

        Both appear under the names `action` and `observation.state` here, whatever the dataset calls them.

        Raises:
            DatasetError: an unknown format, a missing or damaged file (named), a missing feature, or datasets
                that differ.
            ConfigError: an unknown camera or episode, or a chunk size or `sample_every` below 1.
        """
        if chunk_size < 1 or sample_every < 1:
            raise ConfigError(
                f"chunk_size and sample_every must be at least 1, got {chunk_size} and {sample_every}"
            )
        self.chunk_size = chunk_size
        self.only_new_images = only_new_images
        self.sample_every = sample_every
        self.mixture = Mixture.open(
            locate_all(root, streaming=streaming),
            cameras=cameras,
            camera_names=camera_names or {},
            action=action,
            state=state,
        )
        chosen = self.recorded_cameras if cameras is None else cameras
        self.cameras = [camera_name(name) for name in chosen]
        self.tasks = self.mixture.tasks  # instructions by task_index
        self._needed = [n for n in self.mixture.needed if privileged or n not in PRIVILEGED]
        self._columns = self.mixture.columns(self._needed) | self.mixture.numbering()
        self._images = MixtureImages(self.mixture, self.cameras, fits=fits)
        is_new = self._columns[IMAGE_IS_NEW][:, 0].astype(bool) if IMAGE_IS_NEW in self._columns else None
        self._numbers = FrameNumbers(self.mixture.lengths, is_new)
        self.episodes: NDArray[np.int64] = np.arange(0)
        self.sample_index: NDArray[np.int64] = np.arange(0)
        self._choose(episodes)

    # --- the dataset as a whole ---

    def __len__(self) -> int:
        return len(self.sample_index)

    @property
    def name(self) -> str:
        """The folder, or the folders, for messages."""
        return self.mixture.name

    @property
    def recorded_cameras(self) -> list[str]:
        """All cameras that were recorded, in their order."""
        return list(self.mixture.members[0].cameras)

    @property
    def fits(self) -> Mapping[str, ImageFit]:
        """Camera -> what makes its images square; the images of other cameras keep their shape."""
        return self._images.fits

    def fitted(self, fits: Mapping[str, ImageFit]) -> EpisodeDataset:
        """Return the same dataset with images fitted so; the numbers in memory are shared."""
        view = object.__new__(EpisodeDataset)
        view.__dict__.update(self.__dict__)
        view._images = MixtureImages(self.mixture, self.cameras, fits=fits)
        return view

    def recorded_image_size(self, camera: str) -> tuple[int, int]:
        """Return (height, width) of a camera's images as they were recorded."""
        recorded = self.mixture.members[0].camera(camera)
        return recorded.height, recorded.width

    @cached_property
    def shards(self) -> ImageShards:
        """Which episodes have the images of `cameras` in the same files."""
        return ImageShards.of(self.mixture, self.cameras)

    @property
    def is_streamed(self) -> bool:
        """Whether images are fetched from elsewhere when they are needed."""
        readers = [member.reader for member in self.mixture.members]
        return any(isinstance(reader, ImagesInFiles) and reader.is_streamed for reader in readers)

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        return self.mixture.fps

    @property
    def num_episodes(self) -> int:
        """Episodes of the whole dataset."""
        return len(self._numbers.start)

    @property
    def num_frames(self) -> int:
        """Frames of the whole dataset."""
        return len(self._numbers)

    @property
    def features(self) -> dict[str, Feature]:
        """Declarations of the numeric features, without those that number frames, episodes and tasks."""
        return self.mixture.features

    def names(self, feature: str) -> list[str] | None:
        """Return the names of a feature's values, such as joints, in their order; None: it has none."""
        return dimension_names(self._declaration(feature))

    def units(self, feature: str) -> list[str] | None:
        """Return the units of a feature's values, such as "rad"; None: the dataset does not say."""
        return dimension_units(self._declaration(feature))

    @property
    def robot_type(self) -> str | None:
        """What the dataset calls its robot; None if it does not say."""
        return self.mixture.robot_type

    @property
    def notes(self) -> list[str]:
        """Sentences about what was repaired or left out at opening; tell them to the user."""
        return list(self.mixture.notes)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """What each episode says of its origin."""
        return [dict(source) for source in self.mixture.sources]

    @cached_property
    def statistics(self) -> dict[str, dict[str, list[float]]]:
        """Feature -> {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}.

        They are computed from the values of all frames, for the features that are read when the dataset is
        opened. Recorded ones are not used: their quantiles may be averages over episodes.
        """
        return {name: as_json(feature_statistics(self._columns[name])) for name in self._needed}

    @property
    def state_dim(self) -> int:
        """Size of the proprioception, 0 if the dataset has none."""
        return self._columns[STATE].shape[1] if STATE in self._columns else 0

    @property
    def action_dim(self) -> int:
        """Size of an action."""
        return int(self._columns[ACTION].shape[1])

    def fingerprint(self) -> str:
        """Return a text that changes with the dataset's content."""
        return self.mixture.fingerprint()

    def subset(self, episodes: Sequence[int]) -> EpisodeDataset:
        """Return the same dataset with chunks in these episodes only; the numbers in memory are shared."""
        view = object.__new__(EpisodeDataset)
        view.__dict__.update(self.__dict__)
        view._images = self._images.copy()
        view._choose(episodes)
        return view

    # --- the content of frames ---

    def column(self, name: str) -> NDArray[Any]:
        """Return a numeric feature of the whole dataset, (num_frames, size).

        Raises:
            DatasetError: the dataset has no such feature (the nearest one is named), or the feature cannot be
                read.
        """
        if name not in self._columns:
            self._declaration(name)
            self._columns[name] = self.mixture.columns([name])[name]
        return self._columns[name]

    def window(self, name: str, frames: Frames, offsets: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a numeric feature around each frame, never from another episode.

        Args:
            name: the feature.
            frames: (B,).
            offsets: W distances in control steps, e.g. range(8); negative ones go back.

        Returns:
            values (B, W, size), which repeat the episode's first or last value beyond its ends;
            is_pad (B, W) bool, True beyond the ends.
        """
        wanted, is_pad = self._numbers.window(frames, offsets)
        return torch.from_numpy(self.column(name)[wanted]), torch.from_numpy(is_pad)

    def actions(self, frames: Frames) -> Tensor:
        """Return action chunks (B, K, A) float32, real units; the episode's last action fills the end."""
        return self.window(ACTION, frames, range(self.chunk_size))[0].float()

    def action_is_pad(self, frames: Frames) -> Tensor:
        """Return (B, K) bool: True after the episode's end."""
        return self.window(ACTION, frames, range(self.chunk_size))[1]

    def state(self, frames: Frames) -> Tensor:
        """Return proprioception (B, S) float32 in real units; S is 0 if the dataset has none."""
        numbers = self._numbers.checked(frames)
        if STATE not in self._columns:
            return torch.zeros(len(numbers), 0)
        return torch.from_numpy(self._columns[STATE][numbers]).float()

    def environment_state(self, frames: Frames) -> Tensor | None:
        """Return privileged simulator state (B, E) float32, a training signal only; None without one."""
        if ENVIRONMENT_STATE not in self._columns:
            return None
        return torch.from_numpy(self._columns[ENVIRONMENT_STATE][self._numbers.checked(frames)]).float()

    def instructions(self, frames: Frames) -> list[str]:
        """Return the instruction of each frame."""
        numbers = self._numbers.checked(frames)
        return [self.tasks[int(task)] for task in self._columns["task_index"][numbers, 0]]

    def images(self, frames: Frames) -> dict[str, Tensor]:
        """Return camera images, camera name -> (B, H, W, 3) uint8 RGB.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        images = self._images.read(self._numbers.checked(frames))
        return {camera: torch.from_numpy(stack) for camera, stack in images.items()}

    # --- frames and episodes ---

    def episode_of(self, frames: Frames) -> NDArray[np.int64]:
        """Return the episode of each of (B,) frames."""
        return self._numbers.episode_of(frames)

    def episode_frames(self, episode: int) -> range:
        """Return the frames of one episode."""
        return range(int(self._numbers.start[episode]), int(self._numbers.stop[episode]))

    def episode_task(self, episode: int) -> int:
        """Return the task_index of an episode's first frame."""
        return int(self._columns["task_index"][self._numbers.start[episode], 0])

    def captured_at(self, frames: Frames) -> NDArray[np.int64]:
        """Return the frame that each of (B,) frames' image was new at: itself, or an earlier one if held."""
        return self._numbers.captured_at[self._numbers.checked(frames)]

    def _declaration(self, name: str) -> Feature:
        features = self.features
        if name not in features:
            known = (*features, *self._columns)
            raise DatasetError(f"{self.name} has no numeric feature {name!r}.{nearest(name, known)}")
        return features[name]

    def _choose(self, episodes: Sequence[int] | None) -> None:
        self.episodes, frames = self._numbers.of_episodes(episodes)
        if self.only_new_images:
            frames = frames[self._numbers.captured_at[frames] == frames]
        self.sample_index = self._numbers.every(frames, self.sample_every)


def split_episodes(
    dataset: EpisodeDataset, validation_fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Divide a dataset's episodes into training and validation, task by task.

    Every task gives about `validation_fraction` of its episodes to validation (rounded). A task with two or
    more gives at least one if the fraction is above 0. The same dataset, fraction and seed give the same
    split, and a new task does not change the split of the others.

    Args:
        dataset: its chosen `episodes` are divided.
        validation_fraction: 0 (no validation) up to, but not including, 1.
        seed: of the draw.

    Returns:
        Training episodes and validation episodes, each ascending.

    Raises:
        ConfigError: the fraction is out of range.
    """
    tasks = {episode: dataset.episode_task(episode) for episode in dataset.episodes.tolist()}
    return divide_by_task(tasks, validation_fraction, seed)
