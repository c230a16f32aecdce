"""Staged episodes with the places that they will have in the dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rdvla.data.dataset_files import column_values
from rdvla.data.layout import FilePosition
from rdvla.data.metadata import DatasetMetadata
from rdvla.data.staging import StagedEpisode


@dataclass(frozen=True)
class Batch:
    """Staged episodes with the place that each will have in the dataset."""

    episodes: list[StagedEpisode]
    first_episode: int
    first_frame: int
    tasks: list[str]  # of the whole dataset, by task_index

    def table(self, number: int) -> pa.Table:
        """The data rows of the batch's episode `number`, with the columns that depend on its place."""
        episode = self.episodes[number]
        start = self.first_frame + sum(e.length for e in self.episodes[:number])
        places = {
            "episode_index": np.full(episode.length, self.first_episode + number),
            "index": np.arange(start, start + episode.length),
            "task_index": np.full(episode.length, self.tasks.index(episode.task)),
        }
        table = episode.frames()
        for name, values in places.items():
            table = table.append_column(name, pa.array(values.astype(np.int64)))
        return table


def place(episodes: list[StagedEpisode], existing: DatasetMetadata | None) -> Batch:
    """Put staged episodes behind those of `existing`, or at the start of a new dataset."""
    tasks = list(existing.tasks) if existing else []
    tasks += [t for t in dict.fromkeys(episode.task for episode in episodes) if t not in tasks]
    if existing is None:
        return Batch(episodes, 0, 0, tasks)
    return Batch(episodes, existing.total_episodes, existing.total_frames, tasks)


def first_position(prefix: str, existing: DatasetMetadata | None) -> FilePosition:
    """The first file for new episodes: the one behind the dataset's last."""
    return existing.last_position(prefix).next() if existing else FilePosition()


def matrix(table: pa.Table, name: str, path: Path) -> NDArray[Any]:
    """A numeric column as (T, size)."""
    values = column_values(table, name, path=path)
    return values.reshape(len(values), -1)
