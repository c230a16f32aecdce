"""Builds the messages that a server of rdvla takes from what other tools call their cameras and states."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla_client import PolicyClient, UnsupportedError


@dataclass(frozen=True)
class Inputs:
    """What a served policy takes, and under which keys of a message."""

    images: Mapping[str, str]  # camera of the policy -> key
    sizes: Mapping[str, tuple[int, int]]  # camera -> (height, width) in training
    state: str | None  # key of the proprioception; None: the policy takes none
    state_dim: int  # S
    instruction: str  # key

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Inputs:
        """Read what a server said when it was connected to.

        Raises:
            UnsupportedError: it is no server of rdvla, or it takes the proprioception in several arrays.
        """
        keys = metadata.get("keys")
        if not isinstance(keys, Mapping):
            raise UnsupportedError(
                "the server does not say which keys it reads, so it is not `rdvla serve`: use this tool's "
                "own adapter for openpi's servers"
            )
        states = list(keys["state"])
        if len(states) > 1:
            raise UnsupportedError(
                f"the server takes the proprioception in {len(states)} arrays ({', '.join(states)}): start "
                "it with --layout native"
            )
        return cls(
            images=dict(keys["images"]),
            sizes={camera: (size[0], size[1]) for camera, size in metadata["image_sizes"].items()},
            state=states[0] if states else None,
            state_dim=int(metadata["state_dim"]),
            instruction=str(keys["instruction"]),
        )

    def sources(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return policy's camera -> the tool's camera; those that are not given have the same name.

        Raises:
            UnsupportedError: a given camera is none of the policy's.
        """
        for camera in given:
            if camera not in self.images:
                raise UnsupportedError(
                    f"the policy has no camera {camera!r}; it has {', '.join(self.images) or 'none'}"
                )
        return {camera: given.get(camera, camera) for camera in self.images}

    def message(
        self,
        *,
        images: Mapping[str, NDArray[Any]],
        sources: Mapping[str, str],
        state: Sequence[NDArray[Any]],
        instruction: str,
    ) -> dict[str, Any]:
        """Return an observation as the server takes it.

        Args:
            images: the tool's camera -> (H, W, 3) uint8.
            sources: see `sources`.
            state: arrays whose numbers, one after another, are the proprioception.
            instruction: what to do.

        Raises:
            UnsupportedError: a camera is missing, or the state has another size.
        """
        message: dict[str, Any] = {self.instruction: instruction}
        for camera, key in self.images.items():
            source = sources[camera]
            if source not in images:
                raise UnsupportedError(
                    f"the policy's camera {camera!r} is to come from {source!r}, but the observation has "
                    f"{', '.join(images) or 'no camera'}: say which one with the option cameras"
                )
            message[key] = np.ascontiguousarray(images[source])
        if self.state is not None:
            numbers = [np.asarray(part, dtype=np.float32).ravel() for part in state]
            joined = np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.float32)
            if len(joined) != self.state_dim:
                raise UnsupportedError(
                    f"the policy takes {self.state_dim} numbers of proprioception, got {len(joined)}: say "
                    "where they come from with the option state"
                )
            message[self.state] = joined
        return message


def parse_pairs(text: str | Mapping[str, str] | None) -> dict[str, str]:
    """Return ``front=top,wrist=hand`` as a dict.

    Raises:
        UnsupportedError: it is written otherwise.
    """
    if text is None or isinstance(text, Mapping):
        return dict(text or {})
    pairs = {}
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise UnsupportedError(f"{word!r} must be CAMERA=CAMERA, the policy's camera first")
        pairs[name.strip()] = value.strip()
    return pairs


class Robot:
    """One episode after another over a connection of its own, so the server keeps its state apart."""

    def __init__(self, client: PolicyClient, *, stop: str | None, execution: str | None) -> None:
        self.client = client
        self._stop = stop
        self._execution = execution
        self._actions: deque[NDArray[np.float32]] = deque()

    def reset(self) -> None:
        """Begin an episode."""
        self._actions.clear()
        self.client.reset()

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the server's reply, whose `actions` are only those to execute before the next query."""
        reply = self.client.infer(message, stop=self._stop, execution=self._execution)
        return {**reply, "actions": np.asarray(reply["actions"])[: int(reply["execute_steps"])]}

    def buffered(self) -> NDArray[np.float32] | None:
        """Return the next action, (A,), that was already received; None: ask."""
        return self._actions.popleft() if self._actions else None

    def next_action(self, message: Mapping[str, Any]) -> NDArray[np.float32]:
        """Ask, keep the chunk, and return its first action, (A,)."""
        self._actions.extend(self.ask(message)["actions"])
        return self._actions.popleft()
