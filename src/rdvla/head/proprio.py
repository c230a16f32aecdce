"""Proprioception as one token."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProprioProjector(nn.Module):
    """Two-layer MLP from normalised proprioception (B, S) to one context token p (B, 1, C)."""

    def __init__(self, state_dim: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(state_dim, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """(B, S) -> (B, 1, C)."""
        token: Tensor = self.fc2(torch.nn.functional.gelu(self.fc1(state)))
        return token.unsqueeze(1)
