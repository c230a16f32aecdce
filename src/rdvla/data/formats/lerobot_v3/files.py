"""Open the files of a dataset folder; every fault becomes a DatasetError that names the file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rdvla.data.formats.base import fingerprint_files
from rdvla.data.formats.lerobot_v3.layout import CHECKSUMS_PATH, EPISODES_PATH, INFO_PATH
from rdvla.errors import DatasetError, RDVLAError, nearest
from rdvla.files import read_json

BLOCK = 1 << 20


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


class DatasetFiles:
    """The files below a dataset's folder, each checked once when it is first opened.

    Datasets written by rdvla carry `meta/checksums.json`. Files below data/ and videos/ never change once
    written, so they are always compared with it. LeRobot rewrites the small files in meta/ and info.json when
    it adds episodes. Those are therefore compared only while info.json has the recorded checksum.
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
        """Return the full path of a file, after comparing the file with its checksum.

        Raises:
            DatasetError: the file is missing or damaged; it is named.
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
        """Read a JSON object; raise DatasetError if the file holds anything else."""
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
            DatasetError: the file is missing or damaged, or lacks a column (the nearest name is suggested).
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
        """Return the files of `meta/episodes`, in order, relative to the dataset."""
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise DatasetError(f"{self.root / EPISODES_PATH.format(chunk_index=0, file_index=0)} is missing")
        return [path.relative_to(self.root).as_posix() for path in paths]

    def fingerprint(self) -> str:
        """Return a text that changes with the dataset's content."""
        suffixes = (".json", ".parquet", ".mp4")
        names = {path.relative_to(self.root).as_posix() for s in suffixes for path in self._all(s)}
        return fingerprint_files(self.root, names - {CHECKSUMS_PATH})

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
    """Return a numeric column as (n,), or as (n, size) if it holds lists of equal length.

    Raises:
        DatasetError: values are missing or not numbers, or the lists differ in length.
    """
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # what an empty column becomes
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    length = len(column)
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
    lengths = np.asarray(pa.compute.list_value_length(column)) if length else np.zeros(0, int)
    if len(set(lengths.tolist())) > 1:
        raise DatasetError(f"{path}: column {name!r} has lists of unequal length")
    return array.reshape(length, -1) if length else array.reshape(0, 0)


def matrix(table: pa.Table, name: str, *, path: Path) -> NDArray[Any]:
    """Return a numeric column as (n, size); raise DatasetError as `column_values`."""
    values = column_values(table, name, path=path)
    return values.reshape(len(values), -1)
