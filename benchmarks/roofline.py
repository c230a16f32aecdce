"""The least time of an iteration: the data it must move and the products it must compute, on this machine.

Counts follow from the sizes alone. The machine's limits are measured: memory bandwidth by the sum of a buffer
far larger than any cache, arithmetic by a product of large matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rdvla.heads import RecurrentConfig

BUFFER = 2**28  # float32 numbers, 1 GiB
SIDE = 1536  # of matrices whose product is bound by arithmetic


@dataclass(frozen=True)
class Bytes:
    """Bytes per number, as a path stores it."""

    weight: float = 4
    context: float = 4  # keys and values


FLOAT32 = Bytes()


@dataclass(frozen=True)
class Work:
    """Bytes to read, and multiply-adds to compute."""

    bytes: float
    multiplications: float


@dataclass(frozen=True)
class Limits:
    """The machine's speeds at torch's present number of threads."""

    bytes_per_second: float
    multiplications_per_second: float  # float32

    def milliseconds(self, work: Work, *, float32: bool) -> float:
        """Return the least time of some work: to move it or to compute it, whichever takes longer.

        Args:
            work: bytes and multiplications.
            float32: whether it is computed in float32. The limit on computing narrower numbers is not
                measured, so only moving counts for them.
        """
        moving = work.bytes / self.bytes_per_second
        computing = work.multiplications / self.multiplications_per_second
        return 1000 * (max(moving, computing) if float32 else moving)


def iteration(config: RecurrentConfig, *, tokens: int, number: Bytes = FLOAT32) -> Work:
    """Count one iteration of the core for one sample: weights, keys and values are read once each.

    Args:
        config: of the head.
        tokens: L + 1 + M, in the context.
        number: bytes of a weight, and of a key or value.
    """
    width, chunk, blocks = config.hidden_dim, config.chunk_size, len(config.core)
    weights = blocks * block_weights(config) + width**2  # and the state's half of the adapter
    attention = blocks * 2 * tokens * width
    products = chunk * (weights + attention) + blocks * 2 * chunk**2 * width
    return Work(bytes=number.weight * weights + number.context * attention, multiplications=products)


def block_weights(config: RecurrentConfig) -> int:
    """Count the weights of a block that an iteration reads, without the context's projections."""
    return (4 + 2 + 3 * config.feedforward_multiple) * config.hidden_dim**2


def measure_limits() -> Limits:
    """Measure memory bandwidth and float32 arithmetic, each the best of several tries."""
    buffer = torch.ones(BUFFER)
    left, right = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    return Limits(
        bytes_per_second=4 * BUFFER / _best(lambda: buffer.sum()),
        multiplications_per_second=SIDE**3 / _best(lambda: left @ right),
    )


def _best(run: Callable[[], object], tries: int = 7) -> float:
    """Return the seconds of the fastest try, since a limit is what the machine can do at best."""
    run()
    seconds = []
    for _ in range(tries):
        before = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - before)
    return min(seconds)


def possible(
    config: RecurrentConfig, *, tokens: int, iteration_ms: Mapping[str, float], numbers: Mapping[str, Bytes]
) -> dict[str, Any]:
    """Compare each path's iteration with the least time that this machine needs for it.

    Args:
        config: of the head.
        tokens: L + 1 + M, in the context.
        iteration_ms: path -> measured milliseconds.
        numbers: path -> bytes per number.
    """
    limits = measure_limits()
    rows = []
    for path, spent in iteration_ms.items():
        work = iteration(config, tokens=tokens, number=numbers[path])
        least = limits.milliseconds(work, float32=numbers[path] == FLOAT32)
        rows.append(
            {
                "path": path,
                "iteration_ms": spent,
                "least_ms": least,
                "achieved": least / spent,
                "mib": work.bytes / 2**20,
                "million_multiplications": work.multiplications / 1e6,
            }
        )
        print(
            f"an iteration, {path}: {spent:.1f} ms; {work.bytes / 2**20:.0f} MiB and "
            f"{work.multiplications / 1e6:.0f} M multiplications need {least:.1f} ms: "
            f"{100 * least / spent:.0f}% of what is possible"
        )
    return {
        "method": "least time: the longer of reading weights, keys and values once at the bandwidth of "
        "summing 1 GiB, and in float32 of the multiplications at the speed of a large product; same run",
        "gib_per_second": limits.bytes_per_second / 2**30,
        "gigamultiplications_per_second": limits.multiplications_per_second / 1e9,
        "rows": rows,
    }
