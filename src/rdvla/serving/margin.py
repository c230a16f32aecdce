"""How long before its deadline an answer must be ready, learnt from what happens to answers afterwards."""

from __future__ import annotations

from collections import deque

import numpy as np

KEPT = 256  # measurements; older ones are forgotten
SHARE = 0.99  # of answers for which the margin should have been enough
FIRST = 0.002  # seconds, before anything is measured


class Margin:
    """The time that passes between inference and the reply's way out; times in seconds."""

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=KEPT)
        self._late: deque[float] = deque(maxlen=KEPT)
        self._replies: deque[float] = deque(maxlen=KEPT)

    @property
    def seconds(self) -> float:
        """The margin: what handing over an answer takes, or by how much inference is late, and the reply."""
        if not self._before:
            return FIRST
        return max(_most(self._before), _most(self._late)) + _most(self._replies)

    def add_handover(self, seconds: float) -> None:
        """Learn what a query took outside of inference: to the replica, and back to whoever asked."""
        self._before.append(max(0.0, seconds))

    def add_lateness(self, seconds: float) -> None:
        """Learn by how much an answer came after the time that inference was given; negative: before it."""
        self._late.append(max(0.0, seconds))

    def add_reply(self, seconds: float) -> None:
        """Learn what packing and sending a reply took."""
        self._replies.append(max(0.0, seconds))


def _most(values: deque[float]) -> float:
    return float(np.quantile(values, SHARE)) if values else 0.0
