"""The numeric features of a whole dataset, read into memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.data.dataset_files import column_values
from rdvla.data.layout import ACTION, DEFAULT_FEATURES
from rdvla.data.metadata import DatasetMetadata
from rdvla.errors import DatasetError, nearest


def read_columns(metadata: DatasetMetadata) -> dict[str, NDArray[Any]]:
    """Read every numeric feature as (total rows, size), in the order of the dataset's rows.

    Raises:
        DatasetError: naming the data file that is missing, damaged, or does not hold the rows it should.
    """
    names = list(dict.fromkeys([*metadata.vectors, *DEFAULT_FEATURES]))
    if ACTION not in names:
        raise DatasetError(
            f"{metadata.files.root} has no feature {ACTION!r}.{nearest(ACTION, metadata.features)}"
        )
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for file, expected in _rows_by_file(metadata).items():
        for name, values in _read_file(metadata, file, names, expected).items():
            parts[name].append(values)
    try:
        columns = {name: np.concatenate(values) for name, values in parts.items()}
    except ValueError as error:
        raise DatasetError(
            f"{metadata.files.root / 'data'}: the files differ in the size of a feature"
        ) from error
    if columns["task_index"].min() < 0 or columns["task_index"].max() >= len(metadata.tasks):
        raise DatasetError(f"{metadata.files.root / 'data'}: a task_index is not in meta/tasks.parquet")
    return columns


def _rows_by_file(metadata: DatasetMetadata) -> dict[str, NDArray[np.int64]]:
    """Data file -> the rows it must hold."""
    start, stop = metadata.episodes["dataset_from_index"], metadata.episodes["dataset_to_index"]
    rows: dict[str, list[NDArray[np.int64]]] = {}
    for episode in range(metadata.total_episodes):
        rows.setdefault(metadata.data_file(episode), []).append(np.arange(start[episode], stop[episode]))
    return {file: np.concatenate(parts) for file, parts in rows.items()}


def _read_file(
    metadata: DatasetMetadata, file: str, names: list[str], expected: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    path = metadata.files.root / file
    table = metadata.files.table(file, names)
    columns = {name: column_values(table, name, path=path) for name in names}
    columns = {name: values.reshape(len(values), -1) for name, values in columns.items()}
    episode = np.searchsorted(metadata.episodes["dataset_to_index"], expected, side="right")
    rows_fit = np.array_equal(columns["index"][:, 0], expected)
    if not rows_fit or not np.array_equal(columns["episode_index"][:, 0], episode):
        raise DatasetError(
            f"{path} does not hold the rows that meta/episodes says: it is damaged or incomplete"
        )
    for name, values in columns.items():
        size = metadata.features[name]["shape"] if name in metadata.features else [1]
        if values.shape[1] != (size[0] if size else 1):
            raise DatasetError(f"{path}: {name!r} has {values.shape[1]} values a row, info.json says {size}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DatasetError(f"{path}: {name!r} has a value that is not finite")
    return columns
