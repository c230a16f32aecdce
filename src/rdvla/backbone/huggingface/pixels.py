"""How vision-language models lay out pixels and image features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def stack_images(features: Any, images: int) -> Tensor:
    """Image features as (N, tokens, D), whether they come image by image or in one tensor."""
    joined = features if isinstance(features, Tensor) else torch.cat(list(features))
    return joined.reshape(images, -1, joined.shape[-1])


def to_patches(pixels: Tensor, *, size: int, merge: int, frames: int) -> Tensor:
    """(N, 3, S, S) -> (N x patches, 3 x frames x size x size), the patches of one image token side by side.

    A still image is a film of `frames` equal frames.
    """
    count = pixels.shape[-1] // (size * merge)
    x = pixels.reshape(len(pixels), 3, count, merge, size, count, merge, size)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)  # (N, rows, columns, merge, merge, 3, 1, size, size)
    return x.expand(*x.shape[:6], frames, size, size).flatten(5).flatten(0, 4)
