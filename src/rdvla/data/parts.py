"""One or several datasets with the same features, read as one: rows, episodes and tasks numbered through."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.columns import read_columns
from rdvla.data.layout import IMAGE_PREFIX, KEYPOINTS, image_size
from rdvla.data.metadata import DatasetMetadata
from rdvla.data.statistics import QUANTILES, Statistics, combine, feature_statistics
from rdvla.errors import ConfigError, DatasetError, nearest

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Part:
    """One dataset among those that are read together.

    Attributes:
        metadata: what its `meta/` folder says.
        cameras: name -> feature key of every camera that it has, under the names given to them, in its order.
        first_row: number of its first row among all rows.
        first_episode: number of its first episode among all episodes.
    """

    metadata: DatasetMetadata
    cameras: dict[str, str]
    first_row: int
    first_episode: int

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.metadata.files.root

    def image_size(self, camera: str) -> tuple[int, int]:
        """(height, width) of a camera's images as they were recorded."""
        return image_size(self.metadata.features[self.cameras[camera]])


def open_parts(
    roots: Sequence[Path], *, cameras: Sequence[str] | None, camera_names: Mapping[str, str]
) -> tuple[Part, ...]:
    """Read what the datasets say of themselves and check that they can be read as one.

    Args:
        roots: folders, at least one.
        cameras: names of the cameras that will be read; None: all of the first dataset.
        camera_names: a dataset's name of a camera -> the name that it goes by here; cameras that a dataset
            does not have are passed over, the others keep their names.

    Raises:
        DatasetError: a damaged dataset, or one that differs from the first in a feature (named).
        ConfigError: a dataset lacks one of `cameras`, or two of its cameras go by one name.
    """
    parts: list[Part] = []
    row = episode = 0
    for root in roots:
        metadata = DatasetMetadata.read(root)
        parts.append(Part(metadata, _named_cameras(metadata, camera_names), row, episode))
        row, episode = row + metadata.total_frames, episode + metadata.total_episodes
    wanted = (
        list(parts[0].cameras) if cameras is None else [name.removeprefix(IMAGE_PREFIX) for name in cameras]
    )
    for part in parts:
        _check_cameras(part, wanted)
        _check_alike(parts[0], part, wanted)
    return tuple(parts)


def split_by_part(parts: Sequence[Part], rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield, for each part with some of the (B,) rows, its number and their places in `rows`."""
    owner = np.searchsorted([part.first_row for part in parts], rows, side="right") - 1
    for number in np.unique(owner).tolist():
        yield number, np.flatnonzero(owner == number)


def join_tasks(parts: Sequence[Part]) -> list[str]:
    """The instructions of all parts, each once."""
    return list(dict.fromkeys(task for part in parts for task in part.metadata.tasks))


def join_columns(parts: Sequence[Part], tasks: Sequence[str]) -> Columns:
    """Every numeric feature as (rows of all parts, size), with numbers that go through the parts."""
    number = {task: place for place, task in enumerate(tasks)}
    read: list[Columns] = []
    for part in parts:
        columns = read_columns(part.metadata)
        own = np.array([number[task] for task in part.metadata.tasks], dtype=np.int64)
        columns["index"] = columns["index"] + part.first_row
        columns["episode_index"] = columns["episode_index"] + part.first_episode
        columns["task_index"] = own[columns["task_index"]]
        read.append(columns)
    return {name: np.concatenate([columns[name] for columns in read]) for name in read[0]}


def join_statistics(parts: Sequence[Part], columns: Mapping[str, NDArray[Any]]) -> dict[str, Statistics]:
    """Statistics over all parts.

    Those of one dataset are what its `meta/stats.json` says. What that file lacks (converted datasets have no
    quantiles), and the numbers of several datasets, are computed from the values themselves. Images of
    several datasets get LeRobot's join of what the files say.
    """
    found = [part.metadata.statistics for part in parts]
    joined = dict(found[0]) if len(parts) == 1 else _image_statistics(parts, found)
    for name, values in columns.items():
        if len(parts) > 1 or not joined.get(name, {}).keys() >= {"mean", "std", *QUANTILES}:
            joined[name] = feature_statistics(values)
    return joined


def fingerprint(parts: Sequence[Part]) -> str:
    """Changes when the content of a part does, or the order of the parts."""
    own = [part.metadata.files.fingerprint() for part in parts]
    return own[0] if len(own) == 1 else hashlib.sha256("\n".join(own).encode()).hexdigest()[:16]


def _named_cameras(metadata: DatasetMetadata, names: Mapping[str, str]) -> dict[str, str]:
    short = {old.removeprefix(IMAGE_PREFIX): new for old, new in names.items()}
    named = {short.get(name, name): key for name, key in metadata.cameras.items()}
    if len(named) < len(metadata.cameras):
        raise ConfigError(
            f"two cameras of {metadata.files.root} would go by one name: it has {list(metadata.cameras)}, "
            f"and the new names are {short}"
        )
    return named


def _check_cameras(part: Part, wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in part.cameras:
            raise ConfigError(
                f"{part.root} has no camera {name!r}, only {list(part.cameras)}."
                f"{nearest(name, part.cameras)} Give its cameras the names that the policy uses "
                f"(data.cameras), for example '{{{next(iter(part.cameras), 'image')}: {name}}}'."
            )


def _check_alike(first: Part, other: Part, cameras: Sequence[str]) -> None:
    here, there = _facts(first, cameras), _facts(other, cameras)
    for name in dict.fromkeys((*here, *there)):
        if here.get(name) != there.get(name):
            raise DatasetError(
                f"{other.root} cannot be read together with {first.root}: {name} is "
                f"{there.get(name, 'missing')} in the former and {here.get(name, 'missing')} in the latter"
            )


def _facts(part: Part, cameras: Sequence[str]) -> dict[str, Any]:
    """What datasets that are read together must agree in."""
    metadata = part.metadata
    facts: dict[str, Any] = {"fps": metadata.fps}
    facts |= {f"the shape of {name!r}": metadata.features[name]["shape"] for name in metadata.vectors}
    for name in cameras:
        facts[f"the image size of {name!r}"] = part.image_size(name)
    if KEYPOINTS in metadata.features:
        facts[f"the cameras' order, which {KEYPOINTS!r} follows,"] = list(part.cameras)
    return facts


def _image_statistics(
    parts: Sequence[Part], found: Sequence[Mapping[str, Statistics]]
) -> dict[str, Statistics]:
    joined = {}
    for camera, key in parts[0].cameras.items():
        entries = [own.get(part.cameras.get(camera, "")) for part, own in zip(parts, found, strict=True)]
        if all(entry is not None and "count" in entry for entry in entries):
            joined[key] = combine([entry for entry in entries if entry is not None])
    return joined
