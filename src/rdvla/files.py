"""Files that are either the old one or the new one, never half of each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rdvla.errors import RDVLAError

# A model or a dataset on the Hugging Face hub: "user/name" or "user/name@revision".
HUB_ID = re.compile(r"(?P<repository>\b[\w.-]+\b/\b[\w.-]+\b)(@(?P<revision>[\w./-]+))?")


@contextmanager
def write_atomically(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success flush it to the disk and rename it to `path`.

    The body writes the yielded path and closes it. If the body raises, the temporary file is removed and
    `path` keeps its content. Missing parent folders are made. The temporary name keeps the suffix of `path`,
    because some writers (PyAV) choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)  # the rename itself must survive a power cut
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, which becomes `path` on success and disappears otherwise.

    Args:
        path: the folder to make.
        replace: delete an older folder of this name at the end.

    Raises:
        RDVLAError: `path` exists, and `replace` is False.
    """
    if path.exists() and not replace:
        raise RDVLAError(f"{path} exists: name a new folder")
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Reserve a folder, which need not exist yet, for this process; a process that dies releases it.

    The lock lies among the system's temporary files, so nothing is left next to the folder. Processes on
    other machines do not see it.

    Raises:
        RDVLAError: another process holds it.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    owner = getattr(os, "getuid", int)()  # another user could not open this lock; Windows separates users
    lock = FileLock(Path(tempfile.gettempdir()) / f"rdvla-{owner}-{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RDVLAError(
            f"another process is writing to {folder}: wait for it to end, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def write_json(path: Path | str, obj: Any) -> None:
    """Write `obj` as indented JSON, atomically; NaN and infinity are refused, as JSON has neither."""
    text = json.dumps(obj, indent=2, allow_nan=False)
    with write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        RDVLAError: it is missing, unreadable or damaged; the message names it.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RDVLAError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RDVLAError(f"{path} cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise RDVLAError(f"{path} is not valid JSON (line {error.lineno}): {error.msg}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        RDVLAError: it is missing or damaged, or holds anything but one object; the message names it.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise RDVLAError(f"{path} must hold one JSON object")
    return content


def flush(path: Path) -> None:
    """Force a file's (or a folder's entries') bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
