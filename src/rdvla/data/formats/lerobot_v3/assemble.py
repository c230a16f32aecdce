"""Turn staged episodes into the files of a dataset.

New episodes always go into new files, as LeRobot does when it resumes a recording. `info.json` says how many
episodes count and is written last. So an interrupted append leaves the old dataset intact, and repeating it
completes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdvla.data.encoding import concatenate_videos, stream_header, video_facts
from rdvla.data.features import IMAGE_IS_NEW, NUMERIC_DTYPES, camera_key
from rdvla.data.formats.lerobot.files import CHECKSUMS_PATH, INFO_PATH, checksum, matrix
from rdvla.data.formats.lerobot.info import DEFAULT_FEATURES
from rdvla.data.formats.lerobot_v3.layout import (
    CODEBASE_VERSION,
    DATA_FILE_MB,
    DATA_PATH,
    EPISODES_PATH,
    MAX_FILES_PER_CHUNK,
    STATS_PATH,
    TASKS_PATH,
    VIDEO_FILE_MB,
    VIDEO_FILE_SECONDS,
    VIDEO_PATH,
    FilePosition,
)
from rdvla.data.formats.lerobot_v3.metadata import DatasetMetadata
from rdvla.data.formats.lerobot_v3.staging import FEATURES_FILE, NewEpisodes, first_new_file, stored_name
from rdvla.data.spec import DatasetSpec, plain_feature
from rdvla.data.statistics import QUANTILES, Statistics, as_json, combine, feature_statistics, from_json
from rdvla.files import write_atomically, write_json

MB = 1 << 20
Record = dict[str, Any]  # an episode's line in meta/episodes


def assemble(
    root: Path, folders: Sequence[Path], spec: DatasetSpec, *, existing: DatasetMetadata | None
) -> None:
    """Write the staged episodes below `root`, as a new dataset or behind the episodes of `existing`.

    Raises:
        DatasetError: naming the staged episode that is damaged.
    """
    new = NewEpisodes.read(folders, existing)
    records: list[Record] = [
        {
            "episode_index": new.first_episode + number,
            "tasks": [episode.task],
            "length": episode.length,
            "source": json.dumps(episode.source, sort_keys=True),
        }
        for number, episode in enumerate(new.episodes)
    ]
    # Files in meta/ change before info.json does: until both fit again, nothing is to be compared.
    (root / CHECKSUMS_PATH).unlink(missing_ok=True)
    _write_data(root, new, records, existing)
    for camera in spec.cameras:
        _write_videos(root, new, records, camera, spec.fps, existing)
    _write_tasks(root, new.tasks)
    _write_statistics(root, new, spec, existing)
    _write_episodes(root, records, existing)
    write_info(root, new, spec, existing)


def _groups(sizes: Sequence[float], limit: float, kinds: Sequence[bytes] | None = None) -> list[range]:
    """Split consecutive items into runs of one kind that add up to `limit` at most (or hold one item)."""
    starts, total = [0], 0.0
    for number, size in enumerate(sizes):
        another = kinds is not None and kinds[number] != kinds[starts[-1]]
        if number > starts[-1] and (another or total + size > limit):
            starts.append(number)
            total = 0.0
        total += size
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def _write_data(
    root: Path, new: NewEpisodes, records: list[Record], existing: DatasetMetadata | None
) -> None:
    position = first_new_file("data", existing)
    sizes = [(episode.folder / FEATURES_FILE).stat().st_size / MB for episode in new.episodes]
    for group in _groups(sizes, DATA_FILE_MB):
        with write_atomically(root / position.path(DATA_PATH)) as temporary:
            _write_data_file(temporary, new, group, records)
        for number in group:
            records[number] |= {
                "data/chunk_index": position.chunk_index,
                "data/file_index": position.file_index,
            }
        position = position.next()


def _write_data_file(path: Path, new: NewEpisodes, group: range, records: list[Record]) -> None:
    """Write one row group per episode, so a reader can fetch it alone; put its statistics into its record."""
    writer: pq.ParquetWriter | None = None
    try:
        for number in group:
            table = new.table(number)
            writer = writer or pq.ParquetWriter(
                path, table.schema, compression="snappy", write_page_checksum=True
            )
            writer.write_table(table)
            index = matrix(table, "index", path=path)[:, 0]
            records[number] |= {"dataset_from_index": int(index[0]), "dataset_to_index": int(index[-1]) + 1}
            for name in table.column_names:
                _add_statistics(records[number], name, feature_statistics(matrix(table, name, path=path)))
            for name, statistics in new.episodes[number].image_statistics.items():
                _add_statistics(records[number], name, statistics)
    finally:
        if writer is not None:
            writer.close()


def _add_statistics(record: Record, name: str, statistics: Statistics) -> None:
    record |= {f"stats/{name}/{kind}": value for kind, value in as_json(statistics).items()}


def _write_videos(
    root: Path,
    new: NewEpisodes,
    records: list[Record],
    camera: str,
    fps: int,
    existing: DatasetMetadata | None,
) -> None:
    key = camera_key(camera)
    position = first_new_file(f"videos/{key}", existing)
    # Each episode takes the larger of its shares of the two limits, bytes and seconds.
    shares = [
        max(e.video(camera).stat().st_size / (VIDEO_FILE_MB * MB), e.length / fps / VIDEO_FILE_SECONDS)
        for e in new.episodes
    ]
    # Episodes that another version of the encoder staged before an interruption get files of their own.
    headers = [stream_header(e.video(camera)) for e in new.episodes]
    for group in _groups(shares, 1.0, headers):
        videos = [(new.episodes[n].video(camera), new.episodes[n].length) for n in group]
        with write_atomically(root / position.path(VIDEO_PATH, video_key=key)) as temporary:
            concatenate_videos(videos, temporary, fps=fps)
        frame = 0
        for number in group:
            records[number] |= {
                f"videos/{key}/chunk_index": position.chunk_index,
                f"videos/{key}/file_index": position.file_index,
                f"videos/{key}/from_timestamp": frame / fps,
                f"videos/{key}/to_timestamp": (frame + new.episodes[number].length) / fps,
            }
            frame += new.episodes[number].length
        position = position.next()


def _write_tasks(root: Path, tasks: list[str]) -> None:
    """Write `meta/tasks.parquet`, with the metadata that makes pandas take the column "task" as index."""
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


def _all_features(spec: DatasetSpec, existing: DatasetMetadata | None) -> dict[str, dict[str, Any]]:
    """Return every feature as `info.json` lists them, cameras and default features included."""
    axes = ["height", "width", "channels"]
    drawn = {"rendering": spec.rendering} if spec.rendering else {}
    return {
        **{
            camera_key(camera): {"dtype": "video", "shape": [*size, 3], "names": axes, **drawn}
            for camera, size in spec.cameras.items()
        },
        **{stored_name(name, existing): plain_feature(feature) for name, feature in spec.features.items()},
        stored_name(IMAGE_IS_NEW, existing): {"dtype": "bool", "shape": [1], "names": None},
        **{name: dict(feature) for name, feature in DEFAULT_FEATURES.items()},
    }


def _write_statistics(
    root: Path, new: NewEpisodes, spec: DatasetSpec, existing: DatasetMetadata | None
) -> None:
    """Write `meta/stats.json`: numbers over every frame of the dataset, images combined from the episodes."""
    tables = [new.table(number) for number in range(len(new))]
    if existing:
        files = dict.fromkeys(existing.data_file(episode) for episode in range(existing.total_episodes))
        tables = [*(existing.files.table(file) for file in files), *tables]
    statistics: dict[str, Statistics] = {}
    for name, feature in _all_features(spec, existing).items():
        if feature["dtype"] in NUMERIC_DTYPES:
            values = np.concatenate([matrix(table, name, path=root) for table in tables])
            statistics[name] = feature_statistics(values)
    for camera in spec.cameras:
        key = camera_key(camera)
        entries = [episode.image_statistics[key] for episode in new.episodes]
        statistics[key] = combine([*(_episode_statistics(existing, key) if existing else []), *entries])
    write_json(root / STATS_PATH, {name: as_json(entry) for name, entry in statistics.items()})


def _episode_statistics(existing: DatasetMetadata, key: str) -> list[Statistics]:
    """Return the statistics of one camera feature for each episode of a dataset.

    They come from the episodes and not from stats.json, which an interrupted append may have written already.
    """
    kinds = ("min", "max", "mean", "std", "count", *QUANTILES)
    found: list[Statistics] = []
    for path in existing.files.episode_files():
        table = existing.files.table(path, ["episode_index", *(f"stats/{key}/{kind}" for kind in kinds)])
        records = [r for r in table.to_pylist() if r["episode_index"] < existing.total_episodes]
        found += [from_json({kind: record[f"stats/{key}/{kind}"] for kind in kinds}) for record in records]
    return found


def _write_episodes(root: Path, records: list[Record], existing: DatasetMetadata | None) -> None:
    """Write one file of `meta/episodes`."""
    position = first_new_file("meta/episodes", existing)
    file = {
        "meta/episodes/chunk_index": position.chunk_index,
        "meta/episodes/file_index": position.file_index,
    }
    table = pa.Table.from_pylist([record | file for record in records])
    with write_atomically(root / position.path(EPISODES_PATH)) as temporary:
        pq.write_table(table, temporary, compression="snappy", write_page_checksum=True)


def write_info(root: Path, new: NewEpisodes, spec: DatasetSpec, existing: DatasetMetadata | None) -> None:
    """Write `meta/info.json`, the last step, and the checksums of all files just before it."""
    episodes = new.first_episode + len(new)
    features = _all_features(spec, existing)
    chosen = {} if spec.crf is None else {"video.crf": spec.crf}
    for camera in spec.cameras:
        key = camera_key(camera)
        facts = video_facts(root / FilePosition().path(VIDEO_PATH, video_key=key))
        features[key]["info"] = facts | chosen
    info = {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": spec.robot_type,
        "total_episodes": episodes,
        "total_frames": new.first_frame + sum(episode.length for episode in new.episodes),
        "total_tasks": len(new.tasks),
        "chunks_size": MAX_FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": spec.fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if spec.cameras else None,
        "features": features,
    }
    _write_with_checksums(root, {**(existing.info if existing else {}), **info})


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
