"""The small backbone, trained from scratch on a CPU, or on frozen published encoders."""

from __future__ import annotations

from rdvla.backbone.compact.backbone import CompactBackbone, CompactConfig

__all__ = ["CompactBackbone", "CompactConfig"]
