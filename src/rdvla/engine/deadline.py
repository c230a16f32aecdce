"""Stops samples before their time is up, by what the iterations just run have cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Clock = Callable[[], float]  # seconds, as deadlines are given


class Timekeeper:
    """Knows the time, and remembers between queries what decoding costs.

    Args:
        clock: tells the time in seconds; the one that deadlines refer to.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._decoding: dict[int, float] = {}  # seconds by batch size, in powers of two

    def start(self, deadlines: Sequence[float], *, device: torch.device) -> Watch:
        """Begin to watch the iterations of a query, whose samples have these deadlines."""
        synchronise(device)
        return Watch(self, deadlines)

    def decoding(self, batch_size: int) -> float | None:
        """Return what the coda took for the most similar batch; None before it has run."""
        wanted = batch_size.bit_length()
        nearest = min(self._decoding, key=lambda known: abs(known - wanted), default=None)
        return None if nearest is None else self._decoding[nearest]

    def learn_decoding(self, batch_size: int, seconds: float) -> None:
        """Learn what the coda took for a batch."""
        self._decoding[batch_size.bit_length()] = seconds


class Watch:
    """Measures the iterations of one query, and tells which samples should end now."""

    def __init__(self, keeper: Timekeeper, deadlines: Sequence[float]) -> None:
        self._keeper = keeper
        self._deadlines = deadlines
        self._began = self._last = keeper.clock()
        self._depth = 0  # iterations measured
        self._iteration = 0.0  # seconds that one takes

    def late(self, samples: Tensor, *, depth: int, ahead: int, decode: bool) -> Tensor:
        """Return a mask of the samples that would be late if they went on, (n,) bool.

        Waits for an accelerator to finish the iterations so far.

        Args:
            samples: (n,) their numbers in the batch.
            depth: iterations so far, more than at the last call.
            ahead: iterations that would run before the next call.
            decode: whether the coda would still have to run after them.
        """
        synchronise(samples.device)
        now = self._keeper.clock()
        latest, mean = (now - self._last) / (depth - self._depth), (now - self._began) / depth
        self._iteration, self._last, self._depth = max(latest, mean), now, depth
        ready = now + ahead * self._iteration
        if decode:
            known = self._keeper.decoding(len(samples))
            ready += self._iteration if known is None else known
        late = [ready > self._deadlines[sample] for sample in samples.tolist()]
        return torch.tensor(late, dtype=torch.bool, device=samples.device)

    def timed(self, decode: Callable[[Tensor, T], Tensor]) -> Callable[[Tensor, T], Tensor]:
        """Return the coda as it is, except that it tells the timekeeper what it costs."""

        def run(state: Tensor, encoded: T) -> Tensor:
            began = self._keeper.clock()
            actions = decode(state, encoded)
            synchronise(actions.device)
            self._keeper.learn_decoding(len(state), self._keeper.clock() - began)
            return actions

        return run


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
