"""Any vision-language model of transformers that yields hidden states over images and text."""

from __future__ import annotations

from rdvla.backbone.huggingface.backbone import HuggingFaceBackbone, HuggingFaceConfig

__all__ = ["HuggingFaceBackbone", "HuggingFaceConfig"]
