"""Staged episodes: folders that wait to become episodes of a dataset.

Each holds the numeric features, one video per camera, and a record of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rdvla.data.clips import Clip, sample_images, write_clip
from rdvla.data.encoding import encode_video
from rdvla.data.episode import CheckedEpisode
from rdvla.data.features import IMAGE_IS_NEW, camera_key, current_name
from rdvla.data.formats.lerobot.files import DatasetFiles
from rdvla.data.formats.lerobot_v3.layout import FilePosition
from rdvla.data.formats.lerobot_v3.metadata import DatasetMetadata
from rdvla.data.statistics import Statistics, as_json, from_json, image_statistics
from rdvla.errors import DatasetError
from rdvla.files import write_atomically, write_json

FEATURES_FILE = "frames.parquet"  # the name that interrupted recordings have
RECORD_FILE = "episode.json"


@dataclass(frozen=True)
class StagedEpisode:
    """The record of a staged episode; its features and videos stay on disk.

    Attributes:
        folder: where it is.
        length: number of steps.
        task: the instruction.
        source: what the episode says of its origin.
        image_statistics: camera feature -> statistics.
    """

    folder: Path
    length: int
    task: str
    source: dict[str, Any]
    image_statistics: dict[str, Statistics]

    @classmethod
    def read(cls, folder: Path) -> StagedEpisode:
        """Read the record; raise DatasetError with the damaged file and the folder to delete."""
        try:
            record = DatasetFiles(folder).json(RECORD_FILE)
            statistics = {name: from_json(entry) for name, entry in record["image_statistics"].items()}
            return cls(folder, int(record["length"]), str(record["task"]), dict(record["source"]), statistics)
        except (DatasetError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"{folder / RECORD_FILE} is damaged: delete {folder} and go on ({error})"
            ) from error

    def features(self) -> pa.Table:
        """Read the numeric features by present name, a table of T lines."""
        table = DatasetFiles(self.folder).table(FEATURES_FILE)
        if len(table) != self.length:
            raise DatasetError(f"{self.folder / FEATURES_FILE} is damaged: delete {self.folder} and go on")
        return table.rename_columns([current_name(name) for name in table.column_names])

    def video(self, camera: str) -> Path:
        """Return the path of the episode's video of one camera."""
        return self.folder / f"{camera}.mp4"


def write_staged_episode(folder: Path, episode: CheckedEpisode, *, fps: int) -> None:
    """Write an episode into an empty folder."""
    steps = np.arange(episode.length)
    is_new = np.diff(episode.image_index, prepend=-1) > 0
    columns = dict(episode.features) | {
        IMAGE_IS_NEW: is_new[:, None],
        "timestamp": (steps / fps).astype(np.float32)[:, None],
        "frame_index": steps.astype(np.int64)[:, None],
    }
    table = pa.table({name: arrow_column(values) for name, values in columns.items()})
    with write_atomically(folder / FEATURES_FILE) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    statistics: dict[str, Statistics] = {}
    for camera, images in episode.images.items():
        with write_atomically(folder / f"{camera}.mp4") as temporary:
            if isinstance(images, Clip):
                write_clip(images, temporary, fps=fps)
                images = sample_images(temporary)
            else:
                encode_video(temporary, images, image_index=episode.image_index, fps=fps)
        statistics[camera_key(camera)] = image_statistics(images)
    record = {
        "length": episode.length,
        "task": episode.task,
        "source": episode.source,
        "image_statistics": {key: as_json(entry) for key, entry in statistics.items()},
    }
    try:
        write_json(folder / RECORD_FILE, record)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"the source of the episode cannot be written as JSON: {error}") from error


def arrow_column(values: NDArray[Any]) -> pa.Array:
    """Return (T, size) as a column of scalars (size 1) or of lists of fixed length, as LeRobot wants it."""
    if values.shape[1] == 1:
        return pa.array(np.ascontiguousarray(values[:, 0]))
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1]
    )


@dataclass(frozen=True)
class NewEpisodes:
    """Staged episodes with the numbers that they get in the dataset.

    Attributes:
        episodes: in their order.
        first_episode: number of the first of them.
        first_frame: number of the first frame of the first of them.
        tasks: instructions of the whole dataset, by task_index.
        existing: the dataset that they are added to; None: a new one.
    """

    episodes: list[StagedEpisode]
    first_episode: int
    first_frame: int
    tasks: list[str]
    existing: DatasetMetadata | None

    @classmethod
    def read(cls, folders: Sequence[Path], existing: DatasetMetadata | None) -> NewEpisodes:
        """Read staged episodes, to follow those of `existing` or to start a new dataset."""
        episodes = [StagedEpisode.read(folder) for folder in folders]
        tasks = list(existing.tasks) if existing else []
        tasks += [t for t in dict.fromkeys(episode.task for episode in episodes) if t not in tasks]
        if existing is None:
            return cls(episodes, 0, 0, tasks, None)
        return cls(episodes, existing.total_episodes, existing.total_frames, tasks, existing)

    def __len__(self) -> int:
        return len(self.episodes)

    def table(self, number: int) -> pa.Table:
        """Read the features of episode `number` of these, and add the columns that number the frames."""
        episode = self.episodes[number]
        start = self.first_frame + sum(e.length for e in self.episodes[:number])
        numbers = {
            "episode_index": np.full(episode.length, self.first_episode + number),
            "index": np.arange(start, start + episode.length),
            "task_index": np.full(episode.length, self.tasks.index(episode.task)),
        }
        table = episode.features()
        table = table.rename_columns([stored_name(name, self.existing) for name in table.column_names])
        for name, values in numbers.items():
            table = table.append_column(name, pa.array(values.astype(np.int64)))
        return table


def stored_name(name: str, existing: DatasetMetadata | None) -> str:
    """Return a feature's name in the files; a dataset that is added to keeps its own names."""
    return existing.stored_name(name) if existing else name


def first_new_file(kind: str, existing: DatasetMetadata | None) -> FilePosition:
    """Return the position of the first file for new episodes, after the dataset's last of this kind."""
    return existing.last_position(kind).next() if existing else FilePosition()
