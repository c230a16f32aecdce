"""How many queries share a batch."""

from __future__ import annotations

from collections.abc import Sequence

from rdvla.control import BatchCosts

IN_TIME_BUT_SHALLOW = 0.5  # worth of an answer in time after one iteration, next to one of the usual depth


def best_size(left: Sequence[float], *, costs: BatchCosts, usual: float) -> int:
    """Return how many queries of a queue should share a batch: as many in time per second as possible.

    Only keeping the tightest deadline would make batches small just when many wait, and all late.

    Args:
        left: seconds to each query's deadline, in the order of the queue; infinite without one.
        costs: what batches take, known already.
        usual: depth of a query that no deadline ends.
    """

    def in_time_per_second(size: int) -> float:
        complete, shortest = costs.seconds(size, usual), costs.seconds(size, 1)
        in_time = sum(
            1.0 if complete <= each else IN_TIME_BUT_SHALLOW if shortest <= each else 0.0
            for each in left[:size]
        )
        return in_time / complete

    return max(range(len(left), 0, -1), key=in_time_per_second)  # the largest of equals
