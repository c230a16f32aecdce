"""Backbones behind one small protocol, one folder a family."""

from __future__ import annotations

from rdvla.backbone.base import Backbone, BackboneConfig, Features
from rdvla.backbone.compact import CompactBackbone, CompactConfig
from rdvla.backbone.huggingface import HuggingFaceBackbone, HuggingFaceConfig
from rdvla.backbone.lora import LoraSettings, is_lora
from rdvla.backbone.prismatic import (
    LanguageConfig,
    PrismaticBackbone,
    PrismaticConfig,
    VisionTransformerConfig,
)

__all__ = [
    "Backbone",
    "BackboneConfig",
    "CompactBackbone",
    "CompactConfig",
    "Features",
    "HuggingFaceBackbone",
    "HuggingFaceConfig",
    "LanguageConfig",
    "LoraSettings",
    "PrismaticBackbone",
    "PrismaticConfig",
    "VisionTransformerConfig",
    "is_lora",
    "make_backbone",
]


def make_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that a configuration describes."""
    if isinstance(config, CompactConfig):
        return CompactBackbone(config)
    if isinstance(config, HuggingFaceConfig):
        return HuggingFaceBackbone(config)
    if isinstance(config, PrismaticConfig):
        return PrismaticBackbone(config)
    raise TypeError(f"there is no backbone for {type(config).__name__}")
