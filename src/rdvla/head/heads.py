"""Attention heads: one width for all, or one axis of their own."""

from __future__ import annotations

from torch import Tensor


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, D) -> (B, h, T, D / h)."""
    batch, tokens, width = x.shape
    return x.view(batch, tokens, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, T, D / h) -> (B, T, D)."""
    return x.transpose(1, 2).flatten(2)
