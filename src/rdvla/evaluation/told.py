"""What a policy server tells of itself in its first frame, checked entry by entry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from rdvla.errors import ConfigError

LARGEST_IMAGE = 2048  # pixels of a side: a simulator renders one for every query
SHORT = 80  # letters of a value in a message


@dataclass(frozen=True)
class Told:
    """What is believed of a server: of one that is none of rdvla, policy and fingerprint at most."""

    policy: str = ""
    fingerprint: str = ""
    options: frozenset[str] = frozenset()  # of rdvla's requests; none: another server
    cameras: tuple[str, ...] = ()
    image_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # camera -> (height, width)
    state_dim: int | None = None
    action_dim: int | None = None
    chunk_size: int | None = None
    action_names: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)  # its own stop, start and execution

    @classmethod
    def read(cls, metadata: Mapping[str, Any], address: str) -> Told:
        """Read a server's metadata.

        Args:
            metadata: as it came.
            address: of the server, for messages.

        Raises:
            ConfigError: an entry of a server of rdvla is not what it has to be.
        """
        names = {name: metadata[name] for name in ("policy", "fingerprint") if _is_text(metadata.get(name))}
        options = metadata.get("options")
        if not isinstance(options, list | tuple) or not options:
            return cls(**names)
        entries = _Entries(metadata, address)
        return cls(
            **{name: entries.text(name) for name in ("policy", "fingerprint") if name in metadata},
            options=frozenset(entries.texts("options")),
            cameras=entries.texts("cameras"),
            image_sizes=entries.sizes("image_sizes"),
            state_dim=entries.whole("state_dim"),
            action_dim=entries.whole("action_dim"),
            chunk_size=entries.whole("chunk_size"),
            action_names=entries.texts("action_names"),
            rules={name: entries.text(name) for name in ("stop", "start", "execution") if name in metadata},
        )


@dataclass(frozen=True)
class _Entries:
    """The metadata of a server of rdvla."""

    values: Mapping[str, Any]
    address: str

    def text(self, name: str) -> str:
        value = self.values[name]
        return value if isinstance(value, str) else self._refuse(name, value, "a text")

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name, [])
        if not isinstance(value, list | tuple) or not all(map(_is_text, value)):
            self._refuse(name, value, "a list of texts")
        return tuple(value)

    def whole(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is not None and not _is_whole(value):
            self._refuse(name, value, "a whole number")
        return value

    def sizes(self, name: str) -> dict[str, tuple[int, int]]:
        value = self.values.get(name, {})
        if not isinstance(value, Mapping):
            self._refuse(name, value, "a map of cameras to [height, width]")
        sizes: dict[str, tuple[int, int]] = {}
        for camera, size in value.items():
            is_pair = isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_whole, size))
            if not is_pair or not all(1 <= side <= LARGEST_IMAGE for side in size):
                self._refuse(
                    f"{name}.{camera}", size, f"[height, width] in pixels, from 1 to {LARGEST_IMAGE} each"
                )
            sizes[str(camera)] = (size[0], size[1])
        return sizes

    def _refuse(self, name: str, value: Any, kind: str) -> NoReturn:
        raise ConfigError(f"{self.address} tells {name} {_short(value)} in its metadata: it has to be {kind}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]} ..."


def plain(value: Any) -> Any:
    """Return what a server told in values that JSON holds: lists for arrays, text for bytes, null for NaN."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else repr(value)
