"""Learns from measured batches how long another batch will take, by its size and depth."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rdvla.control.stop import LARGEST_DEPTH

KEPT = 16  # measurements of about the same batch size; older ones are forgotten
CAUTION = 0.95  # share of measured batches that took no longer than predicted with slack
TOWARDS_ZERO = 1e-3  # how strongly coefficients that the measurements leave open are held down


class BatchCosts:
    """A model of the time that batches take, fitted to those measured last.

        seconds = a + b * samples + c * depth + d * sample iterations

    All four coefficients are at least 0. Depth is the batch's largest; sample iterations are the sum of all
    its depths, as samples that have stopped cost nothing more. Every range of batch sizes, by powers of two,
    has measurements of its own, so a large batch is remembered while small ones come.
    """

    def __init__(self) -> None:
        self._measured: dict[int, deque[tuple[float, ...]]] = {}  # of the features, and seconds
        self._fit: NDArray[np.float64] | None = None
        self._slack = 1.0

    @property
    def known(self) -> bool:
        """Whether a batch has been measured; without one every prediction is 0."""
        return bool(self._measured)

    def add(self, depths: Sequence[int], seconds: float) -> None:
        """Learn from a batch.

        Args:
            depths: iterations of its samples, in any order.
            seconds: that it took.
        """
        if not depths or seconds <= 0:
            return
        size = len(depths)
        window = self._measured.setdefault(size.bit_length(), deque(maxlen=KEPT))
        window.append((1.0, size, max(depths), sum(depths), seconds))
        self._fit = None

    def seconds(self, samples: int, depth: float) -> float:
        """Return how long a batch will take at most, about, if all its samples run to a depth."""
        fit = self._fitted()
        return self._slack * float(fit @ np.array([1.0, samples, depth, samples * depth]))

    def depth_within(self, seconds: float, *, samples: int) -> int:
        """Return the largest depth that such a batch reaches in the time; at least 1.

        It is `LARGEST_DEPTH` before batches of several depths are measured.
        """
        at_zero, at_one = self.seconds(samples, 0), self.seconds(samples, 1)
        if at_one <= at_zero:
            return LARGEST_DEPTH
        return int(max(1, min((seconds - at_zero) / (at_one - at_zero), LARGEST_DEPTH)))

    def _fitted(self) -> NDArray[np.float64]:
        if self._fit is None:
            rows = np.array([row for window in self._measured.values() for row in window]).reshape(-1, 5)
            self._fit, self._slack = _fit(rows[:, :4], rows[:, 4])
        return self._fit


def _fit(features: NDArray[np.float64], seconds: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return coefficients of at least 0 with small relative errors, and a factor that covers most errors."""
    fit = np.zeros(4)
    if not len(seconds):
        return fit, 1.0
    relative, used = features / seconds[:, None], [0, 1, 2, 3]
    hold = TOWARDS_ZERO * np.linalg.norm(relative, axis=0)
    while used:
        # Columns of unit length: what cannot be told apart shares the time equally.
        a = np.vstack([relative[:, used], np.diag(hold[used])])
        scale = np.linalg.norm(a, axis=0)
        found = np.linalg.lstsq(a / scale, np.r_[np.ones(len(seconds)), np.zeros(len(used))], rcond=None)[0]
        found = found / scale
        if (found >= 0).all():
            fit[used] = found
            break
        used.pop(int(np.argmin(found * scale)))
    return fit, max(1.0, float(np.quantile(1 / np.maximum(relative @ fit, 1e-9), CAUTION)))
