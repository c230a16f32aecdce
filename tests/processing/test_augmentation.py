"""Augmented images against definitions written in numpy, colorsys and PIL."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from rdvla.errors import ConfigError
from rdvla.processing.augmentation import Augmentation, ImageChanges

PAPER = Augmentation(crop_area=0.9, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 9, 12, 3), dtype=np.uint8))
SHARES = NDArray[np.float64]  # (H, W, 3), 0..1


def changes(count: int = len(IMAGES), **values: float | torch.Tensor) -> ImageChanges:
    """Change nothing but what is named."""
    defaults = {"top": 0, "left": 0, "side": 1, "brightness": 0, "contrast": 1, "saturation": 1, "hue": 0}
    return ImageChanges(**{name: torch.ones(count) * value for name, value in (defaults | values).items()})


def apply_by_definition(image: torch.Tensor, change: Callable[[SHARES], Any]) -> NDArray[np.float64]:
    """Grey levels, not rounded."""
    return 255 * np.clip(change(image.numpy() / 255.0), 0, 1)


def by_pixel(change: Callable[[float, float, float], tuple[float, float, float]]) -> Callable[[SHARES], Any]:
    def whole(image: SHARES) -> Any:
        hsv = np.apply_along_axis(lambda rgb: change(*colorsys.rgb_to_hsv(*rgb)), -1, image)
        return np.apply_along_axis(lambda pixel: colorsys.hsv_to_rgb(*pixel), -1, hsv)

    return whole


FACTORS = np.array([0.8, 0.9, 1.0, 1.1, 1.2, 3.0])
TURNS = np.array([-0.05, 0.05, 0.0, 0.2, -0.45, 0.5])
SHIFTS = np.array([-0.2, 0.2, 0.0, 0.1, -1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "values", "definition"),
    [
        ("brightness", SHIFTS, lambda value: lambda image: image + value),
        (
            "contrast",
            FACTORS,
            lambda value: lambda image: (image - image.mean((0, 1))) * value + image.mean((0, 1)),
        ),
        ("saturation", FACTORS, lambda value: by_pixel(lambda h, s, v: (h, min(s * value, 1), v))),
        ("hue", TURNS, lambda value: by_pixel(lambda h, s, v: ((h + value) % 1, s, v))),
    ],
)
def test_each_change_is_what_its_definition_says(
    name: str, values: NDArray[np.float64], definition: Callable[[float], Callable[[SHARES], Any]]
) -> None:
    found = changes(**{name: torch.from_numpy(values)}).apply(IMAGES)
    assert found.dtype == torch.uint8 and found.shape == IMAGES.shape
    for image, after, value in zip(IMAGES, found.numpy(), values, strict=True):
        expected = apply_by_definition(image, definition(float(value)))
        assert np.abs(after - expected).max() <= 0.5 + 1e-3, (name, value)


def test_the_order_is_brightness_contrast_saturation_hue_each_cut_to_what_an_image_can_hold() -> None:
    found = changes(brightness=0.3, contrast=1.2, saturation=1.4, hue=0.1).apply(IMAGES)

    def in_turn(image: SHARES) -> Any:
        image = np.clip(image + 0.3, 0, 1)
        image = np.clip((image - image.mean((0, 1))) * 1.2 + image.mean((0, 1)), 0, 1)
        return by_pixel(lambda h, s, v: ((h + 0.1) % 1, min(1.4 * s, 1), v))(image)

    for image, after in zip(IMAGES, found.numpy(), strict=True):
        assert np.abs(after - apply_by_definition(image, in_turn)).max() <= 0.51


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (80, 80, 80), (255, 0, 0), (0, 0, 255)])
def test_greys_have_no_hue_and_pure_colours_no_more_saturation(colour: tuple[int, int, int]) -> None:
    image = torch.tensor(colour, dtype=torch.uint8).expand(1, 4, 4, 3)
    found = changes(1, saturation=1.2, hue=0.25).apply(image)[0, 0, 0].tolist()
    grey = len(set(colour)) == 1
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    wanted = [round(255 * c) for c in colorsys.hsv_to_rgb((h + 0.25) % 1, s, v)]
    assert found == (list(colour) if grey else pytest.approx(wanted, abs=1))


def test_a_crop_is_scaled_back_with_its_outermost_samples_on_its_edges() -> None:
    top, left, side = 0.03, 0.05, 0.9
    found = changes(top=top, left=left, side=side).apply(IMAGES).numpy()
    _, height, width, _ = IMAGES.shape
    rows, columns = (
        (first + side * np.linspace(0, 1, number)) * (number - 1)
        for first, number in ((top, height), (left, width))
    )
    for image, after in zip(IMAGES.numpy(), found, strict=True):
        for row, column in np.ndindex(height, width):
            y, x = rows[row], columns[column]
            i, j = min(int(y), height - 2), min(int(x), width - 2)
            corners = image[i : i + 2, j : j + 2].astype(float)
            expected = np.einsum("ijc,i,j->c", corners, [1 - (y - i), y - i], [1 - (x - j), x - j])
            assert np.abs(after[row, column] - expected).max() <= 0.5 + 1e-2


def test_a_crop_agrees_with_pil_inside() -> None:
    """PIL places samples at the centres of pixels, which is nearly the same in a large, smooth image."""
    y, x = np.mgrid[0:128, 0:128] / 128
    image = np.stack([x, y, (x + y) / 2], axis=-1) * 200
    pixels = image.astype(np.uint8)
    found = changes(1, top=0.02, left=0.04, side=0.9).apply(torch.from_numpy(pixels)[None])[0].numpy()
    box = (0.04 * 128, 0.02 * 128, 0.94 * 128, 0.92 * 128)
    expected = Image.fromarray(pixels).resize((128, 128), Image.Resampling.BILINEAR, box=box)
    assert np.abs(found.astype(int) - np.asarray(expected).astype(int)).max() <= 2


def test_nothing_changes_if_nothing_is_to_change() -> None:
    assert torch.equal(changes().apply(IMAGES), IMAGES)
    assert not Augmentation().is_on and PAPER.is_on
    drawn = Augmentation().draw(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn.apply(IMAGES[:4]), IMAGES[:4])


def test_keypoints_move_with_the_pixels() -> None:
    image = torch.zeros(1, 64, 96, 3, dtype=torch.uint8)
    row, column = 20, 50
    image[0, row, column] = 255
    point = torch.tensor([[[2 * (column + 0.5) / 96 - 1, 2 * (row + 0.5) / 64 - 1]]])
    change = changes(1, top=0.04, left=0.01, side=0.9)
    bright = change.apply(image)[0, :, :, 0].double()
    y, x = (
        float((bright.sum(dim=1 - axis) * torch.arange(size)).sum() / bright.sum())
        for axis, size in enumerate(bright.shape)
    )
    moved = change.move(point, size=(64, 96))[0, 0]
    assert moved.tolist() == pytest.approx([2 * (x + 0.5) / 96 - 1, 2 * (y + 0.5) / 64 - 1], abs=0.4 / 64)
    outside = change.move(torch.tensor([[[-0.999, -0.999]]]), size=(64, 96))
    assert (outside < -1).all()


def test_draws_cover_their_ranges_and_depend_on_the_generator_alone() -> None:
    first, again, other = (PAPER.draw(4000, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    for name, low, high in (
        ("top", 0, 1 - 0.9**0.5),
        ("left", 0, 1 - 0.9**0.5),
        ("brightness", -0.2, 0.2),
        ("contrast", 0.8, 1.2),
        ("saturation", 0.8, 1.2),
        ("hue", -0.05, 0.05),
    ):
        drawn = getattr(first, name)
        assert torch.equal(drawn, getattr(again, name)) and not torch.equal(drawn, getattr(other, name))
        assert low <= drawn.min() <= low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) <= drawn.max() <= high
    assert first.side.tolist() == pytest.approx([0.9**0.5] * 4000)


def test_switching_one_change_off_leaves_the_others_as_they_were() -> None:
    all_on = PAPER.draw(8, generator=torch.Generator().manual_seed(3))
    some = Augmentation(contrast=0.2, hue=0.05).draw(8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(all_on.contrast, some.contrast) and torch.equal(all_on.hue, some.hue)
    assert (some.side == 1).all() and not some.brightness.any() and (some.saturation == 1).all()


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    many = IMAGES.repeat(400, 1, 1, 1)  # more pixels than are changed at once
    change = PAPER.draw(len(many), generator=torch.Generator().manual_seed(0))
    together = change.apply(many)
    for index in (0, 7, len(many) - 1):
        own = ImageChanges(*(getattr(change, name)[index : index + 1] for name in vars(change)))
        assert torch.equal(own.apply(many[index : index + 1])[0], together[index])


@pytest.mark.parametrize(
    "numbers",
    [
        {"crop_area": 0.0},
        {"crop_area": 1.1},
        {"brightness": -0.1},
        {"contrast": 1.5},
        {"saturation": float("nan")},
        {"hue": 0.6},
        {"crop_area": float("nan")},
    ],
)
def test_impossible_numbers_are_refused(numbers: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"augmentation\.{next(iter(numbers))} is"):
        Augmentation(**numbers)
