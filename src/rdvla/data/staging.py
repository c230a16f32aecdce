"""A staged episode: a folder with its frames, one video a camera, and a record of the rest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rdvla.data.dataset_files import DatasetFiles
from rdvla.data.episode import CheckedEpisode
from rdvla.data.layout import IMAGE_IS_NEW, image_key
from rdvla.data.statistics import Statistics, as_json, from_json, image_statistics
from rdvla.data.video import encode_video
from rdvla.errors import DatasetError
from rdvla.files import write_atomically, write_json

FRAMES_FILE = "frames.parquet"
RECORD_FILE = "episode.json"


@dataclass(frozen=True)
class StagedEpisode:
    """The record of a staged episode; its frames and videos stay on disk.

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
        """Read the record; raises DatasetError naming the damaged file and saying to delete the folder."""
        try:
            record = DatasetFiles(folder).json(RECORD_FILE)
            statistics = {name: from_json(entry) for name, entry in record["image_statistics"].items()}
            return cls(folder, int(record["length"]), str(record["task"]), dict(record["source"]), statistics)
        except (DatasetError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"{folder / RECORD_FILE} is damaged: delete {folder} and go on ({error})"
            ) from error

    def frames(self) -> pa.Table:
        """The numeric features, (T rows)."""
        table = DatasetFiles(self.folder).table(FRAMES_FILE)
        if len(table) != self.length:
            raise DatasetError(f"{self.folder / FRAMES_FILE} is damaged: delete {self.folder} and go on")
        return table

    def video(self, camera: str) -> Path:
        """The episode's video of one camera."""
        return self.folder / f"{camera}.mp4"


def write_staged_episode(folder: Path, episode: CheckedEpisode, *, fps: int) -> None:
    """Write an episode into an empty folder."""
    steps = np.arange(episode.length)
    is_new = np.diff(episode.image_index, prepend=-1) > 0
    columns = dict(episode.frames) | {
        IMAGE_IS_NEW: is_new[:, None],
        "timestamp": (steps / fps).astype(np.float32)[:, None],
        "frame_index": steps.astype(np.int64)[:, None],
    }
    table = pa.table({name: arrow_column(values) for name, values in columns.items()})
    with write_atomically(folder / FRAMES_FILE) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
    for camera, images in episode.images.items():
        with write_atomically(folder / f"{camera}.mp4") as temporary:
            encode_video(temporary, images, image_index=episode.image_index, fps=fps)
    record = {
        "length": episode.length,
        "task": episode.task,
        "source": episode.source,
        "image_statistics": {
            image_key(camera): as_json(image_statistics(images)) for camera, images in episode.images.items()
        },
    }
    try:
        write_json(folder / RECORD_FILE, record)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"the source of the episode cannot be written as JSON: {error}") from error


def arrow_column(values: NDArray[Any]) -> pa.Array:
    """(T, size) as a column of scalars (size 1) or of lists of fixed length, as LeRobot wants it."""
    if values.shape[1] == 1:
        return pa.array(np.ascontiguousarray(values[:, 0]))
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1]
    )
