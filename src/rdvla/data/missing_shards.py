"""Who computes which shard of a cache that several processes fill at once.

A process locks a shard while it computes it. The system releases the locks of a process that dies, so its
shards are free at once. Locks save work, nothing else depends on them: a shard that is computed twice is
written twice, whole each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from rdvla.data.feature_plan import Shard

Progress = Callable[[int, int], None]  # (frames done, frames in all)

LOCK = ".lock"  # suffix of lock files
POLL_SECONDS = 0.2  # between looks at shards that others compute
PATIENCE_SECONDS = 600.0  # without a batch; then a shard is computed here as well


class MissingShards:
    """The shards of a cache that are not written yet; leaving the `with` block frees what is claimed."""

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        total: int = 0,
        progress: Progress | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Look for shards to compute.

        Args:
            shards: the missing ones.
            total: frames of the whole cache, for `progress`.
            progress: called with (frames done, `total`), here or by others, whenever that changes.
            patience: seconds without a batch, after that a shard is taken from whoever claimed it.
        """
        self._open = list(shards)  # neither written nor claimed here
        self._claimed: dict[Path, tuple[Shard, FileLock]] = {}
        self._beats: dict[Path, tuple[int, float]] = {}  # lock -> its time, and when that was first seen
        self._partial: dict[Path, int] = {}  # frames done of claimed shards
        self._left = sum(len(shard.frames) for shard in shards)
        self._total, self._progress, self._patience = total, progress, patience

    def __enter__(self) -> Self:
        self._report()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for shard, lock in list(self._claimed.values()):
            _free(shard, lock)

    def __len__(self) -> int:
        return len(self._open) + len(self._claimed)

    def claim(self) -> Shard | None:
        """Claim a shard that nobody else computes; None: there is none now."""
        for shard in list(self._open):
            if self._is_written(shard):
                continue
            lock = FileLock(_lock_file(shard))
            if not self._lock(shard, lock):
                continue
            if self._is_written(shard):  # while the lock was asked for
                _free(shard, lock)
                continue
            self._open.remove(shard)
            self._claimed[shard.path] = (shard, lock)
            return shard
        return None

    def take(self) -> Shard | None:
        """Claim a shard, after waiting for those that others compute; None: all are written."""
        while self._open:
            if (shard := self.claim()) is not None:
                return shard
            if self._open:
                time.sleep(POLL_SECONDS)
        return None

    def advance(self, shard: Shard, frames: int) -> None:
        """Say that so many frames of a claimed shard are computed, to whoever waits for it as well."""
        self._partial[shard.path] = frames
        with suppress(OSError):
            os.utime(_lock_file(shard))
        self._report()

    def finish(self, shard: Shard) -> None:
        """Free a claimed shard, which is written."""
        _, lock = self._claimed.pop(shard.path)
        _free(shard, lock)
        self._partial.pop(shard.path, None)
        self._left -= len(shard.frames)
        self._report()

    def _is_written(self, shard: Shard) -> bool:
        if not shard.path.exists():
            return False
        self._open.remove(shard)
        self._left -= len(shard.frames)
        self._report()
        return True

    def _lock(self, shard: Shard, lock: FileLock) -> bool:
        path = _lock_file(shard)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
        except Timeout:
            return self._is_stuck(path)
        except (
            OSError,
            NotImplementedError,
        ):  # no locks on this disk, or it cannot be written, as will be said
            return True
        return True

    def _is_stuck(self, lock: Path) -> bool:
        """Whether a lock's holder did nothing for long. Clocks differ, so its times are only compared."""
        try:
            beat = lock.stat().st_mtime_ns
        except OSError:
            return False
        known, since = self._beats.get(lock, (None, 0.0))
        if beat != known:
            self._beats[lock] = (beat, time.monotonic())
            return False
        return time.monotonic() - since > self._patience

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._total - self._left + sum(self._partial.values()), self._total)


def remove_if_damaged(shard: Shard, is_damaged: Callable[[], bool]) -> None:
    """Remove a damaged shard, unless another process has just written it anew, or is about to.

    Args:
        shard: whose file was damaged a moment ago.
        is_damaged: look again.
    """
    lock = FileLock(_lock_file(shard))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return
    except (OSError, NotImplementedError):  # no locks on this disk
        pass
    try:
        if is_damaged():
            shard.path.unlink(missing_ok=True)
    finally:
        _free(shard, lock)


def remove_locks(folder: Path) -> None:
    """Remove the locks that killed processes left on shards, all of which are written by now."""
    for path in folder.glob(f".*{LOCK}"):
        with suppress(OSError):  # such as on a disk that cannot be written
            path.unlink(missing_ok=True)


def _lock_file(shard: Shard) -> Path:
    return shard.path.with_name(f".{shard.path.stem}{LOCK}")


def _free(shard: Shard, lock: FileLock) -> None:
    held = lock.is_locked
    lock.release(force=True)
    if held:
        with suppress(OSError):
            _lock_file(shard).unlink(missing_ok=True)
