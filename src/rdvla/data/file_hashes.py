"""Hashes of whole files, computed once for each state of a file.

A dataset's fingerprint must notice any change, so it reads every byte. Large files are read once: their
hashes are kept in the user's cache folder, with everything the system tells of a file's state. Any write
changes the time of that state (`ctime`), which no program can set back.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rdvla.errors import RDVLAError
from rdvla.files import read_object, write_json

KEPT_BYTES = 8 << 20  # smaller files are read again in the next process
# Clocks of file systems have a grain: a state that is younger may be followed by another of the same time.
SETTLED_SECONDS = 2.0

_known: dict[str, str] = {}  # state of a file -> hash, for this process


def hash_files(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file.

    Raises:
        OSError: a file cannot be read.
    """
    states = [_state(path) for path in paths]
    large = [state for path, state in zip(paths, states, strict=True) if path.stat().st_size >= KEPT_BYTES]
    if not _known.keys() >= set(large):
        _known.update(_read_kept())
    missing = [i for i, state in enumerate(states) if state not in _known]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(missing, pool.map(lambda i: _hash(paths[i]), missing), strict=True))
    settled = [i for i in missing if states[i] == _state(paths[i]) and _is_settled(paths[i])]
    _known.update({states[i]: found[i] for i in settled})
    if new := {states[i]: found[i] for i in settled if states[i] in large}:
        _keep(new)
    return [found[i] if i in found else _known[state] for i, state in enumerate(states)]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> str:
    facts = path.stat()
    times = f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
    return f"{path.resolve()} {facts.st_size} {times} {facts.st_ino} {facts.st_dev}"


def _is_settled(path: Path) -> bool:
    facts = path.stat()
    return time.time() - max(facts.st_mtime, facts.st_ctime) > SETTLED_SECONDS


def _kept_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rdvla" / "file_hashes.json"


def _read_kept() -> dict[str, str]:
    try:
        found = read_object(_kept_file())
    except RDVLAError:
        return {}
    return {state: value for state, value in found.items() if isinstance(value, str)}


def _keep(hashes: dict[str, str]) -> None:
    """Add hashes to the user's file; former states of the same files go."""
    files = {state.rsplit(" ", 5)[0] for state in hashes}
    others = {state: v for state, v in _read_kept().items() if state.rsplit(" ", 5)[0] not in files}
    try:
        write_json(_kept_file(), others | hashes)
    except OSError:
        return  # a cache that cannot be written costs time only
