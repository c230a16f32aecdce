"""Matrix products of a few rows, as fast as the weights arrive from memory."""

from __future__ import annotations

from rdvla.head.skinny.head import skinny_copy
from rdvla.head.skinny.library import MOST_ROWS, available, build, register

__all__ = ["MOST_ROWS", "available", "build", "register", "skinny_copy"]
