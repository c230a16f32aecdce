"""A folder at an address that fsspec knows, such as s3://bucket/folder: list it, read it, copy from it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from fsspec.core import url_to_fs

from rdvla.errors import ConfigError, DatasetError

T = TypeVar("T")

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
TRIES = 5
FIRST_WAIT = 1.0  # seconds before the second try; doubled before each further one
HEADER_BLOCK = 1 << 20  # bytes that are read ahead where a file is not read as a whole
NOT_TRIED_AGAIN = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ImportError)
# What stores call the state of a file, the best first: any of these changes with the content.
STATES = ("blob_id", "ETag", "etag", "md5Hash", "content_md5", "md5", "generation", "version_id")
TIMES = ("mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True)
class RemoteFile:
    """What a store says of a file.

    Attributes:
        size: in bytes.
        state: changes with the content.
        sha256: of the content; empty: the store does not say.
    """

    size: int
    state: str
    sha256: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> RemoteFile:
        """Read an entry of a listing."""
        large = entry.get("lfs")
        sha256 = str(large.get("sha256") or "") if isinstance(large, Mapping) else ""
        told = next((str(entry[name]) for name in STATES if entry.get(name)), "")
        times = next((_time(entry[name]) for name in TIMES if entry.get(name)), "")
        return cls(int(entry["size"]), sha256 or told or times, sha256)


class RemoteFolder:
    """The files below an address.

    Attributes:
        address: without credentials.
    """

    def __init__(self, address: str) -> None:
        """Find out who speaks the address's protocol; nothing is asked yet.

        Raises:
            ConfigError: the protocol is unknown, its package is missing, or the address holds a secret.
        """
        self.address = check_address(address)
        try:
            self._system, path = url_to_fs(self.address)
        except ImportError as error:
            package = getattr(error.__cause__, "name", None)
            what = f"the package {package}: pip install {package}" if package else f"more: {error}"
            raise ConfigError(f"{address} needs {what}") from error
        except ValueError as error:
            raise ConfigError(f"{address} cannot be read: {error}") from error
        self._path = str(path).rstrip("/")

    def listing(self) -> dict[str, RemoteFile]:
        """Return all files below the folder by their names relative to it; hidden ones are left out.

        Raises:
            DatasetError: the folder is missing or empty, or the store cannot be reached.
        """

        def ask() -> dict[str, dict[str, Any]]:
            self._system.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._system.find(self._path, detail=True)
            return found

        found = self._tried(ask, self.address)
        start = f"{self._path}/"
        files = {
            path[path.index(start) + len(start) :]: RemoteFile.of(entry)
            for path, entry in found.items()
            if start in path and entry.get("type", "file") == "file"
        }
        files = {n: file for n, file in files.items() if not any(p.startswith(".") for p in n.split("/"))}
        if not files:
            raise DatasetError(f"{self.address} holds no files: check the address")
        return files

    def opened(self, name: str) -> Any:
        """Return a file that is open for reading parts of it; close it."""
        return self._tried(
            lambda: self._system.open(f"{self._path}/{name}", "rb", block_size=HEADER_BLOCK), self.place(name)
        )

    def copy(self, name: str, to: Path, *, expected: RemoteFile) -> None:
        """Copy a file, and check that it is the one that was listed.

        Raises:
            DatasetError: it is missing, has changed, or cannot be fetched after several tries.
        """

        def fetch() -> None:
            self._system.get_file(f"{self._path}/{name}", str(to))
            if to.stat().st_size != expected.size:
                self._check_same(name, expected)  # a changed file needs no second try
                raise ConnectionError(f"{to.stat().st_size:,} of {expected.size:,} bytes came")

        self._tried(fetch, self.place(name))
        self._check_same(name, expected)

    def place(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return f"{self.address.rstrip('/')}/{name}"

    def _check_same(self, name: str, expected: RemoteFile) -> None:
        def ask() -> RemoteFile:
            self._system.invalidate_cache()
            return RemoteFile.of(self._system.info(f"{self._path}/{name}"))

        if self._tried(ask, self.place(name)) != expected:
            raise DatasetError(
                f"{self.place(name)} has changed since this run opened the dataset: keep a dataset unchanged "
                "while runs use it, or start a new run"
            )

    def _tried(self, action: Callable[[], T], place: str) -> T:
        """Try several times, as connections fail; what cannot be mended by waiting is an error at once."""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1))
            try:
                return action()
            except DatasetError:
                raise
            except FileNotFoundError as error:
                raise DatasetError(
                    f"{place} is missing: the dataset is incomplete, or was removed"
                ) from error
            except NOT_TRIED_AGAIN as error:
                raise DatasetError(f"{place} cannot be read: {_reason(error)}") from error
            except Exception as error:  # noqa: BLE001  # every store's client has errors of its own
                last = error
        raise DatasetError(
            f"{place} cannot be fetched, and {TRIES} tries failed ({_reason(last)}): check the network and "
            "your access, then run the command again"
        ) from last


def is_address(name: Path | str) -> bool:
    """Return whether a dataset's name is an address like s3://bucket/folder."""
    return isinstance(name, str) and ADDRESS.fullmatch(name) is not None


def check_address(address: str) -> str:
    """Return an address without what may follow it.

    Raises:
        ConfigError: it holds a name, a password or a key, which would end up in files and messages.
    """
    _, _, rest = address.partition("://")
    place = rest.partition("/")[0]
    is_hub = address.startswith("hf://")  # whose @ begins a revision
    if "?" in rest or "::" in address or ("@" in place and not is_hub):
        shown = re.sub(r"//[^/]*@", "//...@", address.partition("?")[0])
        raise ConfigError(
            f"{shown} holds more than a place: names, passwords and keys belong into the environment or "
            "fsspec's configuration (~/.config/fsspec), as runs record the address"
        )
    return address.rstrip("/")


def _time(value: Any) -> str:
    """Return a time in one form: a store may give it as a number in one answer and as a date in another."""
    seconds = value.timestamp() if isinstance(value, datetime) else value
    return f"{seconds:.6f}" if isinstance(seconds, int | float) else str(seconds)


def _reason(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    text = re.sub(r"\?\S*", "?...", text)  # signed addresses hold keys
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
