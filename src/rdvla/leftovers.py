"""Names of temporary files and folders, which tell who writes them, so those of dead processes can go.

A killed process cannot clean up. Its files do no harm, but they take room, and nobody else removes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

DAY, HOUR = 86_400.0, 3_600.0  # seconds after which no process of another machine still writes a file

_NAME = re.compile(
    r"\.(?P<stem>.+)"
    r"\.(?P<machine>[0-9a-f]{6})-(?P<process>[0-9a-f]+)-(?P<start>[0-9a-f]{4})-[0-9a-f]{4}"
    r"\.(?P<kind>tmp|old)(?P<suffix>\.[^.]*)?"
)
# Of earlier versions; it does not tell its process.
_OLDER_NAME = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.(tmp|building)(?P<suffix>\.[^.]*)?")


def temporary_name(path: Path) -> Path:
    """Return a sibling of `path` for this call alone; it keeps the suffix, which tells writers the format."""
    return path.with_name(f".{path.stem}.{_owner()}.tmp{path.suffix}")


def name_for_older(path: Path) -> Path:
    """Return a name for a folder that waits while a newer one takes its place."""
    return path.with_name(f".{path.name}.{_owner()}.old")


def remove_dead(folder: Path, *, older: bool = False) -> None:
    """Remove what processes that have died left in a folder; its subfolders are left alone.

    Files of other machines' processes go after a day, since nobody here can tell whether those live.

    Args:
        folder: need not exist.
        older: remove files of earlier versions as well, whose names do not tell their process.
    """
    for entry in _hidden(folder):
        name = _NAME.fullmatch(entry.name)
        if name is None:
            is_left = older and _OLDER_NAME.fullmatch(entry.name) is not None
        else:
            is_left = name["kind"] == "tmp" and not _may_live(entry, name, foreign=DAY)
        if is_left:
            remove(entry)


def remove_all(path: Path) -> None:
    """Remove what dead processes left in and next to a file or folder that only this process may write.

    A folder that made way for one that never came gets its name back.
    """
    for entry in _hidden(path.parent):
        if entry.name == f".{path.name}.old":  # of an earlier version, like the next
            _restore(entry, path)
        elif entry.name == f".{path.name}.tmp":
            remove(entry)
        else:
            _settle(entry, only=path.name)
    if path.is_dir() and not path.is_symlink():
        for folder, below, _ in os.walk(path):
            for entry in _hidden(Path(folder)):
                _settle(entry)
            below[:] = [name for name in below if not name.startswith(".")]


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that it holds; nothing happens if that fails."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _settle(entry: Path, *, only: str | None = None) -> None:
    """Remove a leftover, of one name only if that is given, or give it its name back."""
    exact = _NAME.fullmatch(entry.name)
    found = exact or _OLDER_NAME.fullmatch(entry.name)
    if found is None or (exact is not None and _may_live(entry, exact, foreign=HOUR)):
        return
    of_older = exact is not None and exact["kind"] == "old"
    meant = found["stem"] + ("" if of_older else found["suffix"] or "")
    if only not in (None, meant):
        return
    if of_older:
        _restore(entry, entry.with_name(meant))
    else:
        remove(entry)


def _restore(older: Path, place: Path) -> None:
    """Give a folder its name back, or remove it if a newer one is there."""
    if os.path.lexists(place):
        remove(older)
    else:
        older.rename(place)


def _hidden(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(".")]
    except OSError:  # there is none, or it may not be listed
        return
    yield from (folder / name for name in names)


def _may_live(path: Path, name: re.Match[str], *, foreign: float) -> bool:
    """Whether the process that writes a path may still be there.

    Args:
        path: a file or folder.
        name: its name, taken apart.
        foreign: seconds for which a file of another machine that nobody changes still counts.
    """
    if name["machine"] != _machine():
        with suppress(OSError):
            return time.time() - path.stat().st_mtime < foreign
        return False  # it has gone
    process = int(name["process"], 16)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        pass
    return _start(process) == name["start"]


def _owner() -> str:
    process = os.getpid()
    return f"{_machine()}-{process:x}-{_start(process)}-{secrets.token_hex(2)}"


def _start(process: int) -> str:
    """Return four digits from the time a process began, since numbers of processes come again."""
    try:
        ticks = int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):  # a system without such files
        ticks = 0
    return f"{ticks & 0xFFFF:04x}"


@cache
def _machine() -> str:
    """Return six digits that tell apart where numbers of processes mean different processes."""
    parts = [str(uuid.getnode())]
    with suppress(OSError):
        parts = [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:6]
