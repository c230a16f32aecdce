"""Scripted experts: they read the simulator's privileged state and act through the ordinary actions."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Expert(Protocol):
    """Acts in one episode of one task."""

    def action(self, env: Any) -> NDArray[np.float32]:
        """Return the expert's action (A,) in [-1, 1] for the present state of `env`, its simulator's task."""
        ...


__all__ = ["Expert"]
