"""Gather what a dataset holds: episodes, tasks, and each number's range and histogram."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.check.names import numbered_names
from rdvla.data.features import ACTION, STATE, Camera
from rdvla.data.formats.base import DatasetReader
from rdvla.data.statistics import feature_statistics
from rdvla.errors import DatasetError

BINS = 24


@dataclass(frozen=True)
class Number:
    """One number of a feature over all frames.

    Attributes:
        name: its index, and its declared name if there is one.
        low: smallest value; `q01`, `mean`, `std`, `q99` and `high` likewise.
        counts: (BINS,) frames by value, from low to high.
    """

    name: str
    low: float
    q01: float
    mean: float
    std: float
    q99: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class FeatureFacts:
    """A numeric feature."""

    name: str
    dtype: str
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class TaskFacts:
    """An instruction, and how often it was carried out."""

    text: str
    episodes: int
    frames: int


@dataclass(frozen=True)
class DatasetFacts:
    """What a dataset holds.

    Attributes:
        root: its folder.
        fps: control frequency in Hz.
        lengths: (E,) frames of each episode.
        task_of_episode: (E,) number of each episode's first instruction in `tasks`.
        tasks: the instructions, the most frequent first.
        features: the numeric features, action and state first.
        cameras: short name -> camera.
        robot_type: None if the dataset does not say.
        notes: what was repaired or left out while reading.
    """

    root: Path
    fps: float
    lengths: NDArray[np.int64]
    task_of_episode: NDArray[np.int64]
    tasks: tuple[TaskFacts, ...]
    features: tuple[FeatureFacts, ...]
    cameras: dict[str, Camera]
    robot_type: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON values."""
        features = {
            feature.name: {"dtype": feature.dtype, "numbers": [asdict(number) for number in feature.numbers]}
            for feature in self.features
        }
        return {
            "dataset": str(self.root),
            "robot_type": self.robot_type,
            "fps": self.fps,
            "episodes": len(self.lengths),
            "frames": int(self.lengths.sum()),
            "lengths": self.lengths.tolist(),
            "tasks": [asdict(task) for task in self.tasks],
            "cameras": {name: [camera.height, camera.width] for name, camera in self.cameras.items()},
            "features": features,
            "notes": list(self.notes),
        }

    @property
    def seconds(self) -> float:
        """Duration of all episodes."""
        return float(self.lengths.sum()) / self.fps


def gather(reader: DatasetReader) -> DatasetFacts:
    """Read every number of a dataset and summarise it; a feature that cannot be read becomes a note.

    Raises:
        DatasetError: a frame has a task that is not among the tasks.
    """
    task_of_frame = reader.task_of_frames()
    starts = np.cumsum(reader.lengths) - reader.lengths
    first_tasks = task_of_frame[starts]
    order = np.argsort(-np.bincount(first_tasks, minlength=len(reader.tasks)), kind="stable")
    tasks = tuple(
        TaskFacts(reader.tasks[t], int((first_tasks == t).sum()), int((task_of_frame == t).sum()))
        for t in order
    )
    rank = np.argsort(order)
    names = sorted(reader.features, key=lambda name: (name != ACTION, name != STATE))
    features: list[FeatureFacts] = []
    notes = list(reader.notes)
    for name in names:
        try:
            values = reader.columns([name])[name]
        except DatasetError as error:
            notes.append(f"{name!r} cannot be read: {error}")
            continue
        named = numbered_names(reader.features[name], values.shape[1])
        features.append(FeatureFacts(name, str(values.dtype), numbers(values, named)))
    return DatasetFacts(
        root=reader.root,
        fps=reader.fps,
        lengths=reader.lengths,
        task_of_episode=rank[first_tasks],
        tasks=tasks,
        features=tuple(features),
        cameras=dict(reader.cameras),
        robot_type=reader.robot_type,
        notes=tuple(notes),
    )


def numbers(values: NDArray[np.generic], names: Sequence[str]) -> tuple[Number, ...]:
    """Summarise (N, size) values, one entry for each of `size` numbers."""
    found = {kind: entry.tolist() for kind, entry in feature_statistics(values).items()}
    return tuple(
        Number(
            name,
            low=found["min"][index],
            q01=found["q01"][index],
            mean=found["mean"][index],
            std=found["std"][index],
            q99=found["q99"][index],
            high=found["max"][index],
            counts=_histogram(values[:, index]),
        )
        for index, name in enumerate(names)
    )


def _histogram(values: NDArray[np.generic]) -> tuple[int, ...]:
    numbers = values.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    return tuple(np.histogram(numbers, bins=BINS, range=(low, high if high > low else low + 1))[0].tolist())


def spread_over(count: int, total: int) -> list[int]:
    """Return at most `count` of the numbers 0..total-1, evenly spread, ends included."""
    places = np.linspace(0, total - 1, min(count, total)).round()
    return sorted({int(place) for place in places})
