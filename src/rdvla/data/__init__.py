"""Demonstrations on disk: datasets in several formats read as one, demonstrations written, caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.data.dataset import EpisodeDataset, split_episodes
    from rdvla.data.episode import Episode
    from rdvla.data.feature_cache import FeatureCache
    from rdvla.data.formats.lerobot_v3.writer import DatasetWriter
    from rdvla.data.image_cache import ImageCache
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="data")

__all__ = ["DatasetWriter", "Episode", "EpisodeDataset", "FeatureCache", "ImageCache", "split_episodes"]
