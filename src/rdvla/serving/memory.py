"""Keeps a server's memory flat: all its threads share one heap."""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8  # of glibc's malloc.h


def share_one_heap() -> bool:
    """Let all threads of this process allocate from one heap; return whether the C library can do that.

    glibc gives threads heaps of their own. Messages are unpacked in one thread and freed in another, batches
    the other way round, so holes remain in every heap and the process grows for hours. Call it before
    threads start. A value of the environment variable MALLOC_ARENA_MAX stays in force.
    """
    if os.name != "posix" or "MALLOC_ARENA_MAX" in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, 1))
