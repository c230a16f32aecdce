"""Threads of a server share one heap."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

# Counts the heaps that glibc lists once eight threads, alive together, have allocated.
COUNT_HEAPS = """
import ctypes, sys, tempfile, threading
from pathlib import Path
from rdvla.serving.memory import share_one_heap

if sys.argv[1] == "share":
    share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
met = threading.Barrier(8)

def allocate():
    met.wait(30)
    libc.malloc(ctypes.c_size_t(10_000))
    met.wait(30)

threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "heaps.xml"
    file = ctypes.c_void_p(libc.fopen(str(path).encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(path.read_text().count("<heap nr="))
"""


def heaps(how: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", COUNT_HEAPS, how]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return int(found.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library")
def test_threads_share_one_heap_if_they_are_told_to():
    assert heaps("share") == 1
    assert heaps("leave") > 1
