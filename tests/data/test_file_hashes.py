"""A large file is read once for its hash, in any number of processes, until it changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdvla.data import file_hashes
from rdvla.data.file_hashes import KEPT_BYTES, hash_files


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files that were read; every test has a cache folder and a clock of its own."""
    names: list[str] = []
    digest: Callable[..., Any] = hashlib.file_digest

    def counting(file: Any, kind: str) -> Any:
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "SETTLED_SECONDS", -60.0)
    return names


def in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "_known", {})


def test_a_large_file_is_read_once_until_it_changes(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(KEPT_BYTES))
    small.write_bytes(b"x")
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (large, small)]
    assert hash_files([large, small]) == expected == hash_files([large, small])
    assert sorted(reads) == ["large", "small"]
    in_a_new_process(monkeypatch)
    assert hash_files([large, small]) == expected and reads[2:] == ["small"]
    # The same size, and the old time put back: the file system's own time tells.
    times = large.stat()
    with large.open("r+b") as file:
        file.write(b"y")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    in_a_new_process(monkeypatch)
    assert hash_files([large])[0] == hashlib.sha256(large.read_bytes()).hexdigest() != expected[0]


def test_a_file_that_was_just_written_is_not_remembered(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "SETTLED_SECONDS", 3600.0)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert hash_files([path]) == hash_files([path]) and reads == ["file", "file"]


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_only(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(KEPT_BYTES))
    expected = [hashlib.sha256(large.read_bytes()).hexdigest()]
    (tmp_path / "cache/rdvla").mkdir(parents=True)
    (tmp_path / "cache/rdvla/file_hashes.json").write_text('{"x": [')
    assert hash_files([large]) == expected
    (tmp_path / "blocked").write_text("a file, not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    in_a_new_process(monkeypatch)
    assert hash_files([large]) == expected
