"""Matrix-vector products: products of a few rows, as fast as the weights arrive from memory."""

from __future__ import annotations

from rdvla.engine.gemv.library import MAX_ROWS, available, build, register
from rdvla.engine.gemv.linear import gemv_copy

__all__ = ["MAX_ROWS", "available", "build", "gemv_copy", "register"]
