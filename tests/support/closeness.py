"""How far apart two computations of the same numbers may lie, derived from the arithmetic.

Equal bits are certain only between runs of the same code on the same shapes, on one processor. Another batch
size, a frozen weight or another instruction set lets a library add the terms of a product in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rdvla.control import NO_LIMIT, Stops, limits_of
from rdvla.engine import Engine
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.types import Trace, to_numpy


def rounding(terms: int, *, products: int = 1, dtype: torch.dtype = torch.float32) -> float:
    """Return how far apart two orders of computation may end, as a share of the values' size.

    A sum of n terms rounds n times, each time by at most eps / 2 of the partial sum. Either order is
    therefore off by at most n eps / 2, and the two differ by at most n eps. Errors of products that follow
    each other add up.

    Args:
        terms: n, of the longest sum.
        products: sums that follow each other on the way from input to output.
        dtype: the sums are kept in.
    """
    return terms * products * torch.finfo(dtype).eps


def assert_same_up_to_rounding(actual: Tensor, expected: Tensor, *, terms: int, products: int = 1) -> None:
    """Assert that `actual` could be `expected` computed in another order; see `rounding`."""
    size = float(expected.detach().abs().max())
    bound = rounding(terms, products=products, dtype=expected.dtype) * size
    torch.testing.assert_close(actual, expected, atol=bound, rtol=0)


Range = tuple[np.ndarray, np.ndarray]
COSINE_ROUNDING = rounding(16)  # of 1 - cos itself: sums in blocks of this many; the cosine is at most 1


def _action_range(change: np.ndarray, t: float) -> Range:
    root = np.sqrt(change)
    return np.maximum(root - 2 * t, 0) ** 2, (root + 2 * t) ** 2


def _latent_range(change: np.ndarray, t: float) -> Range:
    margin = 2 * t * (1 + change) / (1 - t)
    return change - margin, change + margin


def _cosine_range(change: np.ndarray, t: float) -> Range:
    angle, turn = np.arccos(np.clip(1 - change, -1, 1)), 2 * np.arcsin(t)
    low, high = np.maximum(angle - turn, 0), np.minimum(angle + turn, np.pi)
    return 1 - np.cos(low) - COSINE_ROUNDING, 1 - np.cos(high) + COSINE_ROUNDING


RANGES: dict[str, Callable[[np.ndarray, float], Range]] = {
    "action_change": _action_range,
    "latent_change": _latent_range,
    "cosine_change": _cosine_range,
}
"""Name in `rdvla.control.CHANGES` -> the range of changes that another computation may find."""


def assert_no_close_calls(
    trace: Trace, stop: Stops, *, tolerance: float, max_depth: int | Sequence[int] | None = None
) -> None:
    """Assert that every computation within `tolerance` of a traced one stops and converges where it does.

    Let t be the tolerance. If each action is off by at most t, the root of mean((a_k - a_{k-1})^2) is off by
    at most 2 t. If each state is off by at most t |S|, then |S_k - S_{k-1}| is off by at most
    t (|S_k| + |S_{k-1}|) <= t (2 + r) |S_k| for a latent change r, and |S_k| by a factor between 1 - t and
    1 + t. So r is off by at most 2 t (1 + r) / (1 - t). Each state turns by at most arcsin(t), so the angle
    between two of them changes by at most 2 arcsin(t).

    An iteration is a close call if another computation may find that all changes are below their limits, and
    may also find that they are not. Iterations after a sample's stop do not count.

    Args:
        trace: of a prediction that ran at least as deep as the rule.
        stop: a rule for all samples, or one per sample.
        tolerance: t. States that agree to `atol` have t = atol / (root mean square of their numbers).
        max_depth: as in `ActionHead.predict`.
    """
    changes = {name: to_numpy(change).astype(np.float64) for name, change in trace.changes.items()}  # (T, B)
    length, batch = next(iter(changes.values())).shape
    limits = limits_of(stop, batch_size=batch, max_depth=max_depth)
    for sample in range(batch):
        first, last = int(limits.min_depth[sample]), int(limits.max_depth[sample])
        below = {name: limit[sample] for name, limit in limits.below.items() if limit[sample] != NO_LIMIT}
        for depth in range(first, last + 1 if below else first):  # at the last one it converges or does not
            assert depth <= length, f"the trace ends before sample {sample} stops"
            found = {name: changes[name][depth - 1, sample] for name in below}
            assert np.isfinite(list(found.values())).all(), f"the trace of sample {sample} ends too early"
            ranges = {name: RANGES[name](found[name], tolerance) for name in below}
            if all(high < below[name] for name, (_, high) in ranges.items()):
                break
            assert any(low >= below[name] for name, (low, _) in ranges.items()), (
                f"sample {sample} may or may not stop at depth {depth}: {found} against {below}"
            )


def assert_stops_clearly(
    head: RecurrentDepthHead,
    context: Context,
    *,
    stop: Stops,
    initial_state: Tensor,
    tolerance: float,
    max_depth: int | Sequence[int] | None = None,
) -> None:
    """Trace a head, and assert that no sample's stop is a close call; see `assert_no_close_calls`."""
    traced = Engine(head).predict(
        context, stop=stop, max_depth=max_depth, initial_state=initial_state, trace=True
    )
    assert traced.trace is not None
    assert_no_close_calls(traced.trace, stop, tolerance=tolerance, max_depth=max_depth)


def assert_clear_winner(scores: Tensor, *, terms: int, products: int = 1) -> None:
    """Assert that rounding cannot change which of the last dimension's `scores` is the largest."""
    first, second = scores.topk(2, dim=-1).values.unbind(-1)
    bound = 2 * rounding(terms, products=products, dtype=scores.dtype) * float(scores.abs().max())
    assert float((first - second).min()) > bound, (
        "two scores lie too close to tell the larger on every machine"
    )
