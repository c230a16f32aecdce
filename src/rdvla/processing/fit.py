"""Fit camera images of any shape to the square that a policy sees.

Training, prediction, evaluation and exported policies all come here, so a policy sees on the robot what it
saw in training. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rdvla.errors import ConfigError, InputError
from rdvla.inputs import to_numpy
from rdvla.types import Array, Observation, as_observation

Resize = Literal["crop", "pad", "stretch"]
SAME_SHAPE = 0.01  # width / height may differ by this share: cameras round odd sizes


@dataclass(frozen=True)
class ImageFit:
    """Makes an image square.

    `crop` keeps the central square, `pad` keeps everything and adds black bars, `stretch` distorts. Images
    are scaled by a triangle filter that widens with the pixels it covers, in Pillow's integer arithmetic.
    """

    size: int  # pixels, square, of the result
    how: Resize

    def __post_init__(self) -> None:
        if self.how not in get_args(Resize):
            raise ConfigError(f"resize is {self.how!r}; it must be one of {', '.join(get_args(Resize))}")

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 -> (size, size, 3) uint8; an image that has the size comes back as it is."""
        height, width = image.shape[:2]
        if height == width == self.size:
            return image
        picture = Image.fromarray(np.ascontiguousarray(image))
        if self.how == "crop":
            side = min(height, width)
            left, top = (width - side) // 2, (height - side) // 2
            return _scaled(picture.crop((left, top, left + side, top + side)), self.size, self.size)
        if self.how == "stretch":
            return _scaled(picture, self.size, self.size)
        longest = max(height, width)
        inner_height, inner_width = (max(1, round(side * self.size / longest)) for side in (height, width))
        canvas = np.zeros((self.size, self.size, 3), dtype=np.uint8)
        top, left = (self.size - inner_height) // 2, (self.size - inner_width) // 2
        inner = _scaled(picture, inner_width, inner_height)
        canvas[top : top + inner_height, left : left + inner_width] = inner
        return canvas

    def move(self, points: Array, size: tuple[int, int]) -> Array:
        """Return where points of an image lie after fitting it.

        Args:
            points: (..., 2), x to the right and y down, -1 to 1 inside the image.
            size: (height, width) of the image in pixels.
        """
        if self.how == "stretch":
            return points
        height, width = size
        inside = min(height, width) if self.how == "crop" else max(height, width)
        moved = points * 1  # a copy, of numpy or torch
        moved[..., 0] *= width / inside
        moved[..., 1] *= height / inside
        return moved


@dataclass(frozen=True)
class CameraFits:
    """Fits what a robot's cameras give to what a policy was trained on."""

    fits: Mapping[str, ImageFit]  # by camera
    sizes: Mapping[str, tuple[int, int]]  # camera -> (height, width) in training; others must fit already

    def __call__(self, observation: Observation) -> Observation:
        """Return the observation with square images; cameras that the policy does not know are left out.

        Raises:
            InputError: a camera is missing, or gives images of another shape than in training.
        """
        images = {camera: self._fitted(camera, observation) for camera in self.fits}
        return replace(observation, images=images)

    def batch(self, observation: Observation | Sequence[Observation]) -> Observation:
        """Return a batch of square images.

        Args:
            observation: a batch, a single one, or a list of these, whose images may differ in size.

        Raises:
            InputError: as for a call; or there is no observation.
        """
        if isinstance(observation, Sequence):
            return Observation.collate([self(as_observation(each)) for each in observation])
        return self(as_observation(observation).batched())

    def check(self, observation: Observation) -> None:
        """Check that the cameras' images can be fitted, without fitting them.

        Raises:
            InputError: a camera is missing, or gives images of another shape than in training.
        """
        for camera in self.fits:
            self._check(camera, observation)

    def in_words(self) -> dict[str, str]:
        """Return what each camera gives and what becomes of its images, such as "640x480 -> 128x128, pad"."""
        shown = {}
        for camera, fit in self.fits.items():
            height, width = self.sizes.get(camera, (fit.size, fit.size))
            fitted = "" if (height, width) == (fit.size, fit.size) else f" -> {fit.size}x{fit.size}"
            shown[camera] = f"{width}x{height}{fitted}" + (f", {fit.how}" if height != width else "")
        return shown

    def check_shape(self, camera: str, size: tuple[int, int], *, of: str) -> None:
        """Check that images of a camera have the proportions that they had in training.

        Args:
            camera: its name.
            size: (height, width) of the images.
            of: where they come from, for the message.

        Raises:
            InputError: they have not.
        """
        (height, width), fit = size, self.fits[camera]
        trained_height, trained_width = self.sizes.get(camera, (fit.size, fit.size))
        if abs(width * trained_height - height * trained_width) > SAME_SHAPE * height * trained_width:
            raise InputError(
                f"camera {camera!r} of {of} gives {width}x{height} images, the policy was trained on "
                f"{trained_width}x{trained_height} ones, which it makes square itself ({fit.how}): give the "
                "whole image, of any size with the same proportions"
            )

    def _fitted(self, camera: str, observation: Observation) -> Array:
        self._check(camera, observation)
        images, fit = observation.images[camera], self.fits[camera]
        if tuple(images.shape[-3:-1]) == (fit.size, fit.size):
            return images
        return _like(images, _each(fit, to_numpy(images)))

    def _check(self, camera: str, observation: Observation) -> None:
        if camera not in self.sizes:
            observation.check_size(camera, image_size=self.fits[camera].size)
        height, width = observation.camera(camera).shape[-3:-1]
        self.check_shape(camera, (height, width), of="the observation")


def _scaled(picture: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)


def _each(fit: ImageFit, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., H, W, 3) -> (..., size, size, 3)."""
    flat = images.reshape(-1, *images.shape[-3:])
    fitted = np.empty((len(flat), fit.size, fit.size, 3), dtype=np.uint8)
    for index, image in enumerate(flat):
        fitted[index] = fit(image)
    return fitted.reshape(*images.shape[:-3], fit.size, fit.size, 3)


def _like(original: Array, images: NDArray[np.uint8]) -> Any:
    """Return `images` as the kind of array that the original is, on its device."""
    if not hasattr(original, "detach"):
        return images
    import torch

    return torch.from_numpy(images).to(original.device)
