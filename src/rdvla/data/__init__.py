"""Demonstrations on disk: LeRobot v3.0 datasets in and out, train/validation split, caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.data.cache import FeatureCache
    from rdvla.data.dataset import EpisodeDataset
    from rdvla.data.episode import Episode
    from rdvla.data.image_cache import ImageCache
    from rdvla.data.split import split_episodes
    from rdvla.data.writer import DatasetWriter
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="data")

__all__ = ["DatasetWriter", "Episode", "EpisodeDataset", "FeatureCache", "ImageCache", "split_episodes"]
