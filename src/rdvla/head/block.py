"""The transformer block that prelude, core and coda are made of (paper, section on the action head).

Shapes: B batch, K chunk length, D hidden width, h heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.head.config import HeadConfig, RotaryForm
from rdvla.head.cross_attention import BlockContext, CrossAttention
from rdvla.head.heads import merge_heads, split_heads


class Rotary(nn.Module):
    """Rotary position embedding over the K action tokens.

    `standard` rotates the pairs (i, i + D/2h). `neighbour_pairs` is the form of the published weights:
    cosines and sines are laid out as two concatenated halves while the pairs rotated are neighbours
    (2i, 2i + 1), so that it is not a true rotation.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, *, positions: int, head_dim: int, base: float, form: RotaryForm) -> None:
        super().__init__()
        self.form = form
        frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies  # (K, D/2h)
        angles = torch.cat([angles, angles], dim=-1)  # (K, D/h)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate queries or keys, (..., K, D/h)."""
        if self.form == "standard":
            first, second = x.chunk(2, dim=-1)
            turned = torch.cat([-second, first], dim=-1)
        else:
            turned = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
        return x * self.cos.to(x.dtype) + turned * self.sin.to(x.dtype)


class SelfAttention(nn.Module):
    """Self-attention over the K action tokens with rotary positions."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_dim, 3 * config.hidden_dim, bias=False)
        self.output = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.rotary = Rotary(
            positions=config.chunk_size,
            head_dim=config.hidden_dim // config.num_heads,
            base=config.rotary_base,
            form=config.rotary,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, D) -> (B, K, D)."""
        queries, keys, values = (split_heads(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(self.rotary(queries), self.rotary(keys), values)
        out: Tensor = self.output(merge_heads(mixed))
        return out


class SwiGLU(nn.Module):
    """Feed-forward W_down(silu(W_gate x) * W_up x), without biases."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        inner = config.feedforward_multiple * config.hidden_dim
        self.gate_up = nn.Linear(config.hidden_dim, 2 * inner, bias=False)
        self.down = nn.Linear(inner, config.hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, D) -> (B, K, D)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out


class Block(nn.Module):
    """Pre-norm block: self-attention, cross-attention to the context, SwiGLU; a residual around each."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.self_norm = nn.RMSNorm(config.hidden_dim, eps=config.norm_eps)
        self.self_attention = SelfAttention(config)
        self.cross_norm = nn.RMSNorm(config.hidden_dim, eps=config.norm_eps)
        self.cross_attention = CrossAttention(config)
        self.feedforward_norm = nn.RMSNorm(config.hidden_dim, eps=config.norm_eps)
        self.feedforward = SwiGLU(config)
        self._initialise(config)

    def _initialise(self, config: HeadConfig) -> None:
        outputs = (self.self_attention.output, self.cross_attention.output, self.feedforward.down)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Matrices that read the context have its width; the rest keep the paper's sqrt(2 / (5 D)).
                reads_context = module in (self.cross_attention.latents_kv, self.cross_attention.vision_kv)
                std = math.sqrt(2 / (5 * config.context_width)) if reads_context else config.weight_std
                truncated_normal_(module.weight, std / config.output_scale if module in outputs else std)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """(B, K, D) -> (B, K, D)."""
        x = x + self.self_attention(self.self_norm(x))
        x = x + self.cross_attention(self.cross_norm(x), context)
        out: Tensor = x + self.feedforward(self.feedforward_norm(x))
        return out


def truncated_normal_(tensor: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    """Fill with a normal distribution of mean 0 cut at three standard deviations."""
    return nn.init.trunc_normal_(tensor, std=std, a=-3 * std, b=3 * std, generator=generator)
