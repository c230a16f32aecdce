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


def assert_no_close_call(values: Tensor, threshold: float, *, terms: int, products: int = 1) -> None:
    """Assert that rounding cannot move any of `values` across `threshold`.

    A test that expects two orders of computation to decide alike holds on every processor only then.
    """
    nearest = float((values / threshold - 1).abs().min())
    bound = rounding(terms, products=products, dtype=values.dtype)
    assert nearest > bound, (
        f"a value lies {nearest:.1e} from the threshold, rounding may move it by {bound:.1e}"
    )
