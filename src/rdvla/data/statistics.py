"""Statistics in LeRobot's form: min, max, mean, std, count and the quantiles q01, q10, q50, q90, q99.

Source: LeRobot, `src/lerobot/datasets/compute_stats.py`. Numeric features have one value per dimension.
Images have one value per channel, shape (3, 1, 1), in 0..1, from images sampled over the episode. LeRobot
estimates quantiles with a histogram; these are exact over the given values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
MAX_IMAGE_SAMPLES = 100  # even
MAX_IMAGE_SIDE = 150  # larger images are thinned out before counting, as LeRobot does

Statistics = dict[str, NDArray[np.float64]]


def feature_statistics(values: NDArray[Any]) -> Statistics:
    """Compute the statistics of a numeric feature.

    Args:
        values: (T, size).

    Returns:
        each of shape (size,), and "count" of shape (1,).
    """
    array = values.astype(np.float64)
    return _summary(array, count=len(array))


class ImageSample:
    """Evenly spaced images of an episode of unknown length, of which it holds `MAX_IMAGE_SAMPLES` at most."""

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []
        self._every = 1
        self._seen = 0

    def add(self, image: NDArray[np.uint8]) -> None:
        """Take the next image, (H, W, 3)."""
        if self._seen % self._every == 0:
            if len(self._kept) == MAX_IMAGE_SAMPLES:
                self._kept, self._every = self._kept[::2], 2 * self._every
            step = max(1, max(image.shape[:2]) // MAX_IMAGE_SIDE)
            self._kept.append(image[::step, ::step].copy())
        self._seen += 1

    def statistics(self) -> Statistics:
        """Compute the statistics per channel.

        Returns:
            each of shape (3, 1, 1) in 0..1, and "count" of shape (1,), the number of sampled images.
        """
        pixels = np.stack(self._kept).reshape(-1, 3)
        summary = _summary_of_bytes(pixels, count=len(self._kept))
        return {name: v if name == "count" else v.reshape(-1, 1, 1) / 255.0 for name, v in summary.items()}


def combine(entries: Sequence[Statistics]) -> Statistics:
    """Combine the statistics of several episodes as LeRobot's `aggregate_feature_stats` does.

    Mean and standard deviation are exact for all values together; quantiles are means weighted by count.
    """
    counts = np.concatenate([entry["count"] for entry in entries])
    weights = (counts / counts.sum()).reshape(-1, *[1] * entries[0]["mean"].ndim)
    mean = (np.stack([entry["mean"] for entry in entries]) * weights).sum(axis=0)
    spread = np.stack([entry["std"] ** 2 + (entry["mean"] - mean) ** 2 for entry in entries])
    combined = {
        "min": np.min([entry["min"] for entry in entries], axis=0),
        "max": np.max([entry["max"] for entry in entries], axis=0),
        "mean": mean,
        "std": np.sqrt((spread * weights).sum(axis=0)),
        "count": np.array([counts.sum()]),
    }
    quantiles = [name for name in QUANTILES if all(name in entry for entry in entries)]
    return combined | {
        name: (np.stack([entry[name] for entry in entries]) * weights).sum(axis=0) for name in quantiles
    }


def as_json(statistics: Statistics) -> dict[str, Any]:
    """Return statistics as nested lists."""
    return {name: value.tolist() for name, value in statistics.items()}


def from_json(statistics: dict[str, Any]) -> Statistics:
    """Return nested lists as arrays."""
    return {name: np.asarray(value, dtype=np.float64) for name, value in statistics.items()}


def _summary(array: NDArray[np.float64], *, count: int) -> Statistics:
    summary = {
        "min": array.min(axis=0),
        "max": array.max(axis=0),
        "mean": array.mean(axis=0),
        "std": array.std(axis=0),
        "count": np.array([count]),
    }
    quantiles = np.quantile(array, list(QUANTILES.values()), axis=0)
    return summary | dict(zip(QUANTILES, quantiles, strict=True))


def _summary_of_bytes(pixels: NDArray[np.uint8], *, count: int) -> Statistics:
    """Summarise (P, C) bytes through one histogram per channel: P is millions, the levels are 256."""
    levels = np.arange(256, dtype=np.float64)
    columns: list[Statistics] = []
    for channel in pixels.T:
        histogram = np.bincount(channel, minlength=256)
        present = np.flatnonzero(histogram)
        mean = (levels * histogram).sum() / len(channel)
        deviation = np.sqrt(((levels - mean) ** 2 * histogram).sum() / len(channel))
        reached = np.searchsorted(np.cumsum(histogram), [q * len(channel) for q in QUANTILES.values()])
        values = {"min": present[0], "max": present[-1], "mean": mean, "std": deviation}
        values |= dict(zip(QUANTILES, reached, strict=True))
        columns.append({name: np.asarray(value, dtype=np.float64) for name, value in values.items()})
    summary = {name: np.stack([column[name] for column in columns]) for name in columns[0]}
    return summary | {"count": np.array([count])}
