"""Datasets of several video files at addresses that fsspec reads, and what is seen of their local files."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import pytest
from filelock import FileLock

from rdvla.data.formats.lerobot_v3 import assemble
from tests.support.tiny_training import write_dataset

EPISODES, LENGTH, FPS = 12, 24, 80
FILES = 6  # of two episodes each


def write_sharded(root: Path, *, episodes: int = EPISODES) -> Path:
    """Write a dataset whose video files hold two episodes each."""
    with mock.patch.object(assemble, "VIDEO_FILE_SECONDS", 2 * LENGTH / FPS):
        return write_dataset(root, episodes=episodes, length=LENGTH)


def video_sizes(root: Path) -> dict[str, int]:
    paths = sorted((root / "videos").rglob("*.mp4"))
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in paths}


def in_memory(root: Path) -> str:
    """Copy a dataset to an address of its own, which lives in this process alone."""
    address = f"memory://{uuid.uuid4().hex}/demos"
    system = fsspec.filesystem("memory")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            system.pipe(f"/{address.partition('://')[2]}/{path.relative_to(root)}", path.read_bytes())
    return address


@dataclass
class Fetched:
    """The names of the files that were copied as a whole, in their order."""

    names: list[str] = field(default_factory=list)

    def videos(self) -> list[str]:
        return [name[name.index("videos/") :] for name in self.names if name.endswith(".mp4")]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """Sees every file that is copied from `memory://` or `file://`."""
    seen = Fetched()
    for protocol in ("memory", "file"):
        system = type(fsspec.filesystem(protocol))
        copy = system.get_file

        def counting(self: Any, path: str, *args: Any, _copy: Any = copy, **options: Any) -> Any:
            seen.names.append(path)
            return _copy(self, path, *args, **options)

        monkeypatch.setattr(system, "get_file", counting)
    return seen


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Look again and again at how many bytes of files a folder holds; yields a list that grows.

    The folder's own lock is held for every look: without it a file that is removed meanwhile would count next
    to the one that took its place.
    """
    sizes: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            # What is being fetched gets its name, or goes, without the lock: look again.
            with suppress(FileNotFoundError), FileLock(folder / ".lock", poll_interval=0.001):
                files = {e.inode(): e.stat().st_size for e in os.scandir(folder) if held(e.name)}
                sizes.append(sum(files.values()))

    def held(name: str) -> bool:
        return name.endswith(".part") or not (name.startswith(".") or name == "limit.json")

    folder.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join(timeout=30)
