"""How long to wait before each further attempt to reach a server."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Delays between attempts: each twice the last up to a bound, and none exact.

    The random share keeps many robots from returning to a restarted server in the same second.
    """

    first_s: float = 0.1  # before the second attempt
    longest_s: float = 5.0
    jitter: float = 0.5  # share of a delay that is drawn at random, 0 to 1

    def __post_init__(self) -> None:
        if not (0 < self.first_s <= self.longest_s and 0 <= self.jitter <= 1):
            raise ValueError(f"a backoff has 0 < first_s <= longest_s and a jitter from 0 to 1, got {self}")

    def delays(self, generator: random.Random | None = None) -> Iterator[float]:
        """Yield the delays in seconds, without end."""
        generator = generator or random.Random()
        delay = self.first_s
        while True:
            yield delay * (1 - self.jitter * generator.random())
            delay = min(2 * delay, self.longest_s)
