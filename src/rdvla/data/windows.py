"""An order of frames in which only a few shards are needed at a time.

A shard is whatever has to be at hand as a whole, such as a video file. Uniform draws would touch most shards
in every batch. Here the shards follow each other in a random order, and each spreads its frames over the time
in which `window` shards are open: a new one opens when the oldest closes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT_EPOCHS = 2  # orders in memory: a batch may lie in two epochs


@dataclass(frozen=True)
class _Epoch:
    """One epoch's order.

    Attributes:
        items: (N,) numbers of the items, in their order.
        times: (N,) how many shards have closed before each.
        shards: (S,) the shards, in the order in which they open.
    """

    items: NDArray[np.int64]
    times: NDArray[np.int64]
    shards: NDArray[np.int64]


class WindowedOrder:
    """An endless order of N items, each once per epoch; every part of it follows from the seed alone.

    Attributes:
        window: shards that are open at a time.
    """

    def __init__(self, shards: NDArray[np.int64], *, window: int, seed: Sequence[int]) -> None:
        """Prepare an order; epochs are drawn when they are asked for.

        Args:
            shards: (N,) the shard that each item lies in, numbered from 0 without gaps.
            window: shards that are open at a time, at least 1; at most all of them are.
            seed: whole numbers that decide the order.
        """
        self._shards = shards
        self._count = int(shards.max()) + 1
        self._seed = tuple(seed)
        self._epochs: dict[int, _Epoch] = {}
        self.window = min(window, self._count)

    def __len__(self) -> int:
        return len(self._shards)

    def take(self, start: int, count: int) -> NDArray[np.int64]:
        """Return (count,) items from a position of the endless order on."""
        found: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        while count > 0:
            epoch, at = divmod(start, len(self))
            part = self._epoch(epoch).items[at : at + count]
            found.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(found)

    def open_at(self, position: int) -> list[int]:
        """Return the shards that are open at a position, the oldest first."""
        return self._opened(position, skip=0, count=self.window)

    def following(self, position: int, count: int) -> list[int]:
        """Return up to `count` shards that open next after a position; an epoch's last may be followed."""
        return self._opened(position, skip=self.window, count=count)

    def _opened(self, position: int, *, skip: int, count: int) -> list[int]:
        number, at = divmod(position, len(self))
        epoch = self._epoch(number)
        first = int(epoch.times[at]) + skip
        found: list[int] = epoch.shards[first : first + count].tolist()
        if skip and len(found) < count:
            found += self._epoch(number + 1).shards[: count - len(found)].tolist()
        return found

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            while len(self._epochs) >= KEPT_EPOCHS:
                self._epochs.pop(min(self._epochs))
            self._epochs[number] = self._drawn(number)
        return self._epochs[number]

    def _drawn(self, number: int) -> _Epoch:
        rng = np.random.default_rng((*self._seed, number))
        shards = rng.permutation(self._count)
        rank = np.empty(self._count, dtype=np.int64)
        rank[shards] = np.arange(self._count)
        # The shard of rank r opens at `opens` and closes at `closes`, so at each time in 0..last exactly
        # `window` shards are open, from the first batch to the last.
        last = self._count - self.window + 1
        opens = np.maximum(rank - self.window + 1, 0)[self._shards]
        closes = np.minimum(rank + 1, last)[self._shards]
        times = opens + rng.random(len(self)) * (closes - opens)
        items = np.argsort(times, kind="stable").astype(np.int64)
        whole = np.minimum(times[items].astype(np.int64), last - 1)
        return _Epoch(items, whole, shards.astype(np.int64))
