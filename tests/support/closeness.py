"""How far apart two computations of the same numbers may lie, derived from the arithmetic.

Equal bits are certain only between runs of the same code on the same shapes, on one processor. Another batch
size, a frozen weight or another instruction set lets a library add the terms of a product in another order.
"""

from __future__ import annotations

import torch
from torch import Tensor


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


def assert_no_close_call(changes: Tensor, threshold: float, *, tolerance: float) -> None:
    """Assert that every computation within `tolerance` stops at the same iteration under the paper's rule.

    If each action is off by at most `tolerance`, the root of mean((a_k - a_{k-1})^2) is off by at most twice
    that. Expect two orders of computation to decide alike only if no change lies that close to the threshold.

    Args:
        changes: mean((a_k - a_{k-1})^2), by iteration and sample; NaN where there is none.
        threshold: of the rule.
        tolerance: how far apart the actions may lie.
    """
    roots = changes[~changes.isnan()].sqrt()
    nearest = float((roots - threshold**0.5).abs().min())
    assert nearest > 2 * tolerance, f"a change lies within {nearest:.1e} of the threshold's root"


def assert_clear_winner(scores: Tensor, *, terms: int, products: int = 1) -> None:
    """Assert that rounding cannot change which of the last dimension's `scores` is the largest."""
    first, second = scores.topk(2, dim=-1).values.unbind(-1)
    bound = 2 * rounding(terms, products=products, dtype=scores.dtype) * float(scores.abs().max())
    assert float((first - second).min()) > bound, (
        "two scores lie too close to tell the larger on every machine"
    )
