"""Attention over the image: slots that ask, by the instruction, for things and their positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rdvla.backbone.compact.config import CompactConfig


class InstructedSlots(nn.Module):
    """Soft attention over the image: every slot asks, by the instruction, for a thing and its position."""

    grid_points: Tensor

    def __init__(self, config: CompactConfig, *, token_width: int, text_width: int, grid: int) -> None:
        super().__init__()
        self.cameras, self.slots, self.dim = config.num_cameras, config.slots, config.slot_dim
        self.key = nn.Linear(token_width, config.slot_dim)
        self.key_positions = nn.Parameter(torch.randn(self.cameras, grid * grid, config.slot_dim) * 0.1)
        self.query = nn.Parameter(torch.randn(self.cameras, self.slots, config.slot_dim))
        self.query_from_text = nn.Linear(text_width, self.cameras * self.slots * config.slot_dim)
        self.value = nn.Linear(token_width, config.width)
        self.where = nn.Linear(18, config.width)
        self.identity = nn.Parameter(torch.randn(self.cameras * self.slots, config.width) * 0.3)
        self.mix = nn.Sequential(
            nn.RMSNorm(config.width), nn.Linear(config.width, 4 * config.width), nn.SiLU(),
            nn.Linear(4 * config.width, config.width),
        )  # fmt: skip
        self.norm = nn.RMSNorm(config.width)
        axis = torch.linspace(-1, 1, grid)
        points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # (grid, grid, 2) x, y
        self.register_buffer("grid_points", points.flatten(0, 1), persistent=False)

    def forward(self, tokens: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return vision tokens, (B, cameras x slots, C), and attention, (B, cameras, slots, tokens).

        Args:
            tokens: (B, cameras, tokens, token_width).
            text: (B, text_width).
        """
        asked = self.query_from_text(text).unflatten(-1, (self.cameras, self.slots, self.dim))
        queries, keys = self.query + asked, self.key(tokens) + self.key_positions
        attention = torch.softmax(queries @ keys.transpose(-1, -2) * (2 / math.sqrt(self.dim)), dim=-1)
        position = fourier_features(attention @ self.grid_points)  # expected position
        x = (self.value(attention @ tokens) + 2 * self.where(position)).flatten(1, 2) + self.identity
        return self.norm(x + self.mix(x)), attention


def fourier_features(points: Tensor) -> Tensor:
    """(..., 2) in [-1, 1] -> (..., 18): the point, and sine and cosine at four frequencies."""
    waves = [wave(points * (math.pi * f)) for f in (0.5, 1.0, 2.0, 4.0) for wave in (torch.sin, torch.cos)]
    return torch.cat([points, *waves], dim=-1)


def bilinear_weights(points: Tensor, grid: int) -> Tensor:
    """(..., 2) in [-1, 1] -> (..., grid x grid): share of a point in each cell; sums to 1."""
    position = (points + 1) / 2 * grid - 0.5  # in cells, from the centre of the first cell
    cells = torch.arange(grid, device=points.device)
    near = (1 - (position.clamp(0, grid - 1).unsqueeze(-1) - cells).abs()).clamp(min=0)  # (..., 2, grid) x, y
    return (near[..., 1, :, None] * near[..., 0, None, :]).flatten(-2)
