"""Chunks in flight, one a sample of a batch of robots. Imports no torch: arrays of numpy serve as well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from rdvla.errors import InputError

Action = TypeVar("Action")


class ActionQueue(Generic[Action]):
    """Holds the actions that are still to be executed, for every sample by itself."""

    def __init__(self) -> None:
        self._chunks: list[list[Action]] = []

    def empty_rows(self, batch_size: int) -> list[int]:
        """Which samples have no action left.

        Raises:
            InputError: the batch has another size than before.
        """
        if not self._chunks:
            self._chunks = [[] for _ in range(batch_size)]
        if len(self._chunks) != batch_size:
            raise InputError(
                f"the batch had {len(self._chunks)} samples and now has {batch_size}: "
                "reset() the policy in between"
            )
        return [row for row, chunk in enumerate(self._chunks) if not chunk]

    def refill(
        self, rows: Sequence[int], actions: Iterable[Iterable[Action]], horizon: Sequence[int]
    ) -> None:
        """Take the first actions of a chunk for each of the given samples.

        Args:
            rows: n samples.
            actions: (n, K, A).
            horizon: how many of the K to take, for each of the n.
        """
        for row, chunk, count in zip(rows, actions, horizon, strict=True):
            self._chunks[row] = list(chunk)[:count]

    def pop(self) -> list[Action]:
        """The next action of every sample, B of (A,)."""
        return [chunk.pop(0) for chunk in self._chunks]
