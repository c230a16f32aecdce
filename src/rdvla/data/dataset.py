"""Read LeRobot v3.0 datasets: numbers in memory, images decoded when asked for.

A *row* is one control step, numbered from 0 over all episodes of all datasets that are read together.
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

from rdvla.data.camera_images import CameraImages
from rdvla.data.layout import ACTION, ENVIRONMENT_STATE, IMAGE_IS_NEW, IMAGE_PREFIX, STATE
from rdvla.data.parts import fingerprint, join_columns, join_statistics, join_tasks, open_parts
from rdvla.data.rows import RowNumbers, Rows
from rdvla.data.source import locate_all
from rdvla.errors import ConfigError, DatasetError, nearest


class EpisodeDataset:
    """Demonstrations of one or several datasets, read as action chunks.

    `len(dataset)` is the number of rows that a chunk may start at (`sample_index`).
    """

    def __init__(
        self,
        root: Path | str | Sequence[Path | str],
        *,
        chunk_size: int,
        cameras: Sequence[str] | None = None,
        camera_names: Mapping[str, str] | None = None,
        image_size: int | None = None,
        only_new_images: bool = True,
        sample_every: int = 1,
        episodes: Sequence[int] | None = None,
    ) -> None:
        """Read the metadata and all numbers.

        Args:
            root: a local folder, or the id of a dataset on the Hugging Face hub ("user/name"). Several, as a
                sequence or in one text with commas between, are read as one dataset; they must have the same
                features.
            chunk_size: K, number of actions in a chunk.
            cameras: camera names to read ("front" for `observation.images.front`); None: all of the dataset.
            camera_names: other names for the dataset's cameras, e.g. {"image": "agentview"}; `cameras` means
                the new ones.
            image_size: side in pixels that the (square) images are scaled to; None: they stay as they are.
            only_new_images: chunks start only where the cameras took a new image (datasets without the
                feature `observation.camera_is_new` have a new image in every row).
            sample_every: chunks start at every n-th such row of an episode; the others are left out.
            episodes: chunks start in these episodes only; None: in all.

        Raises:
            DatasetError: another format version, a missing or damaged file, which is named, or datasets that
                differ in a feature.
            ConfigError: an unknown camera or episode, images that are not square where they are to be scaled,
                or a chunk size or `sample_every` below 1.
        """
        if chunk_size < 1 or sample_every < 1:
            raise ConfigError(
                f"chunk_size and sample_every must be at least 1, got {chunk_size} and {sample_every}"
            )
        self.chunk_size = chunk_size
        self.only_new_images = only_new_images
        self.sample_every = sample_every
        self.parts = open_parts(locate_all(root), cameras=cameras, camera_names=camera_names or {})
        chosen = self.recorded_cameras if cameras is None else cameras
        self.cameras = [name.removeprefix(IMAGE_PREFIX) for name in chosen]
        self.tasks = join_tasks(self.parts)  # instructions by task_index
        self._columns = join_columns(self.parts, self.tasks)
        self._images = CameraImages(self.parts, self.cameras, size=image_size)
        is_new = self._columns[IMAGE_IS_NEW][:, 0].astype(bool) if IMAGE_IS_NEW in self._columns else None
        self._numbers = RowNumbers(
            self._bounds("dataset_from_index"), self._bounds("dataset_to_index"), is_new
        )
        self.episodes: NDArray[np.int64] = np.arange(0)
        self.sample_index: NDArray[np.int64] = np.arange(0)
        self._choose(episodes)

    # --- what there is ---

    def __len__(self) -> int:
        return len(self.sample_index)

    @property
    def name(self) -> str:
        """The folder, or the folders, for messages."""
        return ", ".join(str(part.root) for part in self.parts)

    @property
    def recorded_cameras(self) -> list[str]:
        """All cameras that were recorded, in their order."""
        return list(self.parts[0].cameras)

    @property
    def image_size(self) -> int | None:
        """Side in pixels that images are scaled to; None: they are as they were recorded."""
        return self._images.size

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        return self.parts[0].metadata.fps

    @property
    def num_episodes(self) -> int:
        """Episodes of the whole dataset."""
        return len(self._numbers.start)

    @property
    def num_rows(self) -> int:
        """Rows of the whole dataset."""
        return len(self._numbers)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """What each episode says of its origin."""
        return [source for part in self.parts for source in part.metadata.sources]

    @cached_property
    def statistics(self) -> dict[str, dict[str, list[float]]]:
        """Feature -> {"min", "max", "mean", "std", "count", "q01", ...} as lists; see `join_statistics`."""
        return {
            name: {kind: value.tolist() for kind, value in entry.items()}
            for name, entry in join_statistics(self.parts, self._columns).items()
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
        return fingerprint(self.parts)

    def subset(self, episodes: Sequence[int]) -> EpisodeDataset:
        """The same dataset, its chunks starting in these episodes only; the numbers in memory are shared."""
        view = object.__new__(EpisodeDataset)
        view.__dict__.update(self.__dict__)
        view._images = self._images.copy()
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
        wanted, is_pad = self._numbers.window(rows, deltas)
        return torch.from_numpy(self._matrix(name)[wanted]), torch.from_numpy(is_pad)

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
        times = self._matrix("timestamp")[index, 0].astype(np.float64)
        return self._images.read(index, episodes=self.episode_of(index), times=times)

    # --- rows and episodes ---

    def episode_of(self, rows: Rows) -> NDArray[np.int64]:
        """(B,) episode of each row."""
        return self._numbers.episode_of(rows)

    def episode_rows(self, episode: int) -> range:
        """The rows of one episode."""
        return range(int(self._numbers.start[episode]), int(self._numbers.stop[episode]))

    def episode_task(self, episode: int) -> int:
        """The task_index of an episode's first row."""
        return int(self._matrix("task_index")[self._numbers.start[episode], 0])

    def fresh_rows(self, rows: Rows) -> NDArray[np.int64]:
        """(B,) the row at which each row's image was new: itself, or an earlier one when held."""
        return self._numbers.fresh[self._rows(rows)]

    def _rows(self, rows: Rows) -> NDArray[np.int64]:
        return self._numbers.checked(rows)

    def _matrix(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            raise DatasetError(f"{self.name} has no numeric feature {name!r}.{nearest(name, self._columns)}")
        return self._columns[name]

    def _bounds(self, column: str) -> NDArray[np.int64]:
        found = [part.metadata.episodes[column].astype(np.int64) + part.first_row for part in self.parts]
        return np.concatenate(found)

    def _choose(self, episodes: Sequence[int] | None) -> None:
        self.episodes, rows = self._numbers.of_episodes(episodes)
        if self.only_new_images:
            rows = rows[self._numbers.fresh[rows] == rows]
        self.sample_index = self._numbers.every(rows, self.sample_every)
