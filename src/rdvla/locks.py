"""Locks on folders: one process at a time writes to one, on one machine or on a shared disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from rdvla.errors import RDVLAError
from rdvla.leftovers import remove_all

_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # what a folder that may not be written says
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_RETRY_SECONDS = 0.2  # in which whoever is just leaving has left


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Reserve a folder, which need not exist yet, for this thread; a process that dies releases it.

    What killed processes left in it, or next to it under its name, is removed. The lock is a file next to
    the folder, so processes of all machines that share the disk see it; it goes at the end. If only the
    folder itself can be written, the lock lies within. Who has a folder may reserve it again.

    Raises:
        RDVLAError: another process or thread has it, or its disk knows no locks.
        OSError: nothing can be written there; the error names the folder.
    """
    place = folder.resolve()
    made = _make(place.parent, wanted=folder)
    try:
        lock, is_new = _acquire(place, folder)
        try:
            if is_new:
                remove_all(place)
            yield
        finally:
            if is_new:  # before the release, after which the file may be another's
                with suppress(OSError):
                    Path(lock.lock_file).unlink()
            lock.release()
    finally:
        for parent in made:
            with suppress(OSError):  # it is in use by now
                parent.rmdir()


def _acquire(place: Path, folder: Path) -> tuple[BaseFileLock, bool]:
    """Return the lock, and whether this thread did not hold it before."""
    beside, within = place.with_name(f".{place.name}.lock") if place.name else None, place / ".lock"
    for path in (beside, within):
        if path is None:
            continue
        lock = FileLock(path, is_singleton=True)
        is_new = not lock.is_locked
        try:
            lock.acquire(timeout=_RETRY_SECONDS)
        except Timeout:
            if not path.exists():  # no file can be made there, as in /proc
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder)) from None
            raise RDVLAError(
                f"another process is writing to {folder}: wait for it to end, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise RDVLAError(
                    f"{folder} is on a disk without file locks ({os.strerror(error.errno or 0)}), so two "
                    "commands could spoil each other's files: mount it with locks, or choose another disk"
                ) from error
            if path == beside and error.errno in _CLOSED and not path.exists() and place.is_dir():
                continue
            if error.errno in _CLOSED and path.exists():
                raise RDVLAError(
                    f"another user is writing to {folder}, or was: wait for it to end, or remove {path}"
                ) from error
            error.filename = str(folder)
            raise
        return lock, is_new
    raise AssertionError("unreachable")


def _make(parent: Path, *, wanted: Path) -> list[Path]:
    """Make the folders that are missing; return them, the innermost first."""
    missing = []
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(wanted))
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            error.filename = str(wanted)
            raise
    return missing
