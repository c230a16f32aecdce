"""Read a dataset in LeRobot's format v3.0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.decoding import ImageConverter
from rdvla.data.features import Camera, Columns, Feature
from rdvla.data.formats.base import CameraReader, HubFiles, check_values
from rdvla.data.formats.lerobot_v3.cameras import EpisodeFiles, StoredCamera, VideoCamera
from rdvla.data.formats.lerobot_v3.files import DatasetFiles, matrix
from rdvla.data.formats.lerobot_v3.layout import (
    CODEBASE_VERSION,
    DEFAULT_FEATURES,
    INFO_PATH,
    reject_version,
)
from rdvla.data.formats.lerobot_v3.metadata import DatasetMetadata
from rdvla.errors import DatasetError


class LeRobotV3:
    """LeRobot's format v3.0: parquet and MP4 files of many episodes each, described in `meta/`."""

    name = "LeRobot v3.0"
    hub = HubFiles(
        tag=CODEBASE_VERSION,
        markers=(INFO_PATH,),
        content=("meta/**/*.json", "meta/*.json", "**/*.parquet", "**/*.mp4"),
    )

    def rejects(self, path: Path) -> str | None:
        """Return why the dataset is not of this format; None: it is."""
        try:
            return reject_version(DatasetFiles(path).json(INFO_PATH))
        except DatasetError as error:
            return str(error)

    def open(self, path: Path) -> LeRobotV3Reader:
        """Read and check `meta/`.

        Raises:
            DatasetError: naming the file that is missing or damaged.
        """
        return LeRobotV3Reader(DatasetMetadata.read(path))


class LeRobotV3Reader:
    """One dataset in LeRobot's format v3.0, open for reading; see `DatasetReader`."""

    def __init__(self, metadata: DatasetMetadata) -> None:
        self.metadata = metadata

    @property
    def root(self) -> Path:
        """The dataset's folder."""
        return self.metadata.files.root

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        return self.metadata.fps

    @property
    def features(self) -> Mapping[str, Feature]:
        """Declarations of the numeric features of at most one dimension, LeRobot's default ones left out."""
        return self.metadata.features

    @property
    def cameras(self) -> Mapping[str, Camera]:
        """Short name -> camera; depth maps are left out."""
        return self.metadata.cameras

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(E,) number of frames of each episode."""
        return self.metadata.episodes["length"].astype(np.int64)

    @property
    def tasks(self) -> Sequence[str]:
        """Instructions by task_index."""
        return self.metadata.tasks

    @property
    def sources(self) -> Sequence[Mapping[str, Any]]:
        """What each episode says of its origin."""
        return self.metadata.sources

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Features that are declared but cannot be read, with the reason."""
        return {}

    @property
    def robot_type(self) -> str | None:
        """What the dataset calls its robot; None if it does not say."""
        return self.metadata.info.get("robot_type") or None

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about what was repaired or left out."""
        return ()

    def fingerprint(self) -> str:
        """Return a text that changes with the dataset's content."""
        return self.metadata.files.fingerprint()

    def task_of_frames(self) -> NDArray[np.int64]:
        """Return the task_index of each frame, (N,).

        Raises:
            DatasetError: a task_index is not in meta/tasks.parquet, or as `columns`.
        """
        numbers = self._frame_facts["task_index"][:, 0].astype(np.int64)
        if numbers.min() < 0 or numbers.max() >= len(self.tasks):
            raise DatasetError(f"{self.root / 'data'}: a task_index is not in meta/tasks.parquet")
        return numbers

    def columns(self, names: Sequence[str]) -> Columns:
        """Read numeric features, name -> (N, size).

        Raises:
            DatasetError: naming the data file that is missing, damaged, or does not hold the expected frames.
        """
        stored = {self.metadata.stored_name(name): name for name in names}
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        for file, expected in self._frames_by_file().items():
            for name, values in self._read_file(file, list(stored), expected).items():
                found[stored[name]].append(values)
        try:
            return {name: np.concatenate(values) for name, values in found.items()}
        except ValueError as error:
            raise DatasetError(f"{self.root / 'data'}: the files differ in the size of a feature") from error

    def open_camera(self, name: str, convert: ImageConverter) -> CameraReader:
        """Return a reader of one camera's images; it opens no file yet."""
        key = self.cameras[name].key
        if self.metadata.declared[key]["dtype"] == "image":
            return StoredCamera(self._episode_files(self.metadata.data_file), key, convert)
        return VideoCamera(
            self._episode_files(lambda episode: self.metadata.video_file(episode, key)),
            convert,
            fps=self.fps,
            starts=self.metadata.episodes[f"videos/{key}/from_timestamp"].astype(np.float64),
            times=self._frame_facts["timestamp"][:, 0],
        )

    @cached_property
    def _frame_facts(self) -> Columns:
        return self.columns(["task_index", "timestamp"])

    def _episode_files(self, file_of: Callable[[int], str]) -> EpisodeFiles:
        names = [file_of(episode) for episode in range(self.metadata.total_episodes)]
        return EpisodeFiles(
            self.metadata.files, names, self.metadata.episodes["dataset_to_index"].astype(np.int64)
        )

    def _frames_by_file(self) -> dict[str, NDArray[np.int64]]:
        """Return the frames that each data file must hold."""
        start, stop = (self.metadata.episodes[f"dataset_{end}_index"] for end in ("from", "to"))
        frames: dict[str, list[NDArray[np.int64]]] = {}
        for episode in range(self.metadata.total_episodes):
            own = np.arange(start[episode], stop[episode])
            frames.setdefault(self.metadata.data_file(episode), []).append(own)
        return {file: np.concatenate(ranges) for file, ranges in frames.items()}

    def _read_file(self, file: str, names: Sequence[str], expected: NDArray[np.int64]) -> Columns:
        path = self.root / file
        table = self.metadata.files.table(file, list(dict.fromkeys([*names, "index", "episode_index"])))
        index, episode = (matrix(table, name, path=path)[:, 0] for name in ("index", "episode_index"))
        expected_episode = np.searchsorted(self.metadata.episodes["dataset_to_index"], expected, side="right")
        if not np.array_equal(index, expected) or not np.array_equal(episode, expected_episode):
            raise DatasetError(
                f"{path} does not hold the frames that meta/episodes says: it is damaged or incomplete"
            )
        columns = {name: matrix(table, name, path=path) for name in names}
        for name, values in columns.items():
            declared = self.metadata.declared.get(name) or DEFAULT_FEATURES[name]
            check_values(values, declared, name=name, path=path, episodes=episode)
        return columns
