"""Open the files of a dataset folder; whatever is wrong with one becomes a DatasetError that names it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rdvla.data.layout import CHECKSUMS_PATH, EPISODES_PATH, INFO_PATH, TASKS_PATH
from rdvla.errors import DatasetError, RDVLAError, nearest
from rdvla.files import read_json

BLOCK = 1 << 20
END = 1 << 16  # bytes of either end of a file that its fingerprint covers


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


class DatasetFiles:
    """The files below a dataset's folder, each checked once when it is first opened.

    Datasets written by rdvla carry `meta/checksums.json`. Files below data/ and videos/ are never changed
    once written and always compared with it. LeRobot rewrites the small files in meta/ when it adds episodes;
    it then rewrites info.json too, so those are compared only while info.json is the one the checksums were
    made with.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise DatasetError(
                f"{root} is not a folder: give the dataset's folder (the one that holds meta/)"
            )
        self._checked: set[str] = set()
        self._checksums: dict[str, int] = {}
        if (root / CHECKSUMS_PATH).exists():
            self._checksums = self._read_checksums()

    def path(self, relative: str) -> Path:
        """The full path of a file that exists and is undamaged as far as checksums tell.

        Raises:
            DatasetError: naming the file.
        """
        path = self.root / relative
        if relative in self._checked:
            return path
        if not path.is_file():
            raise DatasetError(f"{path} is missing: the dataset is incomplete, make or download it again")
        expected = self._checksums.get(relative)
        if expected is not None and checksum(path) != expected:
            raise DatasetError(
                f"{path} is damaged (its checksum is not that in {CHECKSUMS_PATH}): make or get it again; "
                f"if it was changed on purpose, delete {self.root / CHECKSUMS_PATH}"
            )
        self._checked.add(relative)
        return path

    def json(self, relative: str) -> dict[str, Any]:
        """Read a JSON object."""
        path = self.path(relative)
        try:
            value = read_json(path)
        except (RDVLAError, RecursionError) as error:
            raise DatasetError(str(error)) from error
        if not isinstance(value, dict):
            raise DatasetError(f"{path} does not hold a JSON object")
        return value

    def table(self, relative: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a parquet file, or some of its columns.

        Raises:
            DatasetError: the file is missing or damaged, or a column is missing (its nearest neighbour is
                named).
        """
        path = self.path(relative)
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            names = file.schema_arrow.names
            for column in columns or ():
                if column not in names:
                    raise DatasetError(f"{path} has no column {column!r}.{nearest(column, names)}")
            return file.read(columns=list(columns) if columns is not None else None)
        except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} cannot be read as parquet: {error}") from error

    def episode_files(self) -> list[str]:
        """The files of `meta/episodes`, in order, relative to the dataset."""
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise DatasetError(f"{self.root / EPISODES_PATH.format(chunk_index=0, file_index=0)} is missing")
        return [path.relative_to(self.root).as_posix() for path in paths]

    def fingerprint(self) -> str:
        """Changes when the dataset's content does; from the names, sizes and both ends of its files."""
        digest = hashlib.sha256()
        names = {
            p.relative_to(self.root).as_posix() for s in (".json", ".parquet", ".mp4") for p in self._all(s)
        }
        for name in sorted(names - {CHECKSUMS_PATH}):
            path = self.root / name
            size = path.stat().st_size
            digest.update(f"{name} {size} ".encode())
            with path.open("rb") as file:  # parquet and MP4 keep their indexes at the ends
                digest.update(file.read(END))
                file.seek(max(0, size - END))
                digest.update(file.read())
        return digest.hexdigest()[:16]

    def _all(self, suffix: str) -> list[Path]:
        folders = [self.root / name for name in ("meta", "data", "videos")]
        return [path for folder in folders for path in folder.rglob(f"[!.]*{suffix}")]

    def _read_checksums(self) -> dict[str, int]:
        path = self.root / CHECKSUMS_PATH
        found = self.json(CHECKSUMS_PATH).get("crc32")
        if not isinstance(found, dict) or not all(isinstance(value, int) for value in found.values()):
            raise DatasetError(f"{path} is damaged: delete it to read the dataset without checking its files")
        info = self.root / INFO_PATH
        unchanged = info.is_file() and checksum(info) == found.get(INFO_PATH)
        return {
            name: value
            for name, value in found.items()
            if name != INFO_PATH and (unchanged or not name.startswith("meta/"))
        }


def column_values(table: pa.Table, name: str, *, path: Path) -> NDArray[Any]:
    """A numeric column as (rows,) or, for lists of equal length, (rows, size).

    Raises:
        DatasetError: missing values, lists of unequal length, or something that is not a number.
    """
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # what an empty column becomes
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    rows = len(column)
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    values = column.flatten() if is_list else column
    if column.null_count or values.null_count:
        raise DatasetError(f"{path}: column {name!r} has missing values")
    if not (
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_boolean(values.type)
    ):
        raise DatasetError(f"{path}: column {name!r} holds {kind}, not numbers")
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    if not is_list:
        return array
    lengths = np.asarray(pa.compute.list_value_length(column)) if rows else np.zeros(0, int)
    if len(set(lengths.tolist())) > 1:
        raise DatasetError(f"{path}: column {name!r} has lists of unequal length")
    return array.reshape(rows, -1) if rows else array.reshape(0, 0)


def read_tasks(files: DatasetFiles) -> list[str]:
    """The instructions in the order of their task_index.

    LeRobot keeps the instruction as the index of a pandas table, so its column is called "task" or, when the
    index has no name, "__index_level_0__"; the pandas metadata of the file says which.
    """
    path = files.root / TASKS_PATH
    table = files.table(TASKS_PATH)
    text = [
        field.name for field in table.schema if pa.types.is_string(field.type) or _is_large_text(field.type)
    ]
    wanted = [name for name in ("task", "__index_level_0__", *text) if name in text]
    if "task_index" not in table.column_names or not wanted:
        raise DatasetError(f"{path}: expected the columns 'task' and 'task_index', got {table.column_names}")
    numbers = column_values(table, "task_index", path=path).tolist()
    tasks = table.column(wanted[0]).to_pylist()
    if sorted(numbers) != list(range(len(numbers))) or any(task is None for task in tasks):
        raise DatasetError(f"{path}: task_index does not number the tasks from 0")
    return [task for _, task in sorted(zip(numbers, tasks, strict=True))]


def _is_large_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
