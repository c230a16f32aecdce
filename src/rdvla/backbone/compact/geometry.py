"""Places in an image as features and as weights over a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fourier_features(points: Tensor) -> Tensor:
    """(..., 2) in [-1, 1] -> (..., 18): the point, and sine and cosine at four frequencies."""
    waves = [wave(points * (math.pi * f)) for f in (0.5, 1.0, 2.0, 4.0) for wave in (torch.sin, torch.cos)]
    return torch.cat([points, *waves], dim=-1)


def bilinear_weights(points: Tensor, grid: int) -> Tensor:
    """(..., 2) in [-1, 1] -> (..., grid x grid): how much of a point each cell holds; sums to 1."""
    place = (points + 1) / 2 * grid - 0.5  # in cells, from the centre of the first one
    cells = torch.arange(grid, device=points.device)
    near = (1 - (place.clamp(0, grid - 1).unsqueeze(-1) - cells).abs()).clamp(min=0)  # (..., 2, grid) x, y
    return (near[..., 1, :, None] * near[..., 0, None, :]).flatten(-2)
