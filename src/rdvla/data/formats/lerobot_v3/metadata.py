"""What `meta/` says of a dataset that episodes are added to: it must be whole and as rdvla writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rdvla.data.features import (
    CAMERA_PREFIX,
    IMAGE_IS_NEW,
    NUMERIC_DTYPES,
    Feature,
    camera_name,
    current_name,
    recorded_name,
)
from rdvla.data.formats.lerobot.files import INFO_PATH, DatasetFiles, column_values
from rdvla.data.formats.lerobot.info import DEFAULT_FEATURES, image_size
from rdvla.data.formats.lerobot_v3.layout import (
    TASKS_PATH,
    FilePosition,
    check_info,
)
from rdvla.data.spec import DatasetSpec
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
        episodes: one array per episode column, all of length E, sorted by episode_index.
        sources: what each episode says of its origin, {} in datasets written by others.
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
        """Number of frames of all episodes, N."""
        return int(self.info["total_frames"])

    @property
    def declared(self) -> dict[str, Feature]:
        """Every feature of info.json."""
        features: dict[str, Feature] = self.info["features"]
        return features

    def stored_name(self, name: str) -> str:
        """Return the name that a feature has in the files: a former one in older datasets."""
        return recorded_name(name, self.declared)

    def _present_name(self, stored: str) -> str:
        name = current_name(stored)
        return stored if name in self.declared else name

    def data_file(self, episode: int) -> str:
        """Return the path of the episode's data file, relative to the dataset."""
        return self._position("data", episode).path(str(self.info["data_path"]))

    def last_position(self, prefix: str) -> FilePosition:
        """Return the position of the last file of a kind ("data", "videos/<key>", "meta/episodes").

        Raises:
            DatasetError: the episodes do not say where their files of this kind are.
        """
        names = (f"{prefix}/chunk_index", f"{prefix}/file_index")
        if any(name not in self.episodes for name in names):
            raise DatasetError(
                f"{self.files.root}: the episodes have no column {names[0]!r}, so nothing can be added"
            )
        return FilePosition(*max(zip(*(self.episodes[name].tolist() for name in names), strict=True)))

    def spec(self) -> DatasetSpec:
        """Return the specification that a writer needs to add episodes.

        Raises:
            DatasetError: the dataset has features that the writer cannot write.
        """
        present = {self._present_name(name): feature for name, feature in self.declared.items()}
        own = {n: f for n, f in present.items() if n not in DEFAULT_FEATURES and n != IMAGE_IS_NEW}
        videos = {n: f for n, f in own.items() if f["dtype"] == "video" and n.startswith(CAMERA_PREFIX)}
        numeric = {n: f for n, f in own.items() if f["dtype"] in NUMERIC_DTYPES}
        if len(own) != len(videos) + len(numeric) or IMAGE_IS_NEW not in present:
            raise DatasetError(
                f"{self.files.root} has features that cannot be added to; write a new dataset instead"
            )
        qualities = {(feature.get("info") or {}).get("video.crf") for feature in videos.values()}
        return DatasetSpec(
            int(self.fps),
            numeric,
            {camera_name(name): image_size(feature) for name, feature in videos.items()},
            self.info.get("robot_type"),
            next((feature.get("rendering") for feature in videos.values()), None),
            qualities.pop() if len(qualities) == 1 else None,
        )

    def _position(self, prefix: str, episode: int) -> FilePosition:
        columns = (self.episodes[f"{prefix}/chunk_index"], self.episodes[f"{prefix}/file_index"])
        return FilePosition(int(columns[0][episode]), int(columns[1][episode]))


def read_tasks(files: DatasetFiles) -> list[str]:
    """Return the instructions in the order of their task_index.

    LeRobot keeps the instruction as the index of a pandas table. Its column is called "task", or
    "__index_level_0__" if the index has no name; the pandas metadata of the file says which.
    """
    path = files.root / TASKS_PATH
    table = files.table(TASKS_PATH)
    text = [field.name for field in table.schema if _is_text(field.type)]
    wanted = [name for name in ("task", "__index_level_0__", *text) if name in text]
    if "task_index" not in table.column_names or not wanted:
        raise DatasetError(f"{path}: expected the columns 'task' and 'task_index', got {table.column_names}")
    numbers = column_values(table, "task_index", path=path).tolist()
    tasks = table.column(wanted[0]).to_pylist()
    if sorted(numbers) != list(range(len(numbers))) or any(task is None for task in tasks):
        raise DatasetError(f"{path}: task_index does not number the tasks from 0")
    return [task for _, task in sorted(zip(numbers, tasks, strict=True))]


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


@dataclass
class _EpisodeTable:
    """The files of `meta/episodes`, collected one after another."""

    wanted: list[str]  # columns that every file must have
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    sources: list[str | None] = field(default_factory=list)

    def add(self, table: pa.Table, path: Path) -> None:
        names = table.column_names
        for name in self.wanted:
            if name not in names:
                raise DatasetError(f"{path} has no column {name!r}")
        own = [n for n in ("meta/episodes/chunk_index", "meta/episodes/file_index") if n in names]
        for name in [*self.wanted, *own]:
            values = column_values(table, name, path=path)
            if values.ndim != 1:
                raise DatasetError(f"{path}: column {name!r} holds lists")
            self.columns.setdefault(name, []).append(values)
        self.sources += table.column("source").to_pylist() if "source" in names else [None] * len(table)


def _read_episodes(
    files: DatasetFiles, info: dict[str, Any]
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Return the columns of all `meta/episodes` files, sorted by episode, and the episodes' sources.

    Episodes beyond the total of info.json were added by an append that was interrupted before its last step;
    they do not count.
    """
    wanted = [*EPISODE_COLUMNS]
    for key in sorted(name for name, f in info["features"].items() if f["dtype"] == "video"):
        wanted += [f"videos/{key}/{fact}" for fact in ("chunk_index", "file_index", "from_timestamp")]
    table = _EpisodeTable(wanted)
    for name in files.episode_files():
        table.add(files.table(name), files.root / name)
    folder = files.root / "meta/episodes"
    columns = {name: np.concatenate(values) for name, values in table.columns.items()}
    order = np.argsort(columns["episode_index"], kind="stable")
    order = order[columns["episode_index"][order] < info["total_episodes"]]
    columns = {name: values[order] for name, values in columns.items()}
    _check_episodes(columns, info, folder)
    try:
        return columns, [json.loads(table.sources[i] or "{}") for i in order]
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{folder}: the source of an episode is not valid JSON: {error}") from error


def _check_episodes(columns: dict[str, NDArray[Any]], info: dict[str, Any], folder: Path) -> None:
    """Check that the episodes cover the dataset's frames without gaps."""
    total, frames = info["total_episodes"], info["total_frames"]
    start, stop = columns["dataset_from_index"], columns["dataset_to_index"]
    fits = len(start) == total and bool(
        (columns["episode_index"] == np.arange(total)).all()
        and start[0] == 0
        and (start[1:] == stop[:-1]).all()
        and stop[-1] == frames
        and (stop > start).all()
        and (stop - start == columns["length"]).all()
    )
    if not fits:
        raise DatasetError(
            f"{folder}: the episodes do not match info.json ({total} episodes, {frames} frames): "
            "a file is missing or damaged"
        )
