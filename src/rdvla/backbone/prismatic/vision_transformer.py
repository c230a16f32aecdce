"""A vision transformer with timm's parameter names, so published image encoders load unchanged.

Parameter names of transformers' own encoders change from one of its versions to the next, and a saved policy
must outlive them. Source of the names and of the order of operations: timm 0.9, `vision_transformer.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.backbone.prismatic.config import VisionTransformerConfig
from rdvla.heads.checkpointing import Checkpointing
from rdvla.processing import scale_pixels

NORM_EPS = 1e-6


class VisionTransformer(Checkpointing):
    """Computes patch tokens: the output of the second-to-last block, before the final norm."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = _PatchEmbedding(config)
        self.pos_embed = nn.Parameter(torch.randn(1, config.patches, config.width) * 0.02)
        self.cls_token = _tokens(1, config.width) if config.class_token else None
        self.reg_token = _tokens(config.registers, config.width) if config.registers else None
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth - 1))
        for name in ("mean", "std"):
            scale = torch.tensor(getattr(config, name), dtype=torch.float32)
            self.register_buffer(name, scale, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, patches, width); positions are added to patches only."""
        pixels = scale_pixels(images, mean=self.mean, std=self.std).to(self.pos_embed.dtype)
        x = self.patch_embed(pixels.permute(0, 3, 1, 2)) + self.pos_embed
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        x = torch.cat([*(token.expand(len(x), -1, -1) for token in prefix), x], dim=1)
        for block in self.blocks:
            x = self.checkpointed(block, x)
        patches: Tensor = x[:, x.shape[1] - self.config.patches :]
        return patches


def _tokens(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(1, count, width) * 0.02)


class _PatchEmbedding(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, patches, width), row by row."""
        out: Tensor = self.proj(pixels)
        return out.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.attn = _Attention(config)
        self.ls1 = _LayerScale(config.width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.mlp = _FeedForward(config)
        self.ls2 = _LayerScale(config.width) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class _Attention(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same; every token sees every other."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (N, T, 3, heads, width / heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same; the exact GELU, in SigLIP too, as in timm."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class _LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> the same."""
        return x * self.gamma
