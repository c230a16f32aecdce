"""From `Observation` to the dicts that policy servers read: the way back of `rdvla.serving.layouts`.

Evaluations ask servers with it. A server of rdvla says its names itself; for others, the user names a layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdvla.errors import ConfigError, InputError, nearest
from rdvla.serving.presets import INSTRUCTION, NATIVE_IMAGES, NATIVE_STATE, PRESETS
from rdvla.types import Observation

STATE_WORD, INSTRUCTION_WORD = "state", "instruction"  # what a mapping's text calls them
_NESTED = "images/"  # keys below it are a map of their own, as openpi's ALOHA policies read them


@dataclass(frozen=True)
class MessageNames:
    """Which key of a message takes what."""

    images: Mapping[str, str]  # camera -> key
    state: Mapping[str, int]  # key -> numbers of the proprioception, in order; 0: all that are left
    instruction: str = INSTRUCTION
    colours_first: bool = False  # images (3, height, width)

    def __call__(self, observation: Observation) -> dict[str, Any]:
        """Return the message for a single observation, numpy.

        Raises:
            InputError: it lacks a camera, or has too few numbers of proprioception.
        """
        message: dict[str, Any] = {}
        for camera, key in self.images.items():
            image = np.ascontiguousarray(observation.camera(camera))
            if self.colours_first:
                image = np.ascontiguousarray(np.moveaxis(image, -1, 0))
            _put(message, key, image)
        message |= self._state(np.asarray(observation.state, dtype=np.float32))
        message[self.instruction] = observation.instruction
        return message

    def _state(self, state: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
        split: dict[str, Any] = {}
        for key, count in self.state.items():
            if len(state) < count:
                raise InputError(f"{key!r} takes {count} numbers of proprioception, {len(state)} are left")
            split[key], state = (state[:count], state[count:]) if count else (state, state[:0])
        if len(state) and self.state:  # a policy may take none at all
            raise InputError(f"{len(state)} numbers of proprioception have no key of {', '.join(self.state)}")
        return split

    @classmethod
    def told(cls, metadata: Mapping[str, Any]) -> MessageNames:
        """Return the names that a server of rdvla told in its metadata.

        Raises:
            ConfigError: the metadata lacks them, an entry is not what it has to be, or it does not tell how
                several keys share the proprioception.
        """
        keys = metadata.get("keys")
        if not isinstance(keys, Mapping):
            raise ConfigError("the server does not say how it names observations: give --layout")
        preset = PRESETS.get(str(metadata.get("layout")))
        known = {} if preset is None else preset.state
        images, names, instruction = keys.get("images"), keys.get("state"), keys.get("instruction")
        if not isinstance(images, Mapping) or not _are_texts([*images, *images.values()]):
            raise ConfigError(f"the server tells keys.images {images!r}: it is a map of cameras to keys")
        if not isinstance(names, list | tuple) or not _are_texts(names):
            raise ConfigError(f"the server tells keys.state {names!r}: it is a list of keys")
        if not isinstance(instruction, str):
            raise ConfigError(f"the server tells keys.instruction {instruction!r}: it is a key")
        counts = {name: 0 if len(names) == 1 else known.get(name, 0) for name in names}
        if len(names) > 1 and not all(counts.values()):
            raise ConfigError(
                f"the server takes the proprioception in {', '.join(names)} and does not say how many "
                "numbers in each: start it with another --mapping.state"
            )
        return cls(dict(images), counts, instruction)

    @classmethod
    def of_layout(cls, text: str, cameras: Sequence[str]) -> MessageNames:
        """Return the names of a layout for an environment's cameras.

        Args:
            text: libero, droid, aloha or native; or a mapping ``KEY=CAMERA,...,KEY=state,KEY=instruction``.
            cameras: of the environment.

        Raises:
            ConfigError: there is no such layout, or the environment has none of its cameras.
        """
        if "=" in text:
            return cls._mapped(text, cameras)
        if text == "native":
            return cls({camera: f"{NATIVE_IMAGES}/{camera}" for camera in cameras}, {NATIVE_STATE: 0})
        preset = PRESETS.get(text)
        if preset is None:
            known = (*PRESETS, "native")
            raise ConfigError(
                f"unknown layout {text!r}: it is one of {', '.join(known)}, or KEY=CAMERA,KEY=state,"
                f"KEY=instruction.{nearest(text, known)}"
            )
        images = {
            camera: key
            for key, names in preset.images.items()
            for camera in [each for each in cameras if each in names][:1]
        }
        if not images:
            example = f"{next(iter(preset.images))}={cameras[0]},{next(iter(preset.state))}=state"
            raise ConfigError(
                f"layout {text}: none of the cameras {', '.join(cameras)} is known to it; say which is "
                f"which, such as --layout {example},{INSTRUCTION}=instruction"
            )
        return cls(images, preset.state, colours_first=text == "aloha")

    @classmethod
    def _mapped(cls, text: str, cameras: Sequence[str]) -> MessageNames:
        images: dict[str, str] = {}
        state: dict[str, int] = {}
        instruction = INSTRUCTION
        for entry in text.split(","):
            key, equals, what = (word.strip() for word in entry.partition("="))
            if not (key and equals and what):
                raise ConfigError(
                    f"layout {text!r}: write KEY=CAMERA, KEY=state, KEY=instruction, got {entry!r}"
                )
            if what == STATE_WORD:
                state[key] = 0
            elif what == INSTRUCTION_WORD:
                instruction = key
            elif what in cameras:
                images[what] = key
            else:
                known = (*cameras, STATE_WORD, INSTRUCTION_WORD)
                raise ConfigError(
                    f"layout {text!r}: {what!r} is none of {', '.join(known)}.{nearest(what, known)}"
                )
        if len(state) > 1:
            raise ConfigError(f"layout {text!r} names {len(state)} keys for the proprioception; give it one")
        return cls(images, state, instruction)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _put(message: dict[str, Any], key: str, value: Any) -> None:
    if key.startswith(_NESTED):
        message.setdefault(_NESTED.rstrip("/"), {})[key.removeprefix(_NESTED)] = value
    else:
        message[key] = value
