"""The files of `meta/` that the writer makes: tasks, statistics, episodes, checksums and, last, info.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdvla.data.batch import Batch, first_position, matrix
from rdvla.data.dataset_files import checksum
from rdvla.data.episode import NUMERIC_DTYPES, DatasetSpec
from rdvla.data.layout import (
    CHECKSUMS_PATH,
    CODEBASE_VERSION,
    DATA_FILE_MB,
    DATA_PATH,
    EPISODES_PATH,
    INFO_PATH,
    MAX_FILES_PER_CHUNK,
    STATS_PATH,
    TASKS_PATH,
    VIDEO_FILE_MB,
    VIDEO_PATH,
    FilePosition,
    image_key,
)
from rdvla.data.metadata import DatasetMetadata
from rdvla.data.statistics import QUANTILES, Statistics, as_json, combine, feature_statistics, from_json
from rdvla.data.video import video_facts
from rdvla.files import write_atomically, write_json


def write_tasks(root: Path, tasks: list[str]) -> None:
    """`meta/tasks.parquet`, with the metadata that makes pandas take the column "task" as index."""
    table = pa.table(
        {"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())}
    )
    described = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
            for name, kind, dtype in described
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()})
    with write_atomically(root / TASKS_PATH) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def write_statistics(root: Path, batch: Batch, spec: DatasetSpec, existing: DatasetMetadata | None) -> None:
    """`meta/stats.json`: numbers over every frame of the dataset, images joined from the episodes."""
    new = [batch.table(number) for number in range(len(batch.episodes))]
    old = []
    if existing:
        files = dict.fromkeys(existing.data_file(episode) for episode in range(existing.total_episodes))
        old = [existing.files.table(file) for file in files]
    statistics: dict[str, Statistics] = {}
    for name, feature in spec.all_features().items():
        if feature["dtype"] in NUMERIC_DTYPES:
            statistics[name] = feature_statistics(
                np.concatenate([matrix(t, name, root) for t in [*old, *new]])
            )
    for camera in spec.cameras:
        key = image_key(camera)
        parts = [episode.image_statistics[key] for episode in batch.episodes]
        statistics[key] = combine([*_episode_statistics(existing, key), *parts] if existing else parts)
    write_json(root / STATS_PATH, {name: as_json(entry) for name, entry in statistics.items()})


def _episode_statistics(existing: DatasetMetadata, key: str) -> list[Statistics]:
    """Statistics of one image feature for each episode of a dataset.

    From the episodes and not from stats.json, which an interrupted append may have written already.
    """
    kinds = ("min", "max", "mean", "std", "count", *QUANTILES)
    found: list[Statistics] = []
    for path in existing.files.episode_files():
        table = existing.files.table(path, ["episode_index", *(f"stats/{key}/{kind}" for kind in kinds)])
        rows = [row for row in table.to_pylist() if row["episode_index"] < existing.total_episodes]
        found += [from_json({kind: row[f"stats/{key}/{kind}"] for kind in kinds}) for row in rows]
    return found


def write_episodes(root: Path, rows: list[dict[str, Any]], existing: DatasetMetadata | None) -> None:
    """One file of `meta/episodes` with a row an episode."""
    position = first_position("meta/episodes", existing)
    place = {
        "meta/episodes/chunk_index": position.chunk_index,
        "meta/episodes/file_index": position.file_index,
    }
    table = pa.Table.from_pylist([row | place for row in rows])
    with write_atomically(root / position.path(EPISODES_PATH)) as temporary:
        pq.write_table(table, temporary, compression="snappy", write_page_checksum=True)


def write_info(root: Path, batch: Batch, spec: DatasetSpec, existing: DatasetMetadata | None) -> None:
    """The last step: `meta/info.json`, with the checksums of everything just before it."""
    episodes = batch.first_episode + len(batch.episodes)
    features = spec.all_features()
    for camera in spec.cameras:
        key = image_key(camera)
        features[key]["info"] = video_facts(root / FilePosition().path(VIDEO_PATH, video_key=key))
    info = {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": spec.robot_type,
        "total_episodes": episodes,
        "total_frames": batch.first_frame + sum(episode.length for episode in batch.episodes),
        "total_tasks": len(batch.tasks),
        "chunks_size": MAX_FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": spec.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if spec.cameras else None,
        "features": features,
    }
    info = {**(existing.info if existing else {}), **info}
    _write_with_checksums(root, info)


def _write_with_checksums(root: Path, info: dict[str, Any]) -> None:
    """Write the checksums of all files, the coming info.json included, and then info.json itself."""
    draft = root / "meta/.info.draft.json"
    write_json(draft, info)
    names = [
        p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")
    ]
    found = {name: checksum(root / name) for name in sorted(names) if name not in (INFO_PATH, CHECKSUMS_PATH)}
    found[INFO_PATH] = checksum(draft)
    write_json(root / CHECKSUMS_PATH, {"crc32": found})
    draft.replace(root / INFO_PATH)
