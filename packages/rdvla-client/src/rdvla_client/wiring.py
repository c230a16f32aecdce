"""Matches the names of a robot's cameras and joints with those that a server's policy was trained on."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdvla_client.errors import UnsupportedError


@dataclass(frozen=True)
class Wiring:
    """Which of a robot's named values go where, in messages to a server and in its actions."""

    cameras: Mapping[str, str]  # key of a message -> the robot's camera
    state_key: str  # key of the proprioception; empty: the policy takes none
    state: tuple[str, ...]  # the robot's numbers that make it up, in order
    actions: tuple[str, ...]  # the robot's numbers that an action commands, in order
    task_key: str  # key of the instruction

    @classmethod
    def of(
        cls,
        metadata: Mapping[str, Any],
        *,
        observed: Collection[str],
        commanded: Collection[str],
        rename: Mapping[str, str] | None = None,
        state_names: Sequence[str] = (),
        action_names: Sequence[str] = (),
    ) -> Wiring:
        """Match a robot with the policy of a server of rdvla.

        Args:
            metadata: what the server says about itself.
            observed: names of what the robot shows: cameras and numbers.
            commanded: names of the numbers that the robot takes as an action.
            rename: the policy's name of a camera, a state or an action -> the robot's.
            state_names: the policy's names of the proprioception, if the server does not know them.
            action_names: the same for the actions.

        Raises:
            UnsupportedError: the server is none of rdvla.
            ValueError: names are not known, or the robot lacks one.
        """
        keys, renamed = metadata.get("keys"), dict(rename or {})
        if not isinstance(keys, Mapping):
            raise UnsupportedError(
                "the server does not say which keys its policy takes, so it is none of rdvla"
            )
        state_keys, size = list(keys["state"]), int(metadata["state_dim"])
        if size and len(state_keys) != 1:
            raise ValueError(
                f"the server takes the proprioception in {len(state_keys)} parts "
                f"({', '.join(state_keys)}): start it with --layout native"
            )
        told = metadata.get("action_names", ())
        actions = _names(told, given=action_names, size=int(metadata["action_dim"]), what="action")
        told = metadata.get("state_names", ())
        state = _names(told, given=state_names, size=size, what="state")
        unknown = sorted(renamed.keys() - {*keys["images"], *actions, *state})
        if unknown:
            known = ", ".join([*keys["images"], *dict.fromkeys([*state, *actions])])
            raise ValueError(f"rename names {unknown[0]!r}, which is none of the policy's: {known}")

        def find(name: str, among: Collection[str], what: str) -> str:
            wanted = renamed.get(name, name)
            if wanted not in among:
                raise ValueError(
                    f"the policy has the {what} {name!r}, and the robot has no {wanted!r}: it has "
                    f"{', '.join(among)}. Say which one it is, as in rename={{{name}: "
                    f"{_nearest(wanted, among)}}}, or take a policy of this robot"
                )
            return wanted

        return cls(
            cameras={key: find(camera, observed, "camera") for camera, key in keys["images"].items()},
            state_key=state_keys[0] if size else "",
            state=tuple(find(name, observed, "state") for name in state),
            actions=tuple(find(name, commanded, "action") for name in actions),
            task_key=str(keys["instruction"]),
        )

    def message(self, observation: Mapping[str, Any], task: str) -> dict[str, Any]:
        """Return what the server is sent.

        Args:
            observation: the robot's, name -> image (H, W, 3) uint8 or number.
            task: the instruction.
        """
        message: dict[str, Any] = {key: np.asarray(observation[name]) for key, name in self.cameras.items()}
        if self.state_key:
            message[self.state_key] = np.array([float(observation[name]) for name in self.state], np.float32)
        return {**message, self.task_key: task}

    def command(self, action: ArrayLike) -> dict[str, float]:
        """Return an action (A,) by the robot's names."""
        return dict(zip(self.actions, np.asarray(action, np.float64).tolist(), strict=True))

    def position(self, observation: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """Return where the robot is, in an action's numbers (A,), if it shows what it takes; else None."""
        if any(name not in observation for name in self.actions):
            return None
        return np.array([float(observation[name]) for name in self.actions], np.float32)


def _names(told: Sequence[str], *, given: Sequence[str], size: int, what: str) -> tuple[str, ...]:
    names = tuple(given or told)
    if len(names) != size:
        said = f"there are {len(names)}" if names else "the server does not know them"
        raise ValueError(f"the policy has {size} numbers of {what}: give {what}_names in order, {said}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the {what} {twice[0]!r} is there twice: give {what}_names that differ")
    return names


def _nearest(name: str, among: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(among), n=1, cutoff=0.0)
    return near[0] if near else "NAME"
