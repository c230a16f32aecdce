"""The paper's backbone: DINOv2 and SigLIP side by side, a projector, Qwen2.5."""

from __future__ import annotations

from rdvla.backbone.prismatic.backbone import PrismaticBackbone
from rdvla.backbone.prismatic.config import LanguageConfig, PrismaticConfig
from rdvla.backbone.prismatic.vision_transformer import VisionTransformerConfig

__all__ = ["LanguageConfig", "PrismaticBackbone", "PrismaticConfig", "VisionTransformerConfig"]
