"""Camera images on their way into an image encoder.

`ImageTransform` does what published policies of the OpenVLA family do: JPEG round trip, Lanczos resize,
centre crop resized back. Each step ends in whole grey levels, as in the published evaluation code, which runs
TensorFlow's image operations. Both resamplings are linear and separable, so each is a small matrix per axis.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor

LANCZOS_LOBES = 3


def scale_pixels(images: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """(..., 3) uint8 -> (..., 3) float32, scaled as an encoder was trained: mean and std per colour, 0..1."""
    return (images.float() / 255 - mean.float()) / std.float()


@dataclass(frozen=True)
class ImageTransform:
    """Fit square camera images of any size to an image encoder."""

    size: int  # pixels, square, of the result
    crop_area: float  # share of the area that the centre crop keeps; 1: no crop
    jpeg_quality: int | None  # of the round trip before a resize, 1..100; None: no round trip

    def __call__(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8, H = W -> (N, size, size, 3) uint8.

        Images that have the size already are neither compressed nor resized, as in the published code.
        Autocast does not apply: bfloat16 cannot tell neighbouring grey levels apart.
        """
        with torch.autocast(images.device.type, enabled=False):
            if images.shape[1] != self.size:
                if self.jpeg_quality is not None:
                    images = jpeg_round_trip(images, quality=self.jpeg_quality)
                images = lanczos_resize(images, self.size)
            return images if self.crop_area == 1 else centre_crop(images, self.crop_area)


def jpeg_round_trip(images: Tensor, *, quality: int) -> Tensor:
    """(N, H, W, 3) uint8 -> the same after JPEG compression with halved colour resolution (4:2:0)."""
    decoded = torch.empty_like(images, device="cpu")
    for index, image in enumerate(images.cpu()):
        file = io.BytesIO()
        Image.fromarray(image.numpy()).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
        pixels = bytearray(Image.open(file).tobytes())
        decoded[index] = torch.frombuffer(pixels, dtype=torch.uint8).view(image.shape)
    return decoded.to(images.device)


def lanczos_resize(images: Tensor, size: int) -> Tensor:
    """(N, H, W, 3) uint8, H = W -> (N, size, size, 3) uint8, antialiased, rounded to whole grey levels."""
    resized = _resample(images, _lanczos_matrix(images.shape[1], size))
    return resized.round().clamp(0, 255).to(torch.uint8)


def centre_crop(images: Tensor, area: float) -> Tensor:
    """(N, H, W, 3) uint8, H = W -> its centre with this share of the area, scaled back to H x W bilinearly.

    The outermost samples lie exactly on the edges of the crop. Grey levels are cut as TensorFlow cuts them
    when it converts from 0..1: floor(255.5 v).
    """
    cropped = _resample(images, _crop_matrix(images.shape[1], area)) / 255
    return (cropped.clamp(0, 1) * 255.5).floor().clamp(0, 255).to(torch.uint8)


def _resample(images: Tensor, matrix: Tensor) -> Tensor:
    weights = matrix.to(images.device)
    rows = torch.einsum("oh,nhwc->nowc", weights, images.float())
    return torch.einsum("ow,nhwc->nhoc", weights, rows)


@lru_cache(maxsize=16)
def _lanczos_matrix(before: int, after: int) -> Tensor:
    """(after, before) weights of the windowed sinc, stretched if the image shrinks."""
    stretch = max(before / after, 1.0)
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * (before / after)
    distance = (torch.arange(before, dtype=torch.float64) + 0.5 - centres[:, None]) / stretch
    window = torch.sinc(distance) * torch.sinc(distance / LANCZOS_LOBES)
    weights = torch.where(distance.abs() < LANCZOS_LOBES, window, 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


@lru_cache(maxsize=16)
def _crop_matrix(size: int, area: float) -> Tensor:
    """(size, size) bilinear weights; the first and last row sample the edges of the crop."""
    side = math.sqrt(area)
    first = (1 - side) / 2 * (size - 1)
    positions = torch.linspace(first, size - 1 - first, size, dtype=torch.float64)
    distance = (torch.arange(size, dtype=torch.float64) - positions[:, None]).abs()
    return (1 - distance).clamp(min=0).float()
