"""Read the numbers of a parquet file, also if values are missing or lists differ in length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


def read_columns(path: Path) -> tuple[dict[str, NDArray[Any]], list[tuple[str, str]]]:
    """Return the numeric columns of a file, and what is wrong with others.

    Returns:
        name -> (n, size), values that are missing are NaN; and pairs of a column and what is wrong with it.

    Raises:
        pyarrow.ArrowException, OSError: the file cannot be read.
    """
    file = pq.ParquetFile(path)
    numeric = [field.name for field in file.schema_arrow if _is_number(_inner(field.type)[0])]
    table = file.read(columns=numeric)  # pictures in data files take far more memory than numbers
    columns: dict[str, NDArray[Any]] = {}
    problems: list[tuple[str, str]] = []
    for name in table.column_names:
        column = table.column(name)
        values = _values(column, _inner(column.type)[1])
        if values is None:
            problems.append((name, "its lists differ in length from frame to frame"))
        else:
            columns[name] = values
    return columns, problems


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _inner(kind: pa.DataType) -> tuple[pa.DataType, int]:
    """Return the type of the values in nested lists, and the number of levels."""
    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return kind, depth


def _values(column: pa.ChunkedArray, depth: int) -> NDArray[Any] | None:
    """Return a column as (n, size); None if its lists differ in length."""
    length = len(column)
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    for _ in range(depth):
        if array.null_count:  # a frame without a list: read slowly, missing values become NaN
            return _padded(column)
        array = array.flatten()
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if values.dtype == object:  # booleans with missing ones
        values = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if not length:
        return np.zeros((0, 0))
    if (
        depth
        and len(set(np.asarray(pa.compute.list_value_length(pa.concat_arrays(column.chunks))).tolist())) > 1
    ):
        return None
    return values.reshape(length, -1) if len(values) % length == 0 else None


def _padded(column: pa.ChunkedArray) -> NDArray[Any] | None:
    lines = [
        None if value is None else np.asarray(value, dtype=np.float64).reshape(-1)
        for value in column.to_pylist()
    ]
    sizes = {len(line) for line in lines if line is not None}
    if len(sizes) != 1:
        return None
    missing = np.full(sizes.pop(), np.nan)
    return np.stack([missing if line is None else line for line in lines])
