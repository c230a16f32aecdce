"""Backbones behind one small protocol, one file a family."""

from __future__ import annotations

from rdvla.backbone.base import Backbone, BackboneConfig, Features
from rdvla.backbone.compact import CompactBackbone, CompactConfig
from rdvla.backbone.huggingface import HuggingFaceBackbone, HuggingFaceConfig
from rdvla.backbone.lora import LoraSettings, is_lora

__all__ = [
    "Backbone",
    "BackboneConfig",
    "CompactBackbone",
    "CompactConfig",
    "Features",
    "HuggingFaceBackbone",
    "HuggingFaceConfig",
    "LoraSettings",
    "is_lora",
    "make_backbone",
]


def make_backbone(config: BackboneConfig) -> Backbone:
    """The backbone that a configuration describes."""
    if isinstance(config, CompactConfig):
        return CompactBackbone(config)
    if isinstance(config, HuggingFaceConfig):
        return HuggingFaceBackbone(config)
    raise TypeError(f"there is no backbone for {type(config).__name__}")
