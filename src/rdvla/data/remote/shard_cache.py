"""A folder of fetched files that never holds more than a given number of bytes.

Several processes may share it. A file in use is locked (`flock`), so it is not removed; a process that dies
gives its locks back. What is being fetched counts in full from its start, and has a name that nobody takes
for a whole file.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from rdvla.errors import DatasetError
from rdvla.files import flush, read_object, write_json

LIMIT_FILE = "limit.json"
PART = re.compile(r"\.(?P<key>.+)\.(?P<size>\d+)\.[0-9a-f]{8}\.part")
POLL = 0.05  # seconds between looks at a file that another process fetches
LONGEST_WAIT = 600.0  # seconds for room while every file is in use

Fetch = Callable[[Path], None]


@dataclass(frozen=True)
class Shard:
    """A file to hold.

    Attributes:
        key: its name in the folder, different for every content.
        size: in bytes.
        place: where it comes from, for messages.
    """

    key: str
    size: int
    place: str


class ShardCache:
    """Files in a bounded folder, the least recently used of which go first.

    Attributes:
        folder: where they lie; made with the first file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def limit(self) -> int:
        """Largest number of bytes, which belongs to the folder and holds for all processes.

        Raises:
            RDVLAError: `set_limit` was not called yet.
        """
        return int(read_object(self.folder / LIMIT_FILE)["bytes"])

    def set_limit(self, limit: int) -> None:
        """Set the largest number of bytes, and remove what is beyond it and not in use."""
        write_json(self.folder / LIMIT_FILE, {"bytes": limit})
        with self._alone():
            self._make_room(0, limit=limit, spare=())

    def holds(self, shard: Shard) -> bool:
        """Return whether a file is there."""
        return (self.folder / shard.key).exists()

    @contextmanager
    def lease(self, shard: Shard, fetch: Fetch) -> Iterator[Path]:
        """Yield a file's path, after fetching the file if it is not there; it stays while the body runs.

        Args:
            shard: the file.
            fetch: writes it to the given path, and raises if it is not whole.

        Raises:
            DatasetError: it is larger than the folder may be, or the others in use leave it no room.
        """
        descriptor = self._obtain(shard, fetch, spare=(), patience=LONGEST_WAIT)
        assert descriptor is not None
        try:
            yield self.folder / shard.key
        finally:
            os.close(descriptor)

    def prefetch(self, shard: Shard, fetch: Fetch, *, spare: Collection[str]) -> bool:
        """Fetch a file that will be needed, if there is room without files named in `spare`.

        Returns:
            whether the file is there now.
        """
        descriptor = self._obtain(shard, fetch, spare=spare, patience=0)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def _obtain(self, shard: Shard, fetch: Fetch, *, spare: Collection[str], patience: float) -> int | None:
        """Return a descriptor that holds the file's lock; None: there is no room now."""
        until = time.monotonic() + patience
        while True:
            with self._alone():
                found = self._locked(shard)
                if found is not None:
                    return found
                part = None
                if self._is_fetched_now(shard.key):
                    until = time.monotonic() + patience  # which is for room, not for what is on its way
                else:
                    limit = self.limit
                    if shard.size > limit:
                        raise DatasetError(
                            f"{shard.place} has {shard.size:,} bytes, more than the {limit:,} that may be "
                            "kept here: give a larger data.cache_gb"
                        )
                    if self._make_room(shard.size, limit=limit, spare=spare):
                        part = self._begin(shard)
            if part is not None:
                return self._fetched(shard, part, fetch)
            if time.monotonic() >= until:
                if patience:
                    raise DatasetError(
                        f"there is no room for {shard.place} ({shard.size:,} bytes) in {self.folder}: the "
                        "files in use fill it. Give a larger data.cache_gb, or a smaller data.window"
                    )
                return None
            time.sleep(POLL)

    def _locked(self, shard: Shard) -> int | None:
        try:
            descriptor = os.open(self.folder / shard.key, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(self.folder / shard.key)  # its last use
        return descriptor

    def _begin(self, shard: Shard) -> tuple[Path, int]:
        path = self.folder / f".{shard.key}.{shard.size}.{uuid.uuid4().hex[:8]}.part"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return path, descriptor

    def _fetched(self, shard: Shard, part: tuple[Path, int], fetch: Fetch) -> int:
        path, descriptor = part
        try:
            fetch(path)
            flush(path)
            path.rename(self.folder / shard.key)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return descriptor

    def _is_fetched_now(self, key: str) -> bool:
        parts = [(path, PART.fullmatch(path.name)) for path in self.folder.glob(".*.part")]
        return any(match and match["key"] == key and not _is_free(path) for path, match in parts)

    def _make_room(self, size: int, *, limit: int, spare: Collection[str]) -> bool:
        """Remove files until `size` more bytes fit; return whether they do."""
        used = 0
        kept: list[tuple[int, int, Path]] = []
        for path in self.folder.iterdir():
            match = PART.fullmatch(path.name)
            if match:
                if _is_free(path):  # its process died
                    path.unlink(missing_ok=True)
                else:
                    used += int(match["size"])
            elif path.name != LIMIT_FILE and not path.name.startswith("."):
                facts = path.stat()
                used += facts.st_size
                kept.append((facts.st_mtime_ns, facts.st_size, path))
        for _, own, path in sorted(kept):
            if used + size <= limit:
                break
            if path.name not in spare and _is_free(path):
                path.unlink()
                used -= own
        return used + size <= limit

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock", poll_interval=0.01):
            yield


def _is_free(path: Path) -> bool:
    """Return whether no process has locked a file; only true while nobody else may lock it."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return True
