"""Files that are either the old one or the new one, never half of each."""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from rdvla.errors import ConfigError, RDVLAError
from rdvla.leftovers import name_for_older, remove, remove_dead, temporary_name
from rdvla.locks import sole_user as sole_user

# A model or a dataset on the Hugging Face hub: "user/name" or "user/name@revision".
HUB_ID = re.compile(r"(?P<repository>\b[\w.-]+\b/\b[\w.-]+\b)(@(?P<revision>[\w./-]+))?")

# Error number of the system -> what follows the place in a sentence.
_SENTENCES = {
    errno.ENOSPC: ": no space is left on that disk: make room, or name a place on another disk",
    errno.EDQUOT: ": your share of that disk is used up: make room, or name a place on another disk",
    errno.EFBIG: ": the file would be larger than this system allows (ulimit -f)",
    errno.EACCES: ": permission denied: change the permissions, or name another place",
    errno.EPERM: ": permission denied: change the permissions, or name another place",
    errno.EROFS: " is on a disk that cannot be written: name another place",
    errno.EISDIR: " is a folder: name a file",
    errno.ENOTDIR: ": a file is where this path needs a folder: name another place",
    errno.EEXIST: " exists already: name another place, or remove it",
    errno.ENOENT: " does not exist: check the name",
    errno.ENAMETOOLONG: ": the name is too long: choose a shorter one",
    errno.ELOOP: ": its links lead in a circle: name the place itself",
    errno.EMFILE: ": too many files are open: allow more (ulimit -n), or use fewer workers",
    errno.ENFILE: ": too many files are open on this machine: close some, or use fewer workers",
    errno.EIO: ": the disk failed to read or write: check it, or name a place on another disk",
}
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
CHECKSUM = "crc32"  # entry of a JSON file with the checksum of its other entries
_LONGEST_SHOWN = 200  # characters of a path in a sentence


@contextmanager
def write_atomically(path: Path | str) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success flush it to the disk and rename it to `path`.

    The body writes the yielded path and closes it. If the body raises, the temporary file is removed and
    `path` keeps its content. Missing parent folders are made. The temporary name keeps the suffix of `path`,
    because some writers (PyAV) choose the format by it. The file's mode is what the umask gives, whatever the
    body's writer chose.

    Raises:
        RDVLAError: `path` is a device or the like, which a rename would replace.
        OSError: it cannot be written; the error names `path`, not the temporary file.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with errors_name(path, instead_of=temporary):
            _require_regular(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            _tidy(path.parent.absolute())
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            if temporary.stat().st_mode != mode:  # safetensors lets nobody else read
                temporary.chmod(mode)
            flush(temporary)
            temporary.replace(path)
            flush(path.parent)  # the rename itself must survive a power cut
    finally:
        with suppress(OSError):  # such as a name that is too long
            temporary.unlink(missing_ok=True)


@contextmanager
def errors_name(path: Path, *, instead_of: Path | None = None) -> Iterator[None]:
    """Name a file in the body's errors of the system, such as that of a full disk.

    Errors of libraries in Rust, which are no `OSError`, become one.

    Args:
        path: named in errors that name no file.
        instead_of: a temporary path; errors that name it, or a file below it, name `path` in its place.
    """
    try:
        yield
    except OSError as error:
        _name(error, path, instead_of=instead_of)
        raise
    except Exception as error:
        found = _RUST_ERROR.search(str(error))
        if found is None or isinstance(error, RDVLAError):
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def check_writable(path: Path | str, *, option: str, folder: bool = False) -> None:
    """Check before any work that a file or folder can be written, by writing a small file there.

    Args:
        path: what will be written; missing parent folders will be made.
        option: its name in the error.
        folder: it will be a folder, and may be one already.

    Raises:
        ConfigError: it cannot be written; the message says why, and what to do.
    """
    path = Path(path)
    try:
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, "", str(path))
        if not folder:
            _require_regular(path, f"{option}: ")
        place = path.absolute() if folder else path.absolute().parent
        missing = [] if folder else [path.name]
        while not os.path.lexists(place):
            missing.append(place.name)
            place = place.parent
        for name in missing:
            (place / name).exists()  # fails if the name is too long
        trial = temporary_name(place / (path.absolute().name or "root"))
        try:
            trial.write_bytes(bytes(4096))  # enough for a full disk to refuse
        finally:
            with suppress(OSError):
                trial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{option}: {os_error_sentence(error, path=path)}") from error


def os_error_sentence(error: OSError, *, path: Path | str | None = None) -> str:
    """Say what the system refused, where, and what to do.

    Args:
        error: what the system or a library raised.
        path: the place that was meant; if not given, the error's own.
    """
    place = str(path or os.fsdecode(error.filename or "") or "the output")
    if len(place) > _LONGEST_SHOWN:
        place = f"{place[: _LONGEST_SHOWN // 2]}...{place[-_LONGEST_SHOWN // 2 :]}"
    if error.errno in _SENTENCES:
        return place + _SENTENCES[error.errno]
    if isinstance(error, BrokenPipeError):
        return "a process that this one talks to has ended: run the command again"
    if isinstance(error, ConnectionError | TimeoutError):
        return f"no connection ({error}): check the network, or name a local folder"
    if error.errno is not None:
        return f"{place}: {error.strerror or os.strerror(error.errno)}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _name(error: OSError, path: Path, *, instead_of: Path | None = None) -> None:
    """Let an error that names no file, or a file at or below `instead_of`, name `path`."""
    if error.errno is None:  # of a library, with a text of its own, which a file name would replace
        return
    named = None if error.filename is None else Path(os.fsdecode(error.filename))
    if named is None or (instead_of is not None and (named == instead_of or instead_of in named.parents)):
        inside = "." if named is None or instead_of is None else named.relative_to(instead_of)
        error.filename, error.filename2 = str(path / inside), None


@cache
def _tidy(folder: Path) -> None:
    """Remove what dead processes left in a folder, once per process."""
    remove_dead(folder)


def _require_regular(path: Path, start: str = "") -> None:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{start}{path} is a device or the like: name a file")


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, which becomes `path` on success and disappears otherwise.

    Only one process can make a folder at a time. All files are flushed to the disk before the folder gets its
    name. An older folder is renamed, removed at the end, and gets its name back if anything fails. After a
    kill the same call does that first.

    Args:
        path: the folder to make; a link stays, and the folder that it leads to is replaced.
        replace: put it in the place of an older folder of this name at the end; until then that one stays.

    Raises:
        RDVLAError: `path` exists, and `replace` is False; or another process makes it.
    """
    _require_new(path, replace=replace)
    place = path.resolve()
    with sole_user(path):
        _require_new(path, replace=replace)
        temporary = temporary_name(place)
        try:
            with errors_name(path, instead_of=temporary):
                temporary.mkdir(parents=True)
                yield temporary
                flush_tree(temporary)
                _require_new(path, replace=replace)
                _take_place(temporary, place)
        finally:
            remove(temporary)


def _require_new(path: Path, *, replace: bool) -> None:
    if os.path.lexists(path) and not replace:
        raise RDVLAError(f"{path} exists: name a new folder")


def _take_place(folder: Path, path: Path) -> None:
    """Rename a folder to `path`, where an older one may be."""
    older = name_for_older(path) if os.path.lexists(path) else None
    if older is not None:
        path.rename(older)
    try:
        folder.rename(path)
    except BaseException:
        if older is not None:
            older.rename(path)
        raise
    flush(path.parent)
    if older is not None:
        remove(older)


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
    except OSError as error:
        raise RDVLAError(os_error_sentence(error, path=path)) from error
    except UnicodeDecodeError as error:
        raise RDVLAError(f"{path} is not text: {error}") from error
    except json.JSONDecodeError as error:
        raise RDVLAError(f"{path} is not valid JSON (line {error.lineno}): {error.msg}") from error
    except RecursionError:
        raise RDVLAError(f"{path} is damaged: its lists and objects are nested too deeply") from None
    except ValueError as error:  # of a whole number with thousands of digits
        raise RDVLAError(f"{path} is damaged: it holds a number with too many digits") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        RDVLAError: it is missing or damaged, or holds anything but one object; the message names it.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise RDVLAError(f"{path} must hold one JSON object")
    return content


def json_checksum(content: Any) -> int:
    """Return the CRC-32 of what JSON holds, however it is laid out in a file."""
    return zlib.crc32(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def flush(path: Path) -> None:
    """Force a file's (or a folder's entries') bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Force all that a folder holds to the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            if (path := Path(place, name)).is_file():
                flush(path)
        flush(Path(place))
