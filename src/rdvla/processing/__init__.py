"""From sensors to tensors and back: observations, images, normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.processing.images import ImageTransform, check_images, scale_pixels
    from rdvla.processing.normalization import Normalizer, Statistics
    from rdvla.processing.observation import Observation
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = ["ImageTransform", "Normalizer", "Observation", "Statistics", "check_images", "scale_pixels"]
