"""Images of any shape become squares, the same in training and on the robot."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdvla.errors import ConfigError, InputError
from rdvla.processing.fit import CameraFits, ImageFit
from rdvla.types import Observation


def photo(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: smooth waves with noise, so every filter gives something else."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / height
    waves = np.stack([np.sin(20 * x), np.cos(13 * y * (1 + x)), np.sin(9 * x * y)], axis=-1)
    return (128 + 90 * waves + rng.normal(0, 10, waves.shape)).clip(0, 255).astype(np.uint8)


def triangle(before: int, after: int) -> np.ndarray:
    """(after, before) weights of the triangle filter, widened when the image shrinks."""
    scale = max(before / after, 1.0)
    centres = (np.arange(after) + 0.5) * before / after
    distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / scale
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = np.einsum("oh,hwc->owc", triangle(image.shape[0], height), image.astype(float))
    return np.einsum("pw,owc->opc", triangle(image.shape[1], width), rows)


@pytest.mark.parametrize(("height", "width"), [(480, 640), (48, 64), (100, 37), (96, 96)])
def test_fitted_images_are_those_of_a_triangle_filter(height: int, width: int) -> None:
    image, size = photo(height, width), 32
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    longest = max(height, width)
    inner = [max(1, round(n * size / longest)) for n in (height, width)]
    above, before = (size - inner[0]) // 2, (size - inner[1]) // 2
    padded = np.zeros((size, size, 3))
    padded[above : above + inner[0], before : before + inner[1]] = scaled(image, *inner)
    expected = {
        "stretch": scaled(image, size, size),
        "crop": scaled(image[top : top + side, left : left + side], size, size),
        "pad": padded,
    }
    for how, reference in expected.items():
        found = ImageFit(size, how)(image)  # type: ignore[arg-type]
        assert found.dtype == np.uint8 and found.shape == (size, size, 3)
        # Two passes, each rounded to a whole grey level.
        assert np.abs(found - reference).max() <= 1.5, how


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = photo(32, 32)
    for how in ("crop", "pad", "stretch"):
        np.testing.assert_array_equal(ImageFit(32, how)(image), image)  # type: ignore[arg-type]


def test_cropping_to_the_very_size_does_not_resample() -> None:
    image = photo(32, 48)
    np.testing.assert_array_equal(ImageFit(32, "crop")(image), image[:, 8:40])


def test_an_unknown_way_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'squeeze'.*crop, pad, stretch"):
        ImageFit(32, "squeeze")  # type: ignore[arg-type]


FITS = CameraFits(
    fits={"front": ImageFit(16, "pad"), "wrist": ImageFit(16, "crop")}, sizes={"front": (48, 64)}
)


def observation(front: np.ndarray, wrist: np.ndarray) -> Observation:
    return Observation({"front": front, "wrist": wrist, "other": photo(20, 20)}, np.zeros(2), "push")


@pytest.mark.parametrize("kind", ["numpy", "torch", "batch"])
def test_observations_of_every_kind_are_fitted_alike(kind: str) -> None:
    front, wrist = photo(48, 64), photo(16, 16)
    given = observation(front, wrist)
    given = {"numpy": given, "torch": given.torch(), "batch": given.torch().batched()}[kind]
    fitted = FITS(given)
    assert isinstance(fitted.images["front"], torch.Tensor) == (kind != "numpy")
    assert set(fitted.images) == {"front", "wrist"}
    found = np.asarray(fitted.images["front"]).reshape(16, 16, 3)
    np.testing.assert_array_equal(found, ImageFit(16, "pad")(front))
    np.testing.assert_array_equal(np.asarray(fitted.images["wrist"]).reshape(16, 16, 3), wrist)


def test_other_sizes_of_the_same_shape_are_taken() -> None:
    fitted = FITS(observation(photo(240, 320), photo(16, 16)))
    assert fitted.images["front"].shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("front", "wrist", "message"),
    [
        (photo(16, 16), photo(16, 16), r"'front'.*16x16.*trained on 64x48.*pad"),
        (photo(64, 48), photo(16, 16), r"'front'.*48x64"),
        (photo(48, 64), photo(32, 32), r"'wrist' gives 32x32.*trained on 16x16"),
    ],
)
def test_images_of_another_shape_are_refused(front: np.ndarray, wrist: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FITS(observation(front, wrist))


def test_a_missing_camera_is_named_with_the_nearest() -> None:
    given = Observation({"frnt": photo(48, 64), "wrist": photo(16, 16)}, np.zeros(2), "push")
    with pytest.raises(InputError, match=r"lacks the camera 'front'.*Did you mean 'frnt'"):
        FITS(given)


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (120, 80)])
def test_points_move_with_the_image(how: str, height: int, width: int) -> None:
    row, column = 50, 45
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[row - 1 : row + 2, column - 1 : column + 2] = 255
    fit = ImageFit(64, how)  # type: ignore[arg-type]
    seen = fit(image)[..., 0].astype(float)
    centre = [(seen.sum(axis=axis) * (np.arange(64) + 0.5)).sum() / seen.sum() for axis in (0, 1)]
    point = np.array([(column + 0.5) / width * 2 - 1, (row + 0.5) / height * 2 - 1])
    moved = (fit.move(point, (height, width)) + 1) / 2 * 64
    np.testing.assert_allclose(moved, centre, atol=0.5)  # of a pixel
    torch.testing.assert_close(
        fit.move(torch.from_numpy(point), (height, width)), torch.from_numpy(fit.move(point, (height, width)))
    )
