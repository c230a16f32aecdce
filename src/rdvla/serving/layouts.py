"""From the dicts that openpi's clients send to `Observation`: names, shapes and types, checked one by one.

A layout says which key of a message holds which camera, and which keys make up the proprioception. The three
of openpi have its names exactly; `native` takes the policy's own. A `LayoutMapping` changes any of them.
Nothing is guessed: what does not fit the policy is refused, at start-up if that can be known then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import ConfigError, InputError, nearest
from rdvla.inputs import as_numbers
from rdvla.processing.fit import CameraFits
from rdvla.serving.config import LayoutMapping, LayoutName
from rdvla.serving.presets import INSTRUCTION, PRESETS, check_camera, image_keys, recognise, state_keys
from rdvla.serving.queries import PolicyFacts
from rdvla.types import Observation

# An image may be twice as high and wide as in training, so cameras of another resolution are no error.
LARGER = 2
LONGEST_INSTRUCTION = 4096  # characters
_SMALLEST = 224  # pixels; what openpi's clients send, whatever the policy wants
_TOLD_PIXELS = 640 * 480  # such images are taken in any case, if only to say what size is right
_OTHER_BYTES = 2**20  # of a message: state, instruction, options and keys


@dataclass(frozen=True)
class Layout:
    """Which key of a message holds what, for one policy."""

    name: str  # of a preset, or native
    images: Mapping[str, str]  # camera -> key, every camera of the policy
    sizes: Mapping[str, tuple[int, int]]  # camera -> (height, width) of the largest image that is taken
    state: Mapping[str, int | None]  # keys, concatenated, each with its numbers; None: not known
    state_dim: int
    fits: CameraFits  # what the policy makes of each camera's images
    instruction: str = INSTRUCTION
    default_instruction: str = ""
    rotate: tuple[str, ...] = ()
    resize: bool = False  # scale square images of another size

    @classmethod
    def of(cls, facts: PolicyFacts, name: LayoutName, mapping: LayoutMapping | None = None) -> Layout:
        """Return the layout of a policy.

        Args:
            facts: the policy's.
            name: of a preset; native; or auto: the preset whose cameras and proprioception the policy has,
                else native.
            mapping: what differs from it.

        Raises:
            ConfigError: the layout or the mapping does not fit the policy.
        """
        mapping = mapping or LayoutMapping()
        chosen = recognise(facts) if name == "auto" else name
        if chosen not in ("native", *PRESETS):
            known = ("auto", "native", *PRESETS)
            raise ConfigError(
                f"unknown layout {name!r}: it is one of {', '.join(known)}.{nearest(name, known)}"
            )
        for option, cameras in (("images", mapping.images), ("rotate", mapping.rotate)):
            for camera in cameras:
                check_camera(camera, facts.cameras, option=f"mapping.{option}")
        return cls(
            name=chosen,
            images=image_keys(facts, chosen, mapping),
            sizes={camera: _largest(facts, camera, mapping) for camera in facts.cameras},
            state=state_keys(facts, chosen, mapping),
            state_dim=facts.state_dim,
            instruction=mapping.instruction or INSTRUCTION,
            default_instruction=mapping.default_instruction,
            rotate=mapping.rotate,
            resize=mapping.resize,
            fits=facts.fits,
        )

    @property
    def message_bytes(self) -> int:
        """The largest message that is taken: every image at its largest, in float32."""
        pixels = (max(height * width, _TOLD_PIXELS) for height, width in self.sizes.values())
        return _OTHER_BYTES + sum(count * 3 * 4 for count in pixels)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that is read."""
        return (*self.images.values(), *self.state, self.instruction)

    def read(self, message: Mapping[str, Any]) -> Observation:
        """Return the observation in a client's message; keys that the layout does not know are left alone.

        Raises:
            InputError: a key is missing, or what it holds has the wrong type or size.
        """
        return Observation(
            images={camera: self._image(message, camera, key) for camera, key in self.images.items()},
            state=self._state(message),
            instruction=self._instruction(message),
        )

    def _image(self, message: Mapping[str, Any], camera: str, key: str) -> NDArray[np.uint8]:
        image = self._find(message, key)
        if not isinstance(image, np.ndarray):
            raise InputError(f"{key!r} must be an image, (height, width, 3), got {type(image).__name__}")
        if image.ndim != 3 or 3 not in (image.shape[0], image.shape[2]):
            raise InputError(
                f"{key!r} must be one image, (height, width, 3) or (3, height, width), got {image.shape}"
            )
        # As openpi: colours first if there are three of them.
        image = np.moveaxis(image, 0, -1) if image.shape[0] == 3 and image.shape[2] != 3 else image
        self._check_size(camera, key, image.shape[:2])
        image = _grey_levels(image, key=key)
        if camera in self.rotate:
            image = image[::-1, ::-1]
        if self.resize and camera not in self.fits.sizes:
            image = self.fits.fits[camera](image)
        return np.ascontiguousarray(image)

    def _check_size(self, camera: str, key: str, size: tuple[int, ...]) -> None:
        (height, width), (most_height, most_width) = size, self.sizes[camera]
        if height * width > most_height * most_width:
            raise InputError(
                f"{key!r} is {width}x{height} pixels, this server takes at most {most_width}x{most_height}: "
                "scale it on the robot"
            )
        if camera in self.fits.sizes:
            self.fits.check_shape(camera, (height, width), of=repr(key))
            return
        wanted = self.fits.fits[camera].size
        if height != width or (height != wanted and not self.resize):
            raise InputError(
                f"{key!r} is {width}x{height} pixels, the policy was trained on {wanted}x{wanted}: send that "
                "size (openpi's clients have an option for it), or start the server with --mapping.resize "
                "true, which scales square images"
            )

    def _state(self, message: Mapping[str, Any]) -> NDArray[np.float32]:
        if not self.state:
            return np.zeros(0, dtype=np.float32)
        parts = []
        for key in self.state:
            value = self._find(message, key)
            is_alone = isinstance(value, int | float | np.generic) or getattr(value, "shape", None) == ()
            numbers = as_numbers([value] if is_alone else value, name=repr(key))
            if numbers.ndim != 1 or self.state[key] not in (None, len(numbers)):
                wanted = "n" if self.state[key] is None else self.state[key]
                raise InputError(f"{key!r} must be a list of numbers, ({wanted},), got {numbers.shape}")
            parts.append(numbers)
        state: NDArray[np.float32] = np.concatenate(parts)
        if len(state) != self.state_dim:
            told = ", ".join(f"{key!r} {len(part)}" for key, part in zip(self.state, parts, strict=True))
            raise InputError(f"the policy takes {self.state_dim} numbers of proprioception, got {told}")
        if not np.isfinite(state).all():
            raise InputError(
                f"{' and '.join(map(repr, self.state))}: NaN or infinite numbers; check the robot's sensors"
            )
        return state

    def _instruction(self, message: Mapping[str, Any]) -> str:
        if self.instruction not in message and self.default_instruction:
            return self.default_instruction
        value = self._find(message, self.instruction)
        if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.size == 1:
            value = value.item()  # openpi turns prompts into arrays
        if not isinstance(value, str):
            raise InputError(f"{self.instruction!r} must be a text, got {type(value).__name__}")
        if len(value) > LONGEST_INSTRUCTION:
            raise InputError(
                f"{self.instruction!r} has {len(value)} characters; this server takes at most "
                f"{LONGEST_INSTRUCTION}"
            )
        return str(value)

    def _find(self, message: Mapping[str, Any], key: str) -> Any:
        """Return what a key holds; of ``images/front`` also ``message["images"]["front"]``."""
        if key in message:
            return message[key]
        outer, _, inner = key.partition("/")
        nested = message.get(outer)
        if inner and isinstance(nested, Mapping) and inner in nested:
            return nested[inner]
        present = sorted(_flat_keys(message))
        advice = ""
        if key == self.instruction:
            advice = " Send it, or start the server with --mapping.default_instruction."
        raise InputError(
            f"the observation lacks {key!r}; it has {_some(present)}.{nearest(key, present)}{advice} "
            f"The layout {self.name} of this policy takes {_some(self.keys)}"
        )


def _largest(facts: PolicyFacts, camera: str, mapping: LayoutMapping) -> tuple[int, int]:
    """Return (height, width) of the largest image that is taken from a camera."""
    height, width = facts.image_sizes[camera]
    least = _SMALLEST if mapping.resize else 0
    return LARGER * max(height, least), LARGER * max(width, least)


def _grey_levels(image: NDArray[Any], *, key: str) -> NDArray[np.uint8]:
    """Return grey levels; floats in 0..1 become them as openpi does it, rounded down."""
    if image.dtype.kind != "f":
        if image.dtype != np.uint8:
            raise InputError(f"{key!r} must be uint8, or floats in 0..1, got {image.dtype}")
        return image
    low, high = image.min(initial=1.0), image.max(initial=0.0)
    if not (low >= 0.0 and high <= 1.0):  # also true of NaN
        raise InputError(
            f"{key!r} has floats from {low:g} to {high:g}: they must be in 0..1, or send whole grey levels "
            "as uint8"
        )
    return (255 * image).astype(np.uint8)


def _flat_keys(message: Mapping[str, Any]) -> Iterator[str]:
    for key, value in message.items():
        if isinstance(value, Mapping):
            yield from (f"{key}/{inner}" for inner in value)
        else:
            yield str(key)


def _some(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name)[:80] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "") if names else "nothing"
