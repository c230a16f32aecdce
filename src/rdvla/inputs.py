"""What a policy takes, checked alike for tensors of torch and arrays of numpy. Imports neither."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rdvla.errors import InputError, nearest


class Array(Protocol):
    """What the checks need to know."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the numbers, ``torch.uint8`` or ``uint8``."""
        ...

    def __abs__(self) -> Any: ...


def check_batch(images: Mapping[str, Array], state: Array, instruction: Sequence[str]) -> None:
    """Check that images (B, H, W, 3) uint8, state (B, S) and B sentences go together.

    Raises:
        InputError: one of them has another shape or type.
    """
    if isinstance(instruction, str):
        raise InputError(
            "instruction must be a list with one sentence a sample; wrap a single one as [sentence]"
        )
    batch = len(instruction)
    if len(state.shape) != 2 or state.shape[0] != batch:
        raise InputError(f"state must be ({batch}, S) to go with the instructions, got {tuple(state.shape)}")
    for camera, image in images.items():
        fits = len(image.shape) == 4 and image.shape[0] == batch and image.shape[3] == 3
        if not fits or str(image.dtype).removeprefix("torch.") != "uint8":
            raise InputError(
                f"images[{camera!r}] must be ({batch}, height, width, 3) uint8, "
                f"got {tuple(image.shape)} {image.dtype}"
            )


def check_cameras(images: Mapping[str, Array], *, cameras: Sequence[str], image_size: int) -> None:
    """Check that every camera is there, `image_size` square. Nothing is resized or guessed.

    Raises:
        InputError: a camera is missing, or its images have another size.
    """
    for camera in cameras:
        if camera not in images:
            raise InputError(
                f"the observation lacks the camera {camera!r}; it has {sorted(images)}."
                f"{nearest(camera, images)}"
            )
        height, width = images[camera].shape[1:3]
        if (height, width) != (image_size, image_size):
            raise InputError(
                f"camera {camera!r} gives {width}x{height} images, the policy was trained on "
                f"{image_size}x{image_size}: set the camera to that size, or resize before calling the policy"
            )


def check_state(state: Array, *, state_dim: int) -> None:
    """Check proprioception (B, S).

    Raises:
        InputError: it has another size than `state_dim`, or is not finite.
    """
    if state.shape[-1] != state_dim:
        raise InputError(f"the policy takes {state_dim} numbers of proprioception, got {state.shape[-1]}")
    if not bool((abs(state) < math.inf).all()):  # which NaN is not either
        raise InputError("the proprioception holds NaN or infinite numbers: check the robot's sensors")


def instruction_bytes(sentence: str, *, longest: int) -> bytes:
    """An instruction as an encoder over bytes reads it: lower case, single spaces, UTF-8.

    Raises:
        InputError: it is empty, or has more than `longest` bytes.
    """
    data = " ".join(sentence.lower().split()).encode()
    if not 0 < len(data) <= longest:
        raise InputError(f"an instruction must have 1 to {longest} bytes, got {len(data)}: {sentence!r}")
    return data
