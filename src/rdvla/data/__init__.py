"""Demonstrations on disk: LeRobot v3.0 datasets in and out, train/validation split, caches."""

from rdvla.data.cache import FeatureCache
from rdvla.data.dataset import EpisodeDataset
from rdvla.data.episode import Episode
from rdvla.data.image_cache import ImageCache
from rdvla.data.split import split_episodes
from rdvla.data.writer import DatasetWriter

__all__ = ["DatasetWriter", "Episode", "EpisodeDataset", "FeatureCache", "ImageCache", "split_episodes"]
