"""How long before its deadline an answer must be ready, learnt from what happens to answers afterwards."""

from __future__ import annotations

from collections import deque

import numpy as np

KEPT = 256  # measurements of each kind; older ones are forgotten
SHARE = 0.99  # of answers for which the margin should have been enough
LEAST, MOST = 0.001, 0.05  # seconds; a client that does not read its reply must not shorten all others' time


class Margin:
    """The time that passes between inference and the reply's way out; all times in seconds."""

    def __init__(self) -> None:
        self._handovers: deque[float] = deque(maxlen=KEPT)
        self._latenesses: deque[float] = deque(maxlen=KEPT)
        self._replies: deque[float] = deque(maxlen=KEPT)

    @property
    def seconds(self) -> float:
        """The margin: for handing over an answer, or for inference that is late, and for the reply."""
        return LEAST + max(_most(self._handovers), _most(self._latenesses)) + _most(self._replies)

    def add_handover(self, seconds: float) -> None:
        """Learn what a query took outside of inference: to the replica, and back to whoever asked."""
        self._handovers.append(seconds)

    def add_lateness(self, seconds: float) -> None:
        """Learn by how much an answer came after the time that inference was given; negative: before it."""
        self._latenesses.append(seconds)

    def add_reply(self, seconds: float) -> None:
        """Learn what packing and sending a reply took."""
        self._replies.append(seconds)


def _most(values: deque[float]) -> float:
    return float(np.clip(np.quantile(values, SHARE), 0.0, MOST)) if values else 0.0
