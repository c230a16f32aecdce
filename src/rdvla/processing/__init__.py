"""From sensors to tensors and back: observations, images, normalisation."""

from rdvla.processing.images import check_images
from rdvla.processing.normalization import Normalizer, Statistics
from rdvla.processing.observation import Observation

__all__ = ["Normalizer", "Observation", "Statistics", "check_images"]
