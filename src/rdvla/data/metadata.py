"""What `meta/` says of a dataset: features, tasks, where every episode lies, statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.dataset_files import DatasetFiles, column_values, read_tasks
from rdvla.data.episode import NUMERIC_DTYPES, DatasetSpec
from rdvla.data.info import check_info
from rdvla.data.layout import (
    DEFAULT_FEATURES,
    IMAGE_IS_NEW,
    INFO_PATH,
    STATS_PATH,
    Feature,
    FilePosition,
    camera_name,
)
from rdvla.data.statistics import Statistics, from_json
from rdvla.errors import DatasetError

EPISODE_COLUMNS = (
    "episode_index",
    "length",
    "dataset_from_index",
    "dataset_to_index",
    "data/chunk_index",
    "data/file_index",
)


@dataclass(frozen=True)
class DatasetMetadata:
    """The checked content of a dataset's `meta/` folder.

    Attributes:
        files: access to the dataset's files.
        info: `meta/info.json`.
        tasks: instructions by task_index.
        episodes: one array an episode column, all of length E, sorted by episode_index.
        sources: what each episode says of its origin ({} in datasets written by others).
    """

    files: DatasetFiles
    info: dict[str, Any]
    tasks: list[str]
    episodes: dict[str, NDArray[Any]]
    sources: list[dict[str, Any]]

    @classmethod
    def read(cls, root: Path) -> DatasetMetadata:
        """Read and check `meta/`.

        Raises:
            DatasetError: naming the file that is missing, damaged, or of another version of the format.
        """
        files = DatasetFiles(root)
        info = files.json(INFO_PATH)
        check_info(info, root / INFO_PATH)
        episodes, sources = _read_episodes(files, info)
        return cls(files, info, read_tasks(files), episodes, sources)

    @property
    def fps(self) -> float:
        """Control frequency in Hz."""
        return float(self.info["fps"])

    @property
    def total_episodes(self) -> int:
        """Number of episodes, E."""
        return int(self.info["total_episodes"])

    @property
    def total_frames(self) -> int:
        """Number of rows over all episodes."""
        return int(self.info["total_frames"])

    @property
    def features(self) -> dict[str, Feature]:
        """Every feature of info.json."""
        features: dict[str, Feature] = self.info["features"]
        return features

    @property
    def vectors(self) -> list[str]:
        """Names of the numeric features of at most one dimension: the ones kept in memory."""
        return [n for n, f in self.features.items() if f["dtype"] in NUMERIC_DTYPES and len(f["shape"]) <= 1]

    @property
    def cameras(self) -> dict[str, str]:
        """Short camera name -> feature key, depth maps left out."""
        keys = [n for n, f in self.features.items() if f["dtype"] in ("video", "image") and not _is_depth(f)]
        return {camera_name(key): key for key in keys}

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """`meta/stats.json` as arrays."""
        path = self.files.root / STATS_PATH
        try:
            return {name: from_json(entry) for name, entry in self.files.json(STATS_PATH).items()}
        except (TypeError, ValueError, AttributeError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{path} holds something that is not a number: {error}") from error

    def data_file(self, episode: int) -> str:
        """Path of the episode's data file, relative to the dataset."""
        return self._position("data", episode).path(str(self.info["data_path"]))

    def video_file(self, episode: int, key: str) -> str:
        """Path of the video file that holds the episode's images of camera feature `key`."""
        return self._position(f"videos/{key}", episode).path(str(self.info["video_path"]), video_key=key)

    def last_position(self, prefix: str) -> FilePosition:
        """The last file of a kind ("data", "videos/<key>", "meta/episodes")."""
        names = (f"{prefix}/chunk_index", f"{prefix}/file_index")
        if any(name not in self.episodes for name in names):
            raise DatasetError(
                f"{self.files.root}: the episodes have no column {names[0]!r}, so nothing can be added"
            )
        return FilePosition(*max(zip(*(self.episodes[name].tolist() for name in names), strict=True)))

    def spec(self) -> DatasetSpec:
        """The specification that a writer needs to add episodes.

        Raises:
            DatasetError: the dataset has features that the writer cannot write.
        """
        own = {n: f for n, f in self.features.items() if n not in DEFAULT_FEATURES and n != IMAGE_IS_NEW}
        videos = {
            n: f for n, f in own.items() if f["dtype"] == "video" and n.startswith("observation.images.")
        }
        vectors = {n: f for n, f in own.items() if f["dtype"] in NUMERIC_DTYPES}
        sizes = {tuple(f["shape"][:2]) for f in videos.values()}
        if len(own) != len(videos) + len(vectors) or len(sizes) > 1 or IMAGE_IS_NEW not in self.features:
            raise DatasetError(
                f"{self.files.root} has features that cannot be added to; write a new dataset instead"
            )
        cameras = tuple(camera_name(name) for name in videos)
        size = sizes.pop() if sizes else (0, 0)
        return DatasetSpec(int(self.fps), vectors, cameras, size, self.info.get("robot_type"))

    def _position(self, prefix: str, episode: int) -> FilePosition:
        columns = (self.episodes[f"{prefix}/chunk_index"], self.episodes[f"{prefix}/file_index"])
        return FilePosition(int(columns[0][episode]), int(columns[1][episode]))


def _is_depth(feature: Feature) -> bool:
    facts = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return bool(facts.get("video.is_depth_map") or facts.get("is_depth_map"))


def _read_episodes(
    files: DatasetFiles, info: dict[str, Any]
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Columns of every `meta/episodes` file together, and the episodes' sources."""
    has_video = {name for name, f in info["features"].items() if f["dtype"] == "video"}
    wanted = [*EPISODE_COLUMNS]
    for key in sorted(has_video):
        wanted += [f"videos/{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp")]
    parts: dict[str, list[NDArray[Any]]] = {}
    sources: list[str | None] = []
    for name in files.episode_files():
        _collect(files.table(name), files.root / name, wanted, parts, sources)
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return _ordered(columns, sources, info, files.root / "meta/episodes")


def _collect(
    table: Any, path: Path, wanted: list[str], parts: dict[str, list[NDArray[Any]]], sources: list[str | None]
) -> None:
    names = table.column_names
    for name in wanted:
        if name not in names:
            raise DatasetError(f"{path} has no column {name!r}")
    kept = wanted + [n for n in ("meta/episodes/chunk_index", "meta/episodes/file_index") if n in names]
    for name in kept:
        values = column_values(table, name, path=path)
        if values.ndim != 1:
            raise DatasetError(f"{path}: column {name!r} holds lists")
        parts.setdefault(name, []).append(values)
    sources += table.column("source").to_pylist() if "source" in names else [None] * len(table)


def _ordered(
    columns: dict[str, NDArray[Any]], sources: list[str | None], info: dict[str, Any], folder: Path
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Sort by episode and check that the episodes tile the dataset's rows.

    Episodes beyond the total of info.json come from an append that was interrupted before its last step: not
    counted.
    """
    total, frames = info["total_episodes"], info["total_frames"]
    order = np.argsort(columns["episode_index"], kind="stable")
    order = order[columns["episode_index"][order] < total]
    columns = {name: values[order] for name, values in columns.items()}
    start, stop = columns["dataset_from_index"], columns["dataset_to_index"]
    tiles = len(order) == total and bool(
        (columns["episode_index"] == np.arange(total)).all()
        and start[0] == 0
        and (start[1:] == stop[:-1]).all()
        and stop[-1] == frames
        and (stop > start).all()
        and (stop - start == columns["length"]).all()
    )
    if not tiles:
        raise DatasetError(
            f"{folder}: the episodes do not match info.json ({total} episodes, {frames} frames): "
            "a file is missing or damaged"
        )
    try:
        parsed = [json.loads(sources[i] or "{}") for i in order]
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{folder}: the source of an episode is not valid JSON: {error}") from error
    return columns, parsed
