"""The local folder of a dataset that lies elsewhere: its numbers, and a list of the files with images.

A mirror never changes: its name covers what the store said of every file. So a dataset that changes gets
another mirror, and runs that have the old one open are told if they need a file that is gone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from rdvla.data.remote.shard_cache import Shard, ShardCache
from rdvla.data.remote.source import RemoteFile, RemoteFolder
from rdvla.errors import DatasetError, RDVLAError
from rdvla.files import read_object, write_atomically, write_json

MARKER = ".remote.json"  # hidden, as it is none of the dataset's files
HEADERS = ".headers.json"
NUMBERS = (".json", ".jsonl", ".parquet")
VIDEOS = (".mp4",)
UNUSED = ("meta/stats.json", "meta/episodes_stats.jsonl")  # nothing reads them
GB = 1_000_000_000
USUAL_GB = 20.0
SMALL_GB = 4.0  # numbers of up to this size are copied whatever the bound of images is


@dataclass(frozen=True)
class Streaming:
    """Where a dataset's files are kept on this machine, and how many.

    Attributes:
        folder: of mirrors and fetched files; datasets and runs may share it.
        limit: bytes of files with images at most.
    """

    folder: Path
    limit: int

    @classmethod
    def of(cls, folder: str, gigabytes: float | None) -> Streaming:
        """Fill in what is left open: the user's cache folder, and `USUAL_GB`."""
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rdvla" / "streamed"
        limit = USUAL_GB if gigabytes is None else gigabytes
        return cls(Path(folder).expanduser() if folder else usual, int(limit * GB))


class RemoteDataset:
    """The files of a mirror that lie elsewhere. It can be pickled.

    Attributes:
        address: of the dataset.
        files: those that are fetched when they are needed, by name.
        cache: holds those that were fetched.
    """

    def __init__(self, mirror: Path) -> None:
        """Read a mirror's list.

        Raises:
            RDVLAError: the list is damaged.
        """
        content = read_object(mirror / MARKER)
        self._mirror = mirror
        self.address = str(content["address"])
        self.files = {name: RemoteFile(**entry) for name, entry in content["files"].items()}
        self.cache = ShardCache(mirror.parent.parent / "files")

    @staticmethod
    def of(folder: Path) -> RemoteDataset | None:
        """Return what a folder is the mirror of; None: it is a dataset of its own."""
        return RemoteDataset(folder) if (folder / MARKER).is_file() else None

    def __getstate__(self) -> dict[str, Any]:
        return {"mirror": self._mirror}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @cached_property
    def _source(self) -> RemoteFolder:
        return RemoteFolder(self.address)

    @contextmanager
    def leased(self, name: str) -> Iterator[Path]:
        """Yield the local path of a file, which stays there while the body runs.

        Raises:
            DatasetError: it cannot be fetched, has changed, or is larger than the cache may be.
        """
        with self.cache.lease(self.shard(name), lambda path: self._fetch(name, path)) as path:
            yield path

    def prefetch(self, name: str, *, spare: frozenset[str]) -> bool:
        """Fetch a file if there is room next to shards with keys in `spare`; return whether it is there."""
        return self.cache.prefetch(self.shard(name), lambda path: self._fetch(name, path), spare=spare)

    def shard(self, name: str) -> Shard:
        """Return how the cache knows a file."""
        file = self.files[name]
        digest = hashlib.sha256(f"{self.address} {name} {file.size} {file.state}".encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", name)[-120:]
        return Shard(f"{digest}-{readable}", file.size, self._source.place(name))

    def content(self, name: str) -> str:
        """Return what stands for a file's content in a fingerprint: its SHA-256 if the store knows it."""
        file = self.files[name]
        return file.sha256 or f"{file.size} {file.state}"

    def opened(self, name: str) -> Any:
        """Return a file that is open for reading parts of it, without fetching it; close it."""
        return self._source.opened(name)

    def headers(self) -> dict[str, list[Any]]:
        """Return what was kept of videos' headers, by name."""
        try:
            return dict(read_object(self._mirror / HEADERS))
        except RDVLAError:
            return {}

    def keep_headers(self, headers: Mapping[str, list[Any]]) -> None:
        """Keep what videos' headers say, so they are not asked for again."""
        write_json(self._mirror / HEADERS, dict(headers))

    def _fetch(self, name: str, path: Path) -> None:
        file = self.files[name]
        self._source.copy(name, path, expected=file)
        if file.sha256:
            with path.open("rb") as content:
                found = hashlib.file_digest(content, "sha256").hexdigest()
            if found != file.sha256:
                raise DatasetError(f"{self._source.place(name)} came damaged: its SHA-256 is another")


def make_mirror(address: str, streaming: Streaming) -> Path:
    """Copy the numbers of a dataset, and return the folder that opens as the dataset.

    Args:
        address: of the dataset's folder.
        streaming: where to keep it.

    Raises:
        ConfigError: the address cannot be used.
        DatasetError: it holds no dataset, its numbers take more room than its images may, or it cannot be
            fetched.
    """
    source = RemoteFolder(address)
    listed = source.listing()
    kept = {n: f for n, f in listed.items() if n.endswith(NUMBERS) and n not in UNUSED and _is_read(n)}
    shards = {name: file for name, file in listed.items() if name.endswith(VIDEOS)}
    if "meta/info.json" not in kept:
        raise DatasetError(f"{source.address} has no meta/info.json: it is no dataset in LeRobot's formats")
    _check_size(source.address, kept, shards, listed, streaming)
    text = "\n".join(f"{name} {asdict(file)}" for name, file in sorted((kept | shards).items()))
    digest = hashlib.sha256(f"{source.address}\n{text}".encode()).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", source.address.rpartition("/")[2])[:60]
    folder = streaming.folder / "datasets" / f"{readable}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    ShardCache(streaming.folder / "files").set_limit(streaming.limit)
    with FileLock(folder / ".lock"):
        if not (folder / MARKER).is_file():
            for name in sorted(kept, key=lambda name: (name != "meta/info.json", name)):
                if not (folder / name).is_file():
                    with write_atomically(folder / name) as temporary:
                        source.copy(name, temporary, expected=kept[name])
            entries = {name: asdict(file) for name, file in shards.items()}
            write_json(folder / MARKER, {"address": source.address, "files": entries})
    return folder


def _is_read(name: str) -> bool:
    return name.split("/")[0] in ("meta", "data")


def _check_size(
    address: str,
    numbers: Mapping[str, RemoteFile],
    shards: Mapping[str, RemoteFile],
    listed: Mapping[str, RemoteFile],
    streaming: Streaming,
) -> None:
    """Refuse what cannot be streamed before anything is fetched."""
    size = sum(file.size for file in numbers.values())
    if size > max(streaming.limit, SMALL_GB * GB):
        raise DatasetError(
            f"{address}: its numbers and pictures in parquet files have {size / GB:,.3f} GB and are "
            f"copied as a whole, more than data.cache_gb={streaming.limit / GB:g}. Give more, or a "
            "dataset with its images in videos"
        )
    if not shards and any(name.lower().endswith((".png", ".jpg", ".jpeg")) for name in listed):
        raise DatasetError(
            f"{address}: its images are single pictures, which are not streamed. Download the dataset and "
            "name its folder"
        )
    largest = max(shards.items(), key=lambda item: item[1].size, default=None)
    if largest is not None and largest[1].size > streaming.limit:
        raise DatasetError(
            f"{address}/{largest[0]} has {largest[1].size / GB:,.3f} GB, more than "
            f"data.cache_gb={streaming.limit / GB:g}: give at least as much, better several times"
        )
