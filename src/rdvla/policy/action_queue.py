"""Chunks in flight, one a sample of a batch of robots."""

from __future__ import annotations

import torch
from torch import Tensor


class ActionQueue:
    """Holds the actions that are still to be executed, for every sample by itself."""

    def __init__(self) -> None:
        self._chunks: list[list[Tensor]] = []

    def empty_rows(self, batch_size: int) -> list[int]:
        """Which samples have no action left.

        Raises:
            ValueError: the batch has another size than before.
        """
        if not self._chunks:
            self._chunks = [[] for _ in range(batch_size)]
        if len(self._chunks) != batch_size:
            raise ValueError(
                f"the batch had {len(self._chunks)} samples and now has {batch_size}: "
                "reset() the policy in between"
            )
        return [row for row, chunk in enumerate(self._chunks) if not chunk]

    def refill(self, rows: list[int], actions: Tensor, horizon: Tensor) -> None:
        """Take the first actions of a chunk for each of the given samples.

        Args:
            rows: n samples.
            actions: (n, K, A).
            horizon: (n,) how many of the K to take.
        """
        for row, chunk, count in zip(rows, actions, horizon.tolist(), strict=True):
            self._chunks[row] = list(chunk[:count])

    def pop(self) -> Tensor:
        """The next action of every sample, (B, A)."""
        return torch.stack([chunk.pop(0) for chunk in self._chunks])
