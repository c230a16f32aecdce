"""Read a LeRobot v3.0 dataset: numbers in memory, images decoded when asked for.

A *row* is one control step of the dataset, numbered 0 .. total_frames - 1 over all episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rdvla.data.columns import read_columns
from rdvla.data.images import ImageReader
from rdvla.data.layout import ACTION, ENVIRONMENT_STATE, IMAGE_IS_NEW, IMAGE_PREFIX, STATE
from rdvla.data.metadata import DatasetMetadata
from rdvla.data.source import locate
from rdvla.errors import ConfigError, DatasetError, nearest

Rows = ArrayLike | Tensor


class EpisodeDataset:
    """A dataset of demonstrations, read as action chunks.

    `len(dataset)` is the number of rows that a chunk may start at (`sample_index`).
    """

    def __init__(
        self,
        root: Path | str,
        *,
        chunk_size: int,
        cameras: Sequence[str] | None = None,
        only_new_images: bool = True,
        episodes: Sequence[int] | None = None,
    ) -> None:
        """Read the metadata and all numbers of a dataset.

        Args:
            root: a local folder, or the id of a dataset on the Hugging Face hub ("user/name").
            chunk_size: K, number of actions in a chunk.
            cameras: camera names to read ("front" for `observation.images.front`); None: all of the dataset.
            only_new_images: chunks start only where the cameras took a new image (datasets without the
                feature `observation.camera_is_new` have a new image in every row).
            episodes: chunks start in these episodes only; None: in all.

        Raises:
            DatasetError: another format version, or a missing or damaged file, which is named.
            ConfigError: an unknown camera or episode, or a chunk size below 1.
        """
        if chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1 action, got {chunk_size}")
        self.root = locate(root)
        self.chunk_size = chunk_size
        self.only_new_images = only_new_images
        self.metadata = DatasetMetadata.read(self.root)
        self.cameras = _chosen_cameras(self.metadata, cameras)
        self._columns = read_columns(self.metadata)
        self._images = ImageReader(self.metadata)
        self._start: NDArray[np.int64] = self.metadata.episodes["dataset_from_index"].astype(np.int64)
        self._stop: NDArray[np.int64] = self.metadata.episodes["dataset_to_index"].astype(np.int64)
        self._fresh = self._last_new_image()
        self.episodes: NDArray[np.int64] = np.arange(0)
        self.sample_index: NDArray[np.int64] = np.arange(0)
        self._choose(episodes)

    # --- what there is ---

    def __len__(self) -> int:
        return len(self.sample_index)

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        return self.metadata.fps

    @property
    def num_episodes(self) -> int:
        """Episodes of the whole dataset."""
        return self.metadata.total_episodes

    @property
    def num_rows(self) -> int:
        """Rows of the whole dataset."""
        return self.metadata.total_frames

    @property
    def tasks(self) -> list[str]:
        """Instructions by task_index."""
        return self.metadata.tasks

    @property
    def sources(self) -> list[dict[str, Any]]:
        """What each episode says of its origin."""
        return self.metadata.sources

    @property
    def statistics(self) -> dict[str, dict[str, list[float]]]:
        """`meta/stats.json`: feature -> {"min", "max", "mean", "std", "count", "q01", ...} as lists."""
        return {
            name: {kind: value.tolist() for kind, value in entry.items()}
            for name, entry in self.metadata.statistics.items()
        }

    @property
    def state_dim(self) -> int:
        """Size of the proprioception, 0 if the dataset has none."""
        return self._columns[STATE].shape[1] if STATE in self._columns else 0

    @property
    def action_dim(self) -> int:
        """Size of an action."""
        return int(self._matrix(ACTION).shape[1])

    def fingerprint(self) -> str:
        """Changes when the dataset's content does: what a feature cache is valid for."""
        return self.metadata.files.fingerprint()

    def subset(self, episodes: Sequence[int]) -> EpisodeDataset:
        """The same dataset, its chunks starting in these episodes only; the numbers in memory are shared."""
        view = object.__new__(EpisodeDataset)
        view.__dict__.update(self.__dict__)
        view._images = ImageReader(self.metadata)
        view._choose(episodes)
        return view

    # --- what the rows hold ---

    def column(self, name: str) -> NDArray[Any]:
        """A numeric feature of the whole dataset, (total rows, size).

        Raises:
            DatasetError: the dataset has no such feature; the nearest one is named.
        """
        return self._matrix(name)

    def window(self, name: str, rows: Rows, deltas: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A numeric feature around each row, never from another episode.

        Args:
            name: the feature.
            rows: (B,).
            deltas: W offsets in steps, e.g. range(8); negative ones look back.

        Returns:
            values (B, W, size): beyond either end of the episode its last (first) value is repeated;
            is_pad (B, W) bool: where that was done.
        """
        index = self._rows(rows)
        episode = self.episode_of(index)
        wanted = index[:, None] + np.asarray(deltas, dtype=np.int64)
        first, last = self._start[episode][:, None], self._stop[episode][:, None] - 1
        is_pad = (wanted < first) | (wanted > last)
        values = self._matrix(name)[np.clip(wanted, first, last)]
        return torch.from_numpy(values), torch.from_numpy(is_pad)

    def actions(self, rows: Rows) -> Tensor:
        """Action chunks (B, K, A) float32, real units; the last one is repeated after the episode's end."""
        return self.window(ACTION, rows, range(self.chunk_size))[0].float()

    def action_is_pad(self, rows: Rows) -> Tensor:
        """(B, K) bool: True where a chunk goes on after the episode's end."""
        return self.window(ACTION, rows, range(self.chunk_size))[1]

    def state(self, rows: Rows) -> Tensor:
        """Proprioception (B, S) float32 in real units; S is 0 if the dataset has none."""
        if STATE not in self._columns:
            return torch.zeros(len(self._rows(rows)), 0)
        return torch.from_numpy(self._columns[STATE][self._rows(rows)]).float()

    def environment_state(self, rows: Rows) -> Tensor | None:
        """Privileged simulator state (B, E) float32, a training signal only; None if the dataset has none."""
        if ENVIRONMENT_STATE not in self._columns:
            return None
        return torch.from_numpy(self._columns[ENVIRONMENT_STATE][self._rows(rows)]).float()

    def instructions(self, rows: Rows) -> list[str]:
        """The instruction of each row."""
        return [self.tasks[int(task)] for task in self._matrix("task_index")[self._rows(rows), 0]]

    def images(self, rows: Rows) -> dict[str, Tensor]:
        """Camera images, camera name -> (B, H, W, 3) uint8 RGB.

        Raises:
            DatasetError: naming the video file that is missing or damaged.
        """
        index = self._rows(rows)
        episodes, times = self.episode_of(index), self._matrix("timestamp")[index, 0].astype(np.float64)
        return {
            camera: torch.from_numpy(self._images.read(key, episodes=episodes, times=times, rows=index))
            for camera, key in self.cameras.items()
        }

    def iterate_images(
        self, rows: Rows | None = None, *, batch_size: int = 64
    ) -> Iterator[tuple[NDArray[np.int64], dict[str, Tensor]]]:
        """Go through images from front to back, which decodes every frame once.

        Args:
            rows: the rows wanted, in any order; None: `sample_index`.
            batch_size: images of a camera at once.

        Yields:
            the next rows in ascending order (at most `batch_size`) and their images.
        """
        ordered = np.unique(self._rows(rows) if rows is not None else self.sample_index)
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            yield batch, self.images(batch)

    # --- rows and episodes ---

    def episode_of(self, rows: Rows) -> NDArray[np.int64]:
        """(B,) episode of each row."""
        return np.searchsorted(self._stop, self._rows(rows), side="right").astype(np.int64)

    def episode_rows(self, episode: int) -> range:
        """The rows of one episode."""
        return range(int(self._start[episode]), int(self._stop[episode]))

    def episode_task(self, episode: int) -> int:
        """The task_index of an episode's first row."""
        return int(self._matrix("task_index")[self._start[episode], 0])

    def fresh_rows(self, rows: Rows) -> NDArray[np.int64]:
        """(B,) the row at which each row's image was new: itself, or an earlier one when held."""
        return self._fresh[self._rows(rows)]

    def _rows(self, rows: Rows) -> NDArray[np.int64]:
        index = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(index) and not (index.min() >= 0 and index.max() < self.num_rows):
            raise ConfigError(
                f"row {int(index.max())} or {int(index.min())} is not in 0..{self.num_rows - 1}"
            )
        return index

    def _matrix(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            raise DatasetError(f"{self.root} has no numeric feature {name!r}.{nearest(name, self._columns)}")
        return self._columns[name]

    def _last_new_image(self) -> NDArray[np.int64]:
        rows = np.arange(self.num_rows, dtype=np.int64)
        if IMAGE_IS_NEW not in self._columns:
            return rows
        is_new = self._columns[IMAGE_IS_NEW][:, 0].astype(bool)
        is_new[self._start] = True  # nothing is held over from the episode before
        return np.maximum.accumulate(np.where(is_new, rows, 0))

    def _choose(self, episodes: Sequence[int] | None) -> None:
        chosen = (
            np.arange(self.num_episodes)
            if episodes is None
            else np.unique(np.asarray(episodes, dtype=np.int64))
        )
        if len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= self.num_episodes:
            raise ConfigError(
                f"episodes must be some of 0..{self.num_episodes - 1}, got {chosen.tolist()[:10]}"
            )
        rows = np.concatenate([np.arange(self._start[e], self._stop[e]) for e in chosen])
        if self.only_new_images:
            rows = rows[self._fresh[rows] == rows]
        self.episodes, self.sample_index = chosen, rows


def _chosen_cameras(metadata: DatasetMetadata, names: Sequence[str] | None) -> dict[str, str]:
    available = metadata.cameras
    if names is None:
        return available
    chosen = {}
    for name in names:
        short = name.removeprefix(IMAGE_PREFIX)
        if short not in available:
            raise ConfigError(
                f"the dataset has no camera {name!r}, only {list(available)}.{nearest(short, available)}"
            )
        chosen[short] = available[short]
    return chosen
