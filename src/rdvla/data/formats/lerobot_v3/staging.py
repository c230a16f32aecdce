"""Staged episodes: folders that wait to become episodes of a dataset.

Each holds the numeric features, one video per camera, and a record of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rdvla.data.clips import Clip, sample_images, write_clip
from rdvla.data.encoding import VideoEncoder
from rdvla.data.episode import CheckedEpisode
from rdvla.data.features import IMAGE_IS_NEW, camera_key, current_name
from rdvla.data.formats.lerobot.files import DatasetFiles
from rdvla.data.formats.lerobot_v3.layout import FilePosition
from rdvla.data.formats.lerobot_v3.metadata import DatasetMetadata
from rdvla.data.spec import DatasetSpec
from rdvla.data.statistics import ImageSample, Statistics, as_json, from_json
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


class StagedVideos:
    """Writes images of an episode into its folder, step by step, and sums them up.

    Args:
        folder: of the episode.
        spec: of the dataset.
        cameras: those whose images are written here.
    """

    def __init__(self, folder: Path, spec: DatasetSpec, cameras: Sequence[str]) -> None:
        self._encoders = {
            camera: VideoEncoder(
                folder / f"{camera}.mp4", size=spec.cameras[camera], fps=spec.fps, crf=spec.crf
            )
            for camera in cameras
        }
        self._samples = {camera: ImageSample() for camera in cameras}

    def add(self, images: Mapping[str, NDArray[np.uint8]], *, is_new: bool) -> None:
        """Show one image of every camera in the next step; one that is held is not new."""
        for camera, image in images.items():
            self._encoders[camera].add(image)
            if is_new:
                self._samples[camera].add(image)

    def close(self) -> None:
        """Complete the files."""
        for encoder in self._encoders.values():
            encoder.close()

    def abandon(self) -> None:
        """Let go of the files as they are."""
        for encoder in self._encoders.values():
            encoder.abandon()

    def statistics(self) -> dict[str, Statistics]:
        """Return camera -> statistics."""
        return {camera: sample.statistics() for camera, sample in self._samples.items()}


def write_staged_episode(folder: Path, episode: CheckedEpisode, spec: DatasetSpec) -> None:
    """Write an episode into an empty folder."""
    clips = {camera: images for camera, images in episode.images.items() if isinstance(images, Clip)}
    arrays = {camera: images for camera, images in episode.images.items() if not isinstance(images, Clip)}
    is_new = np.diff(episode.image_index, prepend=-1) > 0
    videos = StagedVideos(folder, spec, list(arrays))
    for index, new in zip(episode.image_index.tolist(), is_new.tolist(), strict=True):
        videos.add({camera: images[index] for camera, images in arrays.items()}, is_new=new)
    videos.close()
    statistics = videos.statistics()
    for camera, clip in clips.items():
        write_clip(clip, folder / f"{camera}.mp4", fps=spec.fps)
        sample = ImageSample()
        for image in sample_images(folder / f"{camera}.mp4"):
            sample.add(image)
        statistics[camera] = sample.statistics()
    write_staged_features(folder, episode.features, is_new, fps=spec.fps)
    write_staged_record(
        folder, task=episode.task, length=episode.length, source=episode.source, statistics=statistics
    )


def write_staged_features(
    folder: Path, features: Mapping[str, NDArray[Any]], is_new: NDArray[np.bool_], *, fps: int
) -> None:
    """Write an episode's features, (T, size) each, and in which of the T steps the images are new."""
    steps = np.arange(len(is_new))
    columns = dict(features) | {
        IMAGE_IS_NEW: is_new[:, None],
        "timestamp": (steps / fps).astype(np.float32)[:, None],
        "frame_index": steps.astype(np.int64)[:, None],
    }
    table = pa.table({name: arrow_column(values) for name, values in columns.items()})
    with write_atomically(folder / FEATURES_FILE) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def write_staged_record(
    folder: Path, *, task: str, length: int, source: Mapping[str, Any], statistics: Mapping[str, Statistics]
) -> None:
    """Write the rest of an episode; `statistics` are the cameras'.

    Raises:
        DatasetError: the source cannot be written as JSON.
    """
    record = {
        "length": length,
        "task": task,
        "source": dict(source),
        "image_statistics": {camera_key(camera): as_json(entry) for camera, entry in statistics.items()},
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
