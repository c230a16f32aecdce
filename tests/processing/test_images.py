"""Image preprocessing against Pillow, which computes the same steps in its own way."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rdvla.processing.images import (
    ImageTransform,
    centre_crop,
    jpeg_round_trip,
    lanczos_resize,
)
from tests.support.closeness import rounding

PUBLISHED = ImageTransform(size=224, crop_area=0.9, jpeg_quality=95)


def photograph(size: int, *, seed: int = 0) -> Tensor:
    """(1, size, size, 3) uint8 with smooth parts, edges and noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = np.stack([255 * x, 255 * y, 127 + 100 * np.sin(20 * x * y)], axis=-1)
    image[size // 4 : size // 2, size // 3 : size // 2] = (250, 20, 20)
    image += generator.normal(0, 12, image.shape)
    return torch.from_numpy(image.clip(0, 255).astype(np.uint8))[None]


def difference(ours: Tensor, theirs: Image.Image) -> np.ndarray:
    return np.abs(ours[0].numpy().astype(int) - np.asarray(theirs).astype(int))


@pytest.mark.parametrize(("before", "after"), [(256, 224), (128, 224), (640, 224), (224, 224)])
def test_lanczos_is_pillows(before: int, after: int) -> None:
    """By Pillow's floating-point images: otherwise it would cut overshoots between its passes."""
    image = photograph(before)
    channels = [Image.fromarray(image[0, :, :, c].numpy().astype(np.float32)) for c in range(3)]
    resized = [np.asarray(c.resize((after, after), Image.Resampling.LANCZOS)) for c in channels]
    expected = np.stack(resized, axis=-1).round().clip(0, 255)
    off = np.abs(lanczos_resize(image, after)[0].numpy() - expected)
    assert off.max() <= 1 and off.mean() < 1e-3  # a level where both lie within a hair of a half


def test_centre_crop_is_pillows() -> None:
    """By an affine map from edge to edge of the crop; Pillow rounds where TensorFlow cuts."""
    image, size = photograph(224), 224
    side = math.sqrt(0.9)
    step, first = side, (1 - side) / 2 * (size - 1)
    shift = first + 0.5 - step / 2  # Pillow's pixel centres lie at halves
    expected = Image.fromarray(image[0].numpy()).transform(
        (size, size), Image.Transform.AFFINE, (step, 0, shift, 0, step, shift), Image.Resampling.BILINEAR
    )
    assert difference(centre_crop(image, 0.9), expected).max() <= 1


def test_centre_crop_cuts_grey_levels_as_tensorflow_does() -> None:
    """A ramp scaled by hand: pixel i comes from position first + i * step and is cut, not rounded."""
    size = 224
    ramp = torch.arange(size, dtype=torch.uint8).expand(1, 3, size, size).permute(0, 2, 3, 1)
    side = math.sqrt(0.9)
    positions = [(1 - side) / 2 * (size - 1) + i * side for i in range(size)]
    expected = [math.floor(position / 255 * 255.5) for position in positions]
    assert centre_crop(ramp.contiguous(), 0.9)[0, 5, :, 1].tolist() == expected


def test_jpeg_is_pillows_at_half_colour_resolution() -> None:
    image = photograph(256)
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=95, subsampling=2)
    assert difference(jpeg_round_trip(image, quality=95), Image.open(file)).max() == 0
    assert 0 < difference(jpeg_round_trip(image, quality=95), Image.fromarray(image[0].numpy())).mean() < 8


def test_steps_in_the_published_order() -> None:
    image = photograph(256)
    steps = centre_crop(lanczos_resize(jpeg_round_trip(image, quality=95), 224), 0.9)
    assert torch.equal(PUBLISHED(image), steps)
    assert not torch.equal(replace(PUBLISHED, jpeg_quality=None)(image), steps)


@pytest.mark.parametrize("size", [224, 256])
def test_mixed_precision_changes_no_pixel(size: int) -> None:
    """Images pass through inside autocast if the image encoders are trained."""
    image = photograph(size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = PUBLISHED(image)
    assert torch.equal(mixed, PUBLISHED(image))


def test_images_of_the_right_size_are_only_cropped() -> None:
    image = photograph(224)
    assert torch.equal(PUBLISHED(image), centre_crop(image, 0.9))
    assert torch.equal(replace(PUBLISHED, crop_area=1)(image), image)


def test_images_do_not_see_each_other() -> None:
    images = torch.cat([photograph(256, seed=seed) for seed in range(3)])
    together = PUBLISHED(images).int()
    alone = torch.cat([PUBLISHED(images[row : row + 1]) for row in range(3)]).int()
    off = (together - alone).abs()
    # Products of another shape add in another order, so a value next to the edge of a grey level may fall on
    # either side of it. Resize and crop are two products each, of at most 7 weights that are not 0.
    edge = 255 * rounding(7, products=4)
    assert off.max() <= 1 and (off > 0).float().mean() <= 2 * edge


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_flat_images_stay_flat(level: int) -> None:
    image = torch.full((1, 256, 256, 3), level, dtype=torch.uint8)
    assert (replace(PUBLISHED, jpeg_quality=None)(image) == level).all()
