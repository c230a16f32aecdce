"""From sensors to tensors and back: images, text and normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.processing.images import ImageTransform, scale_pixels
    from rdvla.processing.normalization import Normalizer, Statistics, policy_normalizers
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = ["ImageTransform", "Normalizer", "Statistics", "policy_normalizers", "scale_pixels"]
