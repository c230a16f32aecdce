"""Open the files of a dataset folder; every fault becomes a DatasetError that names the file."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rdvla.data.formats.base import fingerprint_files
from rdvla.data.formats.lerobot.declared import check_expansion, check_rows, is_inside
from rdvla.data.remote.mirror import RemoteDataset
from rdvla.errors import DatasetError, nearest

INFO_PATH = "meta/info.json"
CHECKSUMS_PATH = "meta/checksums.json"  # ours: CRC-32 of every file; other readers ignore it
FOLDERS = ("meta", "data", "videos", "video", "images")
PICTURES = (".png", ".jpg", ".jpeg")  # wherever they lie, data files may name them
# Nothing is read from these, so they are no content.
UNREAD = (CHECKSUMS_PATH, "meta/stats.json", "meta/episodes_stats.jsonl")
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
        self.remote = RemoteDataset.of(root)  # where files that are not here come from; None: all are here
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
        if not is_inside(relative):
            raise DatasetError(f"{self.root} names a file outside of itself: {relative!r:.200}")
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

    def size(self, relative: str) -> int:
        """Return the bytes of a file that is there."""
        if self.remote is not None and relative in self.remote.files:
            return self.remote.files[relative].size
        return (self.root / relative).stat().st_size

    def is_remote(self, relative: str) -> bool:
        """Return whether a file is fetched when it is needed."""
        return self.remote is not None and relative in self.remote.files

    def exists(self, relative: str) -> bool:
        """Return whether a file is here, or can be fetched."""
        return self.is_remote(relative) or (self.root / relative).is_file()

    @contextmanager
    def leased(self, relative: str) -> Iterator[Path]:
        """Yield the path of a file as `path` does; one that was fetched stays while the body runs.

        Raises:
            DatasetError: as `path`, or the file cannot be fetched.
        """
        if self.remote is None or relative not in self.remote.files:
            yield self.path(relative)
            return
        with self.remote.leased(relative) as path:
            expected = self._checksums.get(relative)
            if relative not in self._checked and expected is not None and checksum(path) != expected:
                raise DatasetError(
                    f"{self.remote.address}/{relative} is damaged (its checksum is not that in "
                    f"{CHECKSUMS_PATH}): make the dataset again"
                )
            self._checked.add(relative)
            yield path

    @contextmanager
    def opened(self, relative: str) -> Iterator[tuple[Any, int]]:
        """Yield what PyAV opens, for a look into a file, and its bytes; nothing is fetched as a whole."""
        if self.remote is None or relative not in self.remote.files:
            yield str(self.root / relative), (self.root / relative).stat().st_size
            return
        with self.remote.opened(relative) as file:
            yield file, self.size(relative)

    def json(self, relative: str) -> dict[str, Any]:
        """Read a JSON object in UTF-8, UTF-16 or UTF-32; raise DatasetError if the file holds another."""
        path = self.path(relative)
        try:
            return _json_object(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise DatasetError(f"{path} does not hold one valid JSON object: {error}") from error

    def json_lines(self, relative: str) -> list[dict[str, Any]]:
        """Read a file with one JSON object in each line; raise DatasetError if a line holds another."""
        path = self.path(relative)
        try:
            content = path.read_bytes()
            lines = content.decode(json.detect_encoding(content)).splitlines()
            return [_json_object(line.encode()) for line in lines if line.strip()]
        except (OSError, ValueError, RecursionError) as error:
            raise DatasetError(f"{path} has a line that is no valid JSON object: {error}") from error

    def table(
        self, relative: str, columns: Sequence[str] | None = None, *, frames: int | None = None
    ) -> pa.Table:
        """Read a parquet file, or some of its columns.

        Args:
            relative: the file.
            columns: None: all.
            frames: that the metadata lists, which bound the rows of a data file; None: it does not say.

        Raises:
            DatasetError: the file is missing or damaged, lacks a column (the nearest name is suggested), or
                is far larger than it can be.
        """
        path = self.path(relative)
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            names = file.schema_arrow.names
            for column in columns or ():
                if column not in names:
                    raise DatasetError(f"{path} has no column {column!r}.{nearest(column, names)}")
            check_expansion(file, path, columns)
            if frames is not None:
                check_rows(file, path, frames)
            return file.read(columns=list(columns) if columns is not None else None)
        except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} cannot be read as parquet: {error}") from error

    def cell(self, relative: str, column: str, row: int) -> Any:
        """Read one value of a column, and no more of the file than that needs.

        Raises:
            DatasetError: as `table`.
            IndexError: the file has fewer rows.
        """
        path = self.path(relative)
        if column not in (names := self.column_names(relative)):
            raise DatasetError(f"{path} has no column {column!r}.{nearest(column, names)}")
        try:
            file = pq.ParquetFile(path)
            check_expansion(file, path, [column])
            stops = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
            group = int(np.searchsorted(stops, row, side="right"))
            if group == len(stops):
                raise IndexError(f"{path} has no row {row}")
            first = int(stops[group - 1]) if group else 0
            return file.read_row_group(group, columns=[column]).column(column)[row - first].as_py()
        except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} cannot be read as parquet: {error}") from error

    def episode_files(self) -> list[str]:
        """Return the files of `meta/episodes`, in order, relative to the dataset."""
        paths = sorted((self.root / "meta/episodes").glob("*/*.parquet"))
        if not paths:
            raise DatasetError(f"{self.root / 'meta/episodes/chunk-000/file-000.parquet'} is missing")
        return [path.relative_to(self.root).as_posix() for path in paths]

    def fingerprint(self) -> str:
        """Return a text that changes with any byte that reading may use, links followed."""
        suffixes = (".json", ".jsonl", ".parquet", ".mp4", *PICTURES)
        names = {name for folder in FOLDERS for name in self.listing(folder) if name.endswith(suffixes)}
        names |= {name for name in self.listing("") if name.lower().endswith(PICTURES)}
        elsewhere = {} if self.remote is None else {n: self.remote.content(n) for n in self.remote.files}
        return fingerprint_files(self.root, [n for n in names if n not in UNREAD], elsewhere=elsewhere)

    def listing(self, folder: str) -> list[str]:
        """Return all files below a folder ("": the dataset's own), in order, relative to the dataset.

        Those that are fetched when they are needed are listed too.

        Linked folders are followed; hidden files, such as macOS leaves behind, are left out.
        """
        found: list[str] = []
        seen: set[str] = set()  # real paths, as links may form a circle
        for path, folders, names in os.walk(self.root / folder, followlinks=True):
            real = os.path.realpath(path)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = [name for name in folders if not name.startswith(".")]
            relative = Path(path).relative_to(self.root).as_posix()
            found += [
                name if relative == "." else f"{relative}/{name}"
                for name in names
                if not name.startswith(".")
            ]
        start = f"{folder}/" if folder else ""
        far = [] if self.remote is None else [n for n in self.remote.files if n.startswith(start)]
        return sorted({*found, *far})

    def column_names(self, relative: str) -> list[str]:
        """Return the columns of a parquet file; raise DatasetError if it is missing or damaged."""
        path = self.path(relative)
        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path} cannot be read as parquet: {error}") from error

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


class RowError(DatasetError):
    """A row of a data file holds no values of the expected form.

    Attributes:
        row: its number in the file.
    """

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row


def column_values(table: pa.Table, name: str, *, path: Path) -> NDArray[Any]:
    """Return a numeric column as (n,), or as (n, size) if it holds lists of equal length.

    Lists of lists are flattened. Types that PyTorch has not become the next larger one it has.

    Raises:
        RowError: values of a row are missing, or are more or fewer than those of others.
        DatasetError: the column holds something else than numbers.
    """
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # what an empty column becomes
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    length, kind, values, size = len(column), column.type, column, 1
    while True:
        if values.null_count:
            row = int(np.flatnonzero(values.is_null())[0]) // size
            raise RowError(f"{path}: column {name!r} has missing values, first in row {row}", row)
        if not _is_list(values.type) or not len(values):
            break
        lengths = np.asarray(pc.list_value_length(values))
        if (lengths != lengths[0]).any():
            row = int(np.flatnonzero(lengths != lengths[0])[0]) // size
            raise RowError(f"{path}: column {name!r} has lists of unequal length, first in row {row}", row)
        values, size = values.flatten(), size * int(lengths[0])
    types = pa.types
    if not (types.is_integer(values.type) or types.is_floating(values.type) or types.is_boolean(values.type)):
        raise DatasetError(f"{path}: column {name!r} holds {kind}, not numbers")
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    array = array.astype(plain_dtype(array.dtype), copy=False)
    if not _is_list(kind):
        return array
    return array.reshape(length, -1) if length else array.reshape(0, 0)


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that values of a stored one are given in."""
    if dtype == np.float16:
        return np.dtype(np.float32)
    is_wide = dtype.kind == "u" and dtype.itemsize > 1
    return np.dtype(np.int64) if is_wide else dtype


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _json_object(content: bytes) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("it is something else")  # noqa: TRY004  # as json.loads does
    return value


def matrix(table: pa.Table, name: str, *, path: Path) -> NDArray[Any]:
    """Return a numeric column as (n, size); raise DatasetError as `column_values`."""
    values = column_values(table, name, path=path)
    return values.reshape(len(values), -1)
