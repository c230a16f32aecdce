"""Which action comes next: the chunk that runs, and how another takes over from it.

Time is counted in executed actions. A robot that holds stands still, so holding takes no time: a chunk that
was computed meanwhile still begins where it should.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdvla_client.blending import Blend


@dataclass(frozen=True)
class _Chunk:
    actions: NDArray[np.float32]  # (K, A)
    observed: int  # position of its first action: that of the observation
    horizon: int  # how many of its actions may be executed, those skipped included


class Plan:
    """The chunk that runs and the position in it; no clock, no network.

    Args:
        blend: how chunks overlap; None: a new one takes over at once.
        overrun: actions beyond the horizon that may be executed while there is no new chunk.
    """

    def __init__(self, blend: Blend | None, *, overrun: int = 0) -> None:
        self.position = 0  # actions executed so far
        self._blend = blend
        self._overrun = overrun
        self._chunk: _Chunk | None = None

    @property
    def remaining(self) -> int:
        """Actions left before the horizon."""
        chunk = self._chunk
        return 0 if chunk is None else max(0, chunk.observed + chunk.horizon - self.position)

    def accept(self, actions: NDArray[np.float32], *, observed: int, horizon: int) -> bool:
        """Let a chunk take over now; skip its actions for the steps that were executed meanwhile.

        Args:
            actions: (K, A).
            observed: `position` when its observation was taken.
            horizon: how many of the K actions may be executed.

        Returns:
            False if all of them are in the past, so nothing changes.
        """
        skipped = self.position - observed
        if skipped >= horizon:
            return False
        old = self._chunk
        if old is not None and self._blend is not None:
            rest = old.actions[self.position - old.observed :]
            actions = np.concatenate([actions[:skipped], self._blend.blend(rest, actions[skipped:])])
        self._chunk = _Chunk(actions, observed, horizon)
        return True

    def next(self) -> NDArray[np.float32] | None:
        """Return the next action, (A,), and count it as executed; None if none is left that may be."""
        chunk = self._chunk
        if chunk is None:
            return None
        index = self.position - chunk.observed
        if index >= min(chunk.horizon + self._overrun, len(chunk.actions)):
            return None
        action: NDArray[np.float32] = chunk.actions[index]
        self.position += 1
        return action

    def forget(self) -> None:
        """Drop the chunk that runs."""
        self._chunk = None
