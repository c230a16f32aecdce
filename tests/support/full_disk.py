"""A disk without room: the process may write small files only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

ROOM = 4500  # bytes that a file may have: enough for the trial before any work, too few for a result


@contextmanager
def full_disk(room: int = ROOM) -> Iterator[None]:
    """Let this process, and those that it starts, write files of `room` bytes at most."""
    resource = pytest.importorskip("resource", reason="the system has no limits for files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
