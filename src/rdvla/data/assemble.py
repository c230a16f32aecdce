"""Turn staged episodes into the files of a dataset.

New episodes always go into new files (as LeRobot does when it resumes a recording), and `info.json`, which
says how many episodes count, is written last. So an interrupted append leaves the old dataset, and doing it
again completes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rdvla.data.batch import Batch, first_position, matrix, place
from rdvla.data.dataset_files import column_values
from rdvla.data.episode import DatasetSpec
from rdvla.data.layout import (
    CHECKSUMS_PATH,
    DATA_FILE_MB,
    DATA_PATH,
    VIDEO_FILE_MB,
    VIDEO_FILE_SECONDS,
    VIDEO_PATH,
    image_key,
)
from rdvla.data.meta_writer import write_episodes, write_info, write_statistics, write_tasks
from rdvla.data.metadata import DatasetMetadata
from rdvla.data.staging import FRAMES_FILE, StagedEpisode
from rdvla.data.statistics import Statistics, as_json, feature_statistics
from rdvla.data.video import concatenate_videos, encoding
from rdvla.files import write_atomically

MB = 1 << 20
Row = dict[str, Any]


def assemble(
    root: Path, folders: Sequence[Path], spec: DatasetSpec, *, existing: DatasetMetadata | None
) -> None:
    """Write the staged episodes below `root`, as a new dataset or behind the episodes of `existing`.

    Raises:
        DatasetError: naming the staged episode that is damaged.
    """
    batch = place([StagedEpisode.read(folder) for folder in folders], existing)
    rows: list[Row] = [
        {
            "episode_index": batch.first_episode + number,
            "tasks": [episode.task],
            "length": episode.length,
            "source": json.dumps(episode.source, sort_keys=True),
        }
        for number, episode in enumerate(batch.episodes)
    ]
    # Files in meta/ change before info.json does: until both fit again, nothing is to be compared.
    (root / CHECKSUMS_PATH).unlink(missing_ok=True)
    _write_data(root, batch, rows, existing)
    for camera in spec.cameras:
        _write_videos(root, batch, rows, camera, spec.fps, existing)
    write_tasks(root, batch.tasks)
    write_statistics(root, batch, spec, existing)
    write_episodes(root, rows, existing)
    write_info(root, batch, spec, existing)


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


def _write_data(root: Path, batch: Batch, rows: list[Row], existing: DatasetMetadata | None) -> None:
    position = first_position("data", existing)
    sizes = [(episode.folder / FRAMES_FILE).stat().st_size / MB for episode in batch.episodes]
    for group in _groups(sizes, DATA_FILE_MB):
        with write_atomically(root / position.path(DATA_PATH)) as temporary:
            _write_row_groups(temporary, batch, group, rows)
        for number in group:
            rows[number] |= {"data/chunk_index": position.chunk_index, "data/file_index": position.file_index}
        position = position.next()


def _write_row_groups(path: Path, batch: Batch, group: range, rows: list[Row]) -> None:
    """One row group an episode, so that a reader can fetch one alone; its statistics go into its row."""
    writer: pq.ParquetWriter | None = None
    try:
        for number in group:
            table = batch.table(number)
            writer = writer or pq.ParquetWriter(
                path, table.schema, compression="snappy", write_page_checksum=True
            )
            writer.write_table(table)
            index = column_values(table, "index", path=path)
            rows[number] |= {"dataset_from_index": int(index[0]), "dataset_to_index": int(index[-1]) + 1}
            for name in table.column_names:
                _add_statistics(rows[number], name, feature_statistics(matrix(table, name, path)))
            for name, statistics in batch.episodes[number].image_statistics.items():
                _add_statistics(rows[number], name, statistics)
    finally:
        if writer is not None:
            writer.close()


def _add_statistics(row: Row, name: str, statistics: Statistics) -> None:
    row |= {f"stats/{name}/{kind}": value for kind, value in as_json(statistics).items()}


def _write_videos(
    root: Path, batch: Batch, rows: list[Row], camera: str, fps: int, existing: DatasetMetadata | None
) -> None:
    key = image_key(camera)
    position = first_position(f"videos/{key}", existing)
    # Each episode takes the larger of its shares of the two limits, bytes and seconds.
    shares = [
        max(e.video(camera).stat().st_size / (VIDEO_FILE_MB * MB), e.length / fps / VIDEO_FILE_SECONDS)
        for e in batch.episodes
    ]
    # Episodes that another version of the encoder staged before an interruption get files of their own.
    kinds = [encoding(e.video(camera)) for e in batch.episodes]
    for group in _groups(shares, 1.0, kinds):
        parts = [(batch.episodes[n].video(camera), batch.episodes[n].length) for n in group]
        with write_atomically(root / position.path(VIDEO_PATH, video_key=key)) as temporary:
            concatenate_videos(parts, temporary, fps=fps)
        frame = 0
        for number in group:
            rows[number] |= {
                f"videos/{key}/chunk_index": position.chunk_index,
                f"videos/{key}/file_index": position.file_index,
                f"videos/{key}/from_timestamp": frame / fps,
                f"videos/{key}/to_timestamp": (frame + batch.episodes[number].length) / fps,
            }
            frame += batch.episodes[number].length
        position = position.next()
