"""Backbones behind one small protocol, one folder a family.

Configurations are imported at once, because that registers their names. Code that needs torch is imported on
first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.backbone.compact.config import CompactConfig
from rdvla.backbone.config import BackboneConfig, LoraSettings
from rdvla.backbone.huggingface.config import HuggingFaceConfig
from rdvla.backbone.prismatic.config import LanguageConfig, PrismaticConfig, VisionTransformerConfig
from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.backbone.base import Backbone, Features, inside_image
    from rdvla.backbone.compact.backbone import CompactBackbone
    from rdvla.backbone.huggingface.backbone import HuggingFaceBackbone
    from rdvla.backbone.lora import is_lora
    from rdvla.backbone.prismatic.backbone import PrismaticBackbone
else:
    __getattr__, __dir__ = load_lazily(__name__)

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
    "inside_image",
    "is_lora",
]
